"""Draw a grid of images with their given labels and out-of-fold probabilities.

python examples/prediction_grid.py RUN grid.png
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageOps

import loupe
from loupe.predictions import average_sheets

TILE, CAPTION, COLUMNS, ROWS = 150, 34, 6, 3


def main(folder: str, out: str) -> None:
    """Take rows evenly from the surest to the least sure and draw them."""
    run = loupe.open_run(folder)
    table = run.table()
    sheet = average_sheets(list(run.oof().values()))
    at = {name: row for row, name in enumerate(table.ids)}
    probs = np.nan_to_num(sheet.probs)
    order = np.argsort(-probs.max(axis=1), kind="stable")
    chosen = order[np.linspace(0, len(order) * 0.6, COLUMNS * ROWS).astype(int)]
    grid = Image.new("RGB", (COLUMNS * TILE, ROWS * (TILE + CAPTION)), "white")
    for place, row in enumerate(chosen):
        image = at[sheet.ids[row]]
        given = [c for c, t in zip(table.classes, table.targets[image], strict=True) if t >= 0.5]
        best = int(probs[row].argmax())
        caption = (
            f"given {', '.join(given) or 'none'}\n{table.classes[best]} {probs[row, best]:.2f}"
        )
        corner = (place % COLUMNS * TILE, place // COLUMNS * (TILE + CAPTION))
        picture = Image.open(table.images[image]).convert("RGB")
        grid.paste(ImageOps.fit(picture, (TILE - 4, TILE - 4)), (corner[0] + 2, corner[1] + 2))
        ImageDraw.Draw(grid).text((corner[0] + 4, corner[1] + TILE), caption, fill="black")
    grid.save(out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
