"""How large a report of many images is, and what each part of it takes.

    python benchmarks/report_size.py [--rows 10000] [--classes 10] [--alone]

Images and probabilities are made up; the page is written by `report` as for any run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from loupe.predictions import Predictions, write_predictions
from loupe.recipe import Recipe
from loupe.reporting import report
from loupe.runs import Run, create_run
from loupe.scoring import finish_run
from loupe.table import Table

FOLDS = 5
SIDE = 256
RESULTS = Path(__file__).parent / "results"


def make_run(folder: Path, rows: int, classes: int, *, exclusive: bool) -> Run:
    """Write images of noise, and a run with held-out probabilities that are mostly right."""
    rng = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir()
    names = [f"part_{row:06}.jpg" for row in range(rows)]

    def draw(row: int) -> None:
        own = np.random.default_rng(row)
        coarse = own.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(images / names[row]), pixels)

    with ThreadPoolExecutor() as pool:
        list(pool.map(draw, range(rows)))
    if exclusive:
        targets = np.eye(classes, dtype=np.float32)[rng.integers(0, classes, rows)]
        logits = 3 * targets + rng.normal(0, 1, targets.shape)
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    else:
        targets = (rng.random((rows, classes)) < 0.1).astype(np.float32)
        probs = 1 / (1 + np.exp(-(4 * targets - 3 + rng.normal(0, 1, targets.shape))))
    table = Table(
        ids=tuple(names),
        images=tuple(images / name for name in names),
        classes=tuple(f"class {number:02}" for number in range(classes)),
        targets=targets,
        exclusive=exclusive,
        groups=tuple(names),
        folds=(np.arange(rows) % FOLDS).astype(np.int16),
    )
    recipe = Recipe.model_validate({"stages": [{"train": "head", "views": ["identity"]}]})
    run = create_run(folder / "run", table, {"head": recipe})
    for fold in range(FOLDS):
        held = np.flatnonzero(np.arange(rows) % FOLDS == fold)
        sheet = Predictions(
            ids=tuple(names[row] for row in held),
            classes=table.classes,
            probs=probs[held].astype(np.float32),
            exclusive=exclusive,
            held_out=np.ones(len(held), np.bool_),
        )
        path = run.member("head").fold(fold).predictions
        path.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(path, {"head": sheet}, targets[held])
    finish_run(run, table, 0.0)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--alone", action="store_true", help="Classes that stand alone.")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        run = make_run(Path(folder), given.rows, given.classes, exclusive=not given.alone)
        begun, load = time.perf_counter(), os.getloadavg()[0]
        # There are no networks, hence no maps; 24 maps take the same time for any number of rows.
        made = report(run, maps=False)
        seconds = time.perf_counter() - begun
        files = sum(path.stat().st_size for path in made.figures.iterdir())
        result = {
            "rows": given.rows,
            "classes": given.classes,
            "exclusive": not given.alone,
            "page_mb": round(made.size / 1e6, 2),
            "figures_mb": round(files / 1e6, 2),
            "seconds": round(seconds, 1),
            "check_and_reading_s": round(seconds - sum(made.seconds.values()), 1),
            "parts_s": {key: round(value, 2) for key, value in made.seconds.items()},
            "sections": [section.key for section in made.sections],
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "load_before": round(load, 2),
        }
    kind = "alone" if given.alone else "exclusive"
    day = time.strftime("%Y-%m-%d-%H-%M")
    name = f"report-simulated-{given.rows}-rows-{given.classes}-{kind}__{day}.json"
    (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
