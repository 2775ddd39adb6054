"""Run-length text of masks against pycocotools, both directions, on full-size masks.

    python -m benchmarks.run_lengths [--size 1400x2100] [--rounds 15] [--batch 8] [--out FILE.json]

Needs pycocotools, which Loupe does not depend on: `pip install pycocotools` into an environment
of your own, and set `PYTHONPATH=src` there. One process, one thread.

The sides take turns (A B A B ...) on the same mask and the ratio is taken within each round, so
that a busy machine meets both; shown are its median, its quartiles and the fastest time of each.
Ratio above 1: Loupe is faster. Loupe's text is the decimal "start length" of submissions;
pycocotools' is its compressed string. Two starting points are shown for encoding: an image as
everyone has it (by rows; pycocotools then needs `asfortranarray`, which is counted), and a mask
that lies by columns already.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from loupe.cocomasks import decode_coco, encode_coco
from loupe.maskruns import fill_runs, find_runs
from loupe.masks import decode_rle, encode_rle, read_runs, spell_runs

try:
    from pycocotools import mask as coco
except ImportError:
    coco = None


def main(arguments: Sequence[str] | None = None) -> None:
    args = read_arguments(arguments)
    if coco is None:
        sys.exit(f"pycocotools is not installed.\n\n{__doc__}")
    height, width = (int(part) for part in args.size.split("x"))
    rows: list[dict[str, Any]] = []
    for kind, make in KINDS.items():
        rng = np.random.default_rng(args.seed)
        masks = [make(height, width, rng) for _ in range(args.batch)]
        rows += compare_one(kind, masks[0], args.rounds)
        rows += compare_batch(kind, masks, max(3, args.rounds // 3))
        rows += measure_parts(kind, masks[0], args.rounds)
    if args.out:
        result = {
            "benchmark": "run-lengths",
            "size": [height, width],
            "rounds": args.rounds,
            "batch": args.batch,
            "machine": platform.processor() or platform.machine(),
            "versions": {"python": platform.python_version(), "numpy": np.__version__},
            "rows": rows,
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--size", default="1400x2100")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(arguments)


def draw_blobs(height: int, width: int, rng: np.random.Generator) -> Any:
    mask = np.zeros((height, width), np.uint8)
    for _ in range(6):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(width // 50, width // 7)), int(rng.integers(2, height // 7)))
        cv2.ellipse(mask, centre, axes, float(rng.integers(180)), 0, 360, 1, -1)
    return mask


def draw_cracks(height: int, width: int, rng: np.random.Generator) -> Any:
    mask = np.zeros((height, width), np.uint8)
    for _ in range(5):
        steps = rng.normal(0, 25, (80, 2)) + rng.normal(0, 12, 2)
        points = np.cumsum(steps, axis=0) + rng.random(2) * (width, height)
        cv2.polylines(mask, [points.astype(np.int32)], False, 1, 3)
    return mask


def draw_rectangles(height: int, width: int, rng: np.random.Generator) -> Any:
    mask = np.zeros((height, width), np.uint8)
    for _ in range(4):
        top, left = int(rng.integers(height * 2 // 3)), int(rng.integers(width * 2 // 3))
        down, along = rng.integers(height // 7, height // 3), rng.integers(width // 7, width // 3)
        mask[top : top + down, left : left + along] = 1
    return mask


def draw_speckle(height: int, width: int, rng: np.random.Generator) -> Any:
    """Blobs and 1 % of lone pixels: a threshold without cleaning."""
    return draw_blobs(height, width, rng) ^ (rng.random((height, width)) < 0.01)


def draw_noise(height: int, width: int, rng: np.random.Generator) -> Any:
    """Half of all pixels at random: no mask looks so, and nothing is harder."""
    return (rng.random((height, width)) < 0.5).astype(np.uint8)


KINDS: dict[str, Callable[[int, int, np.random.Generator], Any]] = {
    "blobs": draw_blobs,
    "cracks": draw_cracks,
    "rectangles": draw_rectangles,
    "speckle": draw_speckle,
    "noise": draw_noise,
}


def compare_one(kind: str, mask: Any, rounds: int) -> list[dict[str, Any]]:
    height, width = mask.shape
    turned = np.asfortranarray(mask)
    flags, turned_flags = mask.view(np.bool_), turned.view(np.bool_)
    text, packed = encode_rle(flags), coco.encode(turned)
    same = np.array_equal(decode_rle(text, height, width), coco.decode(packed))
    ours = encode_coco(flags)
    if not same or ours["counts"] != packed["counts"].decode():
        sys.exit(f"{kind}: both sides disagree")
    pairs: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
        (
            "encode, by rows",
            lambda: encode_rle(flags),
            lambda: coco.encode(np.asfortranarray(mask)),
        ),
        ("encode, by columns", lambda: encode_rle(turned_flags), lambda: coco.encode(turned)),
        ("decode", lambda: decode_rle(text, height, width), lambda: coco.decode(packed)),
        ("encode to COCO", lambda: encode_coco(flags), lambda: coco.encode(turned)),
        ("decode COCO", lambda: decode_coco(ours), lambda: coco.decode(packed)),
    ]
    return [compare(f"{kind}: {name}", a, b, rounds) for name, a, b in pairs]


def compare_batch(kind: str, masks: Sequence[Any], rounds: int) -> list[dict[str, Any]]:
    height, width = masks[0].shape
    stack = np.asfortranarray(np.stack(masks, axis=2))
    flags = [mask.view(np.bool_) for mask in masks]
    texts, packed = [encode_rle(each) for each in flags], coco.encode(stack)
    return [
        compare(
            f"{kind}: encode {len(masks)} masks",
            lambda: [encode_rle(each) for each in flags],
            lambda: coco.encode(stack),
            rounds,
        ),
        compare(
            f"{kind}: decode {len(masks)} masks",
            lambda: [decode_rle(text, height, width) for text in texts],
            lambda: coco.decode(packed),
            rounds,
        ),
    ]


def compare(
    name: str, ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int
) -> dict[str, Any]:
    ours(), theirs()
    taken = [(time_once(ours), time_once(theirs)) for _ in range(rounds)]
    ratios = sorted(b / a for a, b in taken)
    low, middle, high = statistics.quantiles(ratios, n=4)
    best = [min(side) * 1000 for side in zip(*taken, strict=True)]
    print(
        f"{name:32} loupe {best[0]:8.3f} ms  pycocotools {best[1]:8.3f} ms  "
        f"ratio {middle:6.2f} ({low:.2f} to {high:.2f})",
        flush=True,
    )
    return {
        "name": name,
        "loupe_ms": best[0],
        "pycocotools_ms": best[1],
        "ratio": middle,
        "quartiles": [low, high],
    }


def measure_parts(kind: str, mask: Any, rounds: int) -> list[dict[str, Any]]:
    flags = mask.view(np.bool_)
    runs = find_runs(flags)
    text = spell_runs(runs)
    parts: dict[str, Callable[[], Any]] = {
        "mask -> runs": lambda: find_runs(flags),
        "runs -> text": lambda: spell_runs(runs),
        "text -> runs": lambda: read_runs(text),
        "runs -> mask": lambda: fill_runs(runs, *mask.shape),
    }
    spent = {name: min(time_once(part) for _ in range(rounds)) for name, part in parts.items()}
    told = ", ".join(f"{name} {seconds * 1000:.3f} ms" for name, seconds in spent.items())
    print(f"{kind}: {len(runs)} runs, {len(text)} letters; {told}", flush=True)
    return [{"name": f"{kind}: {name}", "loupe_ms": s * 1000} for name, s in spent.items()]


def time_once(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
