"""Class-activation maps: where in an image its held-out network saw a class.

Owns which layer of a network is looked at, and whose networks explain which row. It must
not choose rows, draw, or make up a map where a network gives none.

The method is Grad-CAM as Captum has it: the last features that still have a place, each
channel weighted by the mean gradient of the class's logit.

Shapes: n rows, B batch, C channels, H height, W width; h and w those of the features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import Tensor, nn

from loupe.aligning import ABSENT, match_ids
from loupe.decoding import read_image
from loupe.errors import ImageError, RunError
from loupe.images import Float32, InputSpec, UInt8, prepare_image, prepare_masks
from loupe.inference import choose_device, load_network
from loupe.networks import Classifier
from loupe.progress import Reporter, Silent
from loupe.runs import Member, Run, open_run
from loupe.settings import Draws
from loupe.table import Table
from loupe.views import Cut, list_cuts

_BATCH = 8
"""Images at a time; few, because a map is made of few."""
_STACKS = ("cls_attn_blocks", "blocks_token_only", "blocks")
"""Where timm's networks keep the attention that reads the class token, the last ones first."""
_TOLERANCE = 1e-3
"""By how much logits may differ on the way past the watched features: rounding, not more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """Maps of some rows.

    Attributes:
        maps: (n,) each (H, W) float32 from 0 to 1, of the whole image and nothing but it: the
            prepared size, without the bars of padding. Its largest value is 1. None where
            there is no map, or no place in it speaks for the class.
        notes: Why maps are missing, and what else must be said beside them.
    """

    maps: tuple[Float32 | None, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Wish:
    """One map to make."""

    place: int
    row: int
    column: int


def explain_rows(
    run: Run,
    rows: Sequence[int],
    columns: Sequence[int],
    *,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Explained:
    """Make a map for each row and class, by the networks that held the row out.

    The maps of several members are averaged by the members' weights, each scaled to its
    largest value first. Crops and flips of a recipe are averaged as its probabilities are.

    Args:
        run: Finished, or a blend of such.
        rows: (n,) rows of its table.
        columns: (n,) the class to look for in each; see `Table.classes`.
        device: `auto` or a torch device.
        reporter: Told of the maps done.

    Raises:
        RunError: the run draws masks or was trained on all rows, is not finished, or a source
            of a blend is gone.
        InputError: the device is not there.
    """
    if run.segments or run.refit:
        why = "draws masks" if run.segments else "held nothing out"
        raise RunError(f"{run.folder} {why}, so no held-out network names its classes.")
    device, table = choose_device(device), run.table()
    networks = run.networks()
    found: list[list[tuple[float, Float32]]] = [[] for _ in rows]
    notes: dict[str, None] = {}
    reporter = reporter or Silent()
    reporter.begin("class-activation maps", len(rows) * len(networks))
    done = 0
    for member, share in networks:
        maker = _Maker(member, table, device, notes)
        for place, heat in maker.explain(rows, columns):
            if heat is not None:
                found[place].append((share, _scale(heat)))
            done += 1
            reporter.advance(done)
    reporter.end()
    maps = tuple(_join(each) for each in found)
    empty = sum(heat is None and bool(each) for heat, each in zip(maps, found, strict=True))
    if empty:
        told = f"in {empty} image(s) no place by itself speaks for the class, so no map is shown"
        notes[told] = None
    return Explained(maps=maps, notes=tuple(notes))


class _Maker:
    """The networks of one member, asked for maps fold by fold."""

    def __init__(self, member: Member, table: Table, device: str, notes: dict[str, None]) -> None:
        self.member, self.table, self.device, self.notes = member, table, device, notes
        self.recipe, self.spec = member.recipe(), member.input_spec()
        # The member of a blend stands in a run with a table of its own.
        self.own = open_run(member.folder.parent).table()

    def explain(
        self, rows: Sequence[int], columns: Sequence[int]
    ) -> Iterable[tuple[int, Float32 | None]]:
        """Yield the place of each row among the asked ones, and its map."""
        at = match_ids(self.own.ids, [self.table.ids[row] for row in rows])
        folds = self.own.folds
        by_fold: dict[int | None, list[_Wish]] = defaultdict(list)
        for place, (row, column) in enumerate(zip(rows, columns, strict=True)):
            there = folds is not None and at[place] != ABSENT
            fold = int(folds[at[place]]) if folds is not None and there else None
            held = fold is not None and fold >= 0 and fold in self.member.folds
            by_fold[fold if held else None].append(_Wish(place, row, column))
        for fold, wishes in by_fold.items():
            fault = self._find_fault(fold)
            if fold is None or fault:
                told = f"{len(wishes)} image(s) have no map by {self.member.name}: {fault}"
                self.notes[told] = None
                yield from ((wish.place, None) for wish in wishes)
            else:
                yield from self._explain_fold(fold, wishes)

    def _find_fault(self, fold: int | None) -> str:
        if fold is None:
            return "it was trained on them, or never saw them"
        weights = self.member.fold(fold).weights
        return "" if weights.is_file() else f"{weights} is not there"

    def _explain_fold(
        self, fold: int, wishes: Sequence[_Wish]
    ) -> Iterable[tuple[int, Float32 | None]]:
        network = load_network(self.member, self.recipe, fold, len(self.own.classes))
        network.to(self.device)
        tta = self.recipe.tta
        cuts = list_cuts(("identity",) if isinstance(tta, Draws) else tta, self.spec)
        for start in range(0, len(wishes), _BATCH):
            batch = wishes[start : start + _BATCH]
            read = [(wish, self._read(wish)) for wish in batch]
            whole = [(wish, image) for wish, image in read if image is not None]
            yield from ((wish.place, None) for wish, image in read if image is None)
            if not whole:
                continue
            images = np.stack([prepare_image(image, self.spec) for _, image in whole])
            names = [self.own.classes.index(self.table.classes[w.column]) for w, _ in whole]
            heats = explain_images(network, images, names, cuts)
            if isinstance(heats, str):
                self.notes[f"no map by {self.member.name}: {heats}"] = None
                yield from ((wish.place, None) for wish, _ in whole)
                continue
            for (wish, image), heat in zip(whole, heats, strict=True):
                yield wish.place, _cut_bars(heat, image, self.spec)

    def _read(self, wish: _Wish) -> UInt8 | None:
        try:
            return read_image(self.table.images[wish.row])
        except ImageError:
            self.notes["images that cannot be read have no map"] = None
            return None


def explain_images(
    network: Classifier, images: UInt8, columns: Sequence[int], cuts: Sequence[Cut]
) -> Float32 | str:
    """Say of each pixel how much it speaks for a class, or against it.

    Args:
        network: In evaluation mode and on its device; its parameters need no gradients
            any more.
        images: Prepared.
        columns: The class of each image.
        cuts: Crops and flips to average over; a pixel outside of all is 0.

    Shape:
        images: (B, H, W, C) uint8. columns: (B,).

    Returns:
        (B, H, W) float32, of either sign and any scale; or why there is no map.
    """
    network.requires_grad_(requires_grad=False)
    watched = _Watched(network)
    device = network.mean.device
    whole, target = torch.from_numpy(images).to(device), torch.tensor(columns, device=device)
    total = torch.zeros(whole.shape[:3], device=device)
    times = torch.zeros(whole.shape[1:3], device=device)
    for place, cut in enumerate(cuts):
        inputs = whole[:, cut.rows, cut.columns].flip(cut.axes)
        fault = _find_fault(network, watched, inputs) if place == 0 else ""
        if fault:
            return fault
        heat = LayerGradCam(watched, watched.tap).attribute(inputs, target=target)
        if not bool(heat.any()):
            return "its answer does not rest on features with a place"
        large = LayerAttribution.interpolate(heat, tuple(inputs.shape[1:3]), "bilinear")
        total[:, cut.rows, cut.columns] += large.detach()[:, 0].flip(cut.axes)
        times[cut.rows, cut.columns] += 1
    return np.asarray((total / times.clamp(min=1)).cpu().numpy(), np.float32)


class _Tap(nn.Module):
    """Passes features on and looks at them; only what comes after it has gradients."""

    places: int = 0

    def forward(self, features_BCHW: Tensor) -> Tensor:
        self.places = features_BCHW.shape[2] * features_BCHW.shape[3]
        return features_BCHW.requires_grad_(torch.is_grad_enabled())


class _Watched(nn.Module):
    """A classifier whose last features with a place go through a tap, if they can."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network, self.tap = network, _Tap()

    def forward(self, images_BHWC: Tensor) -> Tensor:
        backbone: Any = self.network.backbone
        inputs = self.network.normalise(images_BHWC)
        last = _find_last_attention(backbone)
        if last is None:
            features = self._watch(backbone.forward_features(inputs))
        else:
            hook = last.register_forward_hook(lambda *called: self._watch(called[-1]))
            try:
                features = backbone.forward_features(inputs)
            finally:
                hook.remove()
        return self.network.classify(backbone.forward_head(features))

    def _watch(self, features: Any) -> Any:
        """Return the same features, past the tap; those of an unknown kind go around it."""
        backbone: Any = self.network.backbone
        if not isinstance(features, Tensor):
            return features
        if features.ndim == 4:
            if getattr(backbone, "output_fmt", "NCHW") == "NHWC":
                return self.tap(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return self.tap(features)
        first = getattr(backbone, "num_prefix_tokens", 0)
        grid = _find_grid(backbone)
        if features.ndim != 3 or features.shape[1] != first + grid[0] * grid[1]:
            return features
        tokens = features[:, first:].transpose(1, 2).reshape(len(features), -1, *grid)
        passed = self.tap(tokens).flatten(2).transpose(1, 2)
        return torch.cat([features[:, :first], passed], dim=1)


def _find_last_attention(backbone: Any) -> nn.Module | None:
    """Return what the last attention reads, where all but the class token end there."""
    if getattr(backbone, "global_pool", "") != "token":
        return None
    stacks = (getattr(backbone, name, None) for name in _STACKS)
    blocks = next((stack for stack in stacks if stack is not None), None)
    return None if not blocks else getattr(blocks[-1], "norm1", None)


def _find_grid(backbone: Any) -> tuple[int, int]:
    """Rows and columns of patches, if tokens stand row by row; (0, 0) if that is not known."""
    for name in ("patch_embed", "stem"):
        grid = getattr(getattr(backbone, name, None), "grid_size", None)
        if grid is not None:
            return int(grid[0]), int(grid[1])
    return 0, 0


def _find_fault(network: Classifier, watched: _Watched, inputs: Tensor) -> str:
    """Say why a network cannot be watched; "" if it can."""
    backbone: Any = network.backbone
    if not (hasattr(backbone, "forward_features") and hasattr(backbone, "forward_head")):
        return "its features and its head cannot be told apart"
    with torch.no_grad():
        plain, seen = network(inputs), watched(inputs)
    if not torch.allclose(plain, seen, rtol=_TOLERANCE, atol=_TOLERANCE):
        return "watching its features would change its answer"
    if not watched.tap.places:
        return "its features have no place in the image that is known"
    return "at this input size its features have one place only" if watched.tap.places == 1 else ""


def _cut_bars(heat: Float32, image: UInt8, spec: InputSpec) -> Float32:
    """Return a map without the bars that padding put around the image."""
    if spec.resize == "stretch":
        return heat
    inside = prepare_masks(np.ones((*image.shape[:2], 1), np.uint8), spec)[..., 0] > 0
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return heat[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _scale(heat: Float32) -> Float32:
    """Return what speaks for the class, from 0 to 1."""
    kept = np.maximum(heat, 0)
    largest = kept.max()
    return np.asarray(kept / largest if largest > 0 else kept, np.float32)


def _join(heats: Sequence[tuple[float, Float32]]) -> Float32 | None:
    """Return the weighted mean of the maps of one row, at the size of the first; None if 0."""
    if not any(heat.any() for _, heat in heats):
        return None
    height, width = heats[0][1].shape
    sized = [share * cv2.resize(heat, (width, height)) for share, heat in heats]
    return _scale(np.asarray(sum(sized), np.float32))
