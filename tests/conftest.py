"""Fixtures: a tiny table of photographs, random "pretrained" weights, finished runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loupe.layouts import read_table
from loupe.recipe import Recipe
from loupe.table import Table
from loupe.testing import make_tiles

ENGINE = {"precision": "fp32", "channels_last": False}
"""Set, so that no test depends on what a probe measured."""
FULL = {
    "seed": 3,
    "network": {"name": "test_resnet", "head": {"dropout": 0.2}},
    "input": {"size": 32},
    "augment": ["HorizontalFlip", {"Rotate": {"limit": 20, "p": 1.0}}],
    "loss": {"label_smoothing": 0.1},
    "stages": [{"train": "all", "epochs": 2, "lr": 1e-3}],
    "batch_size": 4,
    "ema": 0.9,
    "engine": ENGINE,
}
HEAD = {
    "network": {"name": "test_resnet"},
    "input": {"size": 32},
    "stages": [{"train": "head", "views": ["identity"]}],
    "tta": ["identity", "hflip"],
    "engine": ENGINE,
}
MASKS = {
    "seed": 3,
    "network": {"name": "test_resnet", "pretrained": False},
    "input": {"size": 32},
    "decoder": {"options": {"decoder_channels": [8, 8, 8, 4, 4]}},
    "mask_loss": {"over": "batch"},
    "augment": ["HorizontalFlip"],
    "optimizer": {"lr": 3e-3},
    "stages": [{"train": "all", "epochs": 3}],
    "batch_size": 4,
    "engine": ENGINE,
}


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOUPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("LOUPE_WEIGHTS", raising=False)
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    # Not imported here: most tests need no torch.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 16 photographs of 8 tiles, half of them with a defect."""
    folder = tmp_path_factory.mktemp("data") / "tiles"
    make_tiles(
        folder,
        tiles=8,
        shots=2,
        size=(48, 48),
        defect_share=0.5,
        duplicates=0,
        wrong_labels=0,
    )
    return folder


@pytest.fixture(scope="session")
def binary(tiles: Path) -> Table:
    """One column that stands alone; two folds, the shots of a tile together."""
    table = read_table(
        tiles / "classes.csv", images=tiles / "images", any_class="defect", negative="ok"
    )
    groups = read_table(tiles / "labels.csv", images=tiles / "images").groups
    assert groups is not None
    order = {name: place for place, name in enumerate(sorted(set(groups)))}
    folds = np.array([order[name] % 2 for name in groups], np.int16)
    return replace(table, groups=groups, folds=folds)


@pytest.fixture(scope="session")
def exclusive(binary: Table) -> Table:
    """The same rows as two exclusive classes."""
    targets = np.concatenate([1 - binary.targets, binary.targets], axis=1)
    return replace(binary, classes=("ok", "defect"), targets=targets, exclusive=True)


SaveWeights = Callable[..., Path]


@pytest.fixture(scope="session")
def save_weights() -> SaveWeights:
    """Write random weights of a timm network, as if they were pretrained."""
    import timm
    import torch
    from safetensors.torch import save_file

    def save(folder: Path, name: str, *, file: str = "", seed: int = 7, **meta: Any) -> Path:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = timm.create_model(name, num_classes=10, **meta.get("kwargs", {}))
            # As after training: statistics that are not those of a new network.
            for key, value in network.state_dict().items():
                if key.endswith(("running_mean", "running_var")):
                    value.add_(torch.rand_like(value) * 0.2)
        header = {"timm_arch": name} | {key: json.dumps(value) for key, value in meta.items()}
        path = folder / f"{file or name}.safetensors"
        save_file(network.state_dict(), path, header)
        return path

    return save


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, save_weights: SaveWeights) -> Path:
    """A folder of "pretrained" weights with their own normalisation."""
    folder = tmp_path_factory.mktemp("weights")
    save_weights(folder, "test_resnet", mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3])
    save_weights(folder, "test_vit")
    return folder


@pytest.fixture(scope="session")
def members() -> dict[str, Recipe]:
    """A member with all layers trained, and one with its last layer alone."""
    return {"full": Recipe.model_validate(FULL), "head": Recipe.model_validate(HEAD)}


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    exclusive: Table,
    members: dict[str, Recipe],
    weights: Path,
) -> Any:
    """A finished run of two members and two folds; copy it before changing it."""
    from loupe.training import train

    out = tmp_path_factory.mktemp("runs") / "finished"
    return train(exclusive, members, out, weights=weights, executor="serial", device="cpu")


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """12 images of 32 x 40 pixels with squares of two classes, red and green; two folds."""
    from PIL import Image

    from loupe.masks import encode_rle
    from loupe.table import Layout

    folder = tmp_path_factory.mktemp("masked")
    rng = np.random.default_rng(5)
    masks = np.zeros((12, 2, 32, 40), bool)
    for row in range(12):
        pixels = rng.integers(0, 60, (32, 40, 3), dtype=np.uint8)
        for column in range(2):
            if row >> column & 1:  # all four label sets, in each fold
                top, left = rng.integers(0, 16, 2)
                masks[row, column, top : top + 14, left : left + 14] = True
            pixels[masks[row, column], column] = 230
        Image.fromarray(pixels).save(folder / f"{row:02}.png")
    names = tuple(f"{row:02}.png" for row in range(12))
    header = ("ImageId", "ClassId", "EncodedPixels")
    return Table(
        ids=names,
        images=tuple(folder / name for name in names),
        classes=("red", "green"),
        targets=masks.any(axis=(2, 3)).astype(np.float32),
        exclusive=False,
        layout=Layout(name="rle-rows", image_column=header[0], label_column=header[1:]),
        masks=tuple(tuple(encode_rle(mask) for mask in row) for row in masks),
        folds=(np.arange(12) // 4 % 2).astype(np.int16),
    )


@pytest.fixture(scope="session")
def drawing() -> dict[str, Recipe]:
    """A member that draws masks."""
    return {"unet": Recipe.model_validate(MASKS)}


@pytest.fixture(scope="session")
def segmented(
    tmp_path_factory: pytest.TempPathFactory, masked: Table, drawing: dict[str, Recipe]
) -> Any:
    """A finished run of a segmenter on two folds; copy it before changing it."""
    from loupe.training import train

    out = tmp_path_factory.mktemp("runs") / "segmented"
    return train(masked, drawing, out, executor="serial", device="cpu")
