"""The verb `segment`: a tiny run of two folds, images of any size, rows as they are asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from loupe.counting import count_fold
from loupe.decoding import read_image
from loupe.errors import AlignmentError, InputError, LeakageError, MaskError, RunError
from loupe.files import write_json
from loupe.images import InputSpec, prepare_image
from loupe.maskdrawing import draw_masks, open_drawer
from loupe.maskgrading import measure_sheet, score_segmenter
from loupe.maskrules import cut_parts, read_mask_rule, write_mask_rule
from loupe.masks import encode_rle, resize_rle
from loupe.maskscoring import cross_fitted_masks, finish_masks, read_mask_counts
from loupe.masksheets import read_mask_sheet
from loupe.recipe import read_recipe
from loupe.runs import Run, create_run, open_run
from loupe.segmenters import build_segmenter, settle_encoder
from loupe.segmenting import lay_out_masks, plan_sheet, segment
from loupe.table import Layout, Quarantined, Table

CLASSES = ("crack", "stain")
SPECS = {"wide": InputSpec(height=32, width=64), "square": InputSpec(height=32, width=32)}
JOINED = Layout(
    name="rle-joined", image_column="Image_Label", label_column=("EncodedPixels",),
    columns=("Image_Label", "EncodedPixels"),
)  # fmt: skip


def draw_images(folder: Path, sizes, seed=0) -> tuple[Path, ...]:
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    paths = []
    for row, (height, width) in enumerate(sizes):
        small = rng.integers(0, 256, (4, 6, 3), np.uint8)
        paths.append(folder / f"{seed}_{row}.png")
        Image.fromarray(small).resize((width, height)).save(paths[-1])
    return tuple(paths)


def make_table(paths, masks=None, **more) -> Table:
    n = len(paths)
    texts = tuple(map(tuple, masks)) if masks is not None else (("", ""),) * n
    return Table(
        ids=tuple(path.name for path in paths),
        images=tuple(paths),
        classes=CLASSES,
        targets=np.array([[bool(text) for text in row] for row in texts], np.float32),
        exclusive=False,
        masks=texts,
        **more,
    )


def make_run(folder: Path, table: Table, names=("wide", "square"), *, decoder=True, **masks) -> Run:
    """Make a run with networks of random weights; its masks are not fitted yet."""
    made = {
        "network": {"name": "test_resnet", "pretrained": False},
        "input": {"size": 32},
        "tta": ["identity"],
        "engine": {"precision": "fp32", "channels_last": False},
    }
    if decoder:
        made["decoder"] = {"options": {"decoder_channels": [8, 8, 4, 4, 4]}}
        made["masks"] = {"thresholds": [0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65], **masks}
    recipe = read_recipe(made)
    run = create_run(folder, table, dict.fromkeys(names, recipe))
    for number, name in enumerate(names if decoder else ()):
        settled = settle_encoder(recipe, None)
        member = run.member(name)
        member.write_recipe(settled)
        member.write_input(SPECS[name])
        for fold in run.folds:
            classes = len(settled.masks.classes or CLASSES)
            network = build_segmenter(settled.decoder, settled, SPECS[name], classes, weights=None)
            torch.manual_seed(10 * number + fold)
            with torch.no_grad():
                for value in network.parameters():
                    value.add_(torch.randn_like(value) * 0.1)
            member.fold(fold).folder.mkdir(parents=True)
            save_file(network.state_dict(), member.fold(fold).weights)
            write_json(member.fold(fold).done_mark, {})
    return run


def finish(run: Run) -> Run:
    for fold in run.folds:
        count_fold(run, fold, threads=1, device="cpu", cache_bytes=0)
    finish_masks(run, run.table(), 1.0)
    return open_run(run.folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Table:
    """Eight images in two folds, with masks of boxes."""
    sizes = [(40, 50), (32, 64), (20, 90), (33, 41)] * 2
    paths = draw_images(tmp_path_factory.mktemp("trained") / "images", sizes)
    rng = np.random.default_rng(1)
    masks = []
    for size in sizes:
        boxes = np.zeros((2, *size), bool)
        boxes[0, : size[0] // 2, 5:20] = rng.random() < 0.7
        boxes[1, 5:15, size[1] // 2 :] = rng.random() < 0.7
        masks.append([encode_rle(box) for box in boxes])
    folds = np.array([0, 1] * 4, np.int16)
    return make_table(paths, masks, folds=folds, layout=JOINED)


@pytest.fixture(scope="module")
def run(tmp_path_factory, trained) -> Run:
    return finish(make_run(tmp_path_factory.mktemp("runs") / "run", trained, cut="pixel"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Table:
    """Three images that were not trained on; the second is damaged."""
    folder = tmp_path_factory.mktemp("fresh") / "images"
    paths = draw_images(folder, [(30, 40), (9, 9), (45, 31)], seed=5)
    paths[1].write_bytes(b"\x89PNG broken")
    return make_table(paths)


def redo(run: Run, table: Table):
    """Draw the masks of readable images by hand."""
    drawer = open_drawer(run, device="cpu")
    texts = []
    for path in table.images:
        picture = read_image(path)
        pixels = [prepare_image(picture, spec)[None] for spec in drawer.specs]
        sizes = np.array([picture.shape[:2]])
        texts.append(draw_masks(drawer, pixels, sizes, np.ones((1, 2), bool)).texts[0])
    return texts


def test_every_image_and_class_has_a_row(run, fresh, tmp_path):
    out = tmp_path / "masks.csv"
    found = segment(run.folder, fresh, device="cpu", out=out)
    assert (found.masks.ids, found.masks.classes) == (fresh.ids, CLASSES)
    expected = redo(run, fresh.select([0, 2]))
    assert found.masks.texts == (expected[0], ("", ""), expected[1])
    assert any(text for row in expected for text in row)
    assert found.masks.sizes[[0, 2]].tolist() == [[30, 40], [45, 31]]
    assert found.errors[0] is found.errors[2] is None
    assert str(fresh.images[1]) in found.errors[1]
    assert found.known.tolist() == [False] * 3
    assert found.notes == ("1 of 3 images cannot be read and have no masks",)
    lines = out.read_text().splitlines()
    assert lines[0] == "Image_Label,EncodedPixels"
    keys = [f"{key}_{name}" for key in fresh.ids for name in CLASSES]
    assert [line.split(",")[0] for line in lines[1:]] == keys
    assert read_mask_sheet(out).texts == found.masks.texts


def test_folders_are_read_and_sizes_are_those_asked_for(run, fresh):
    found = segment(run, fresh.images[0].parent, device="cpu", size=(16, 24))
    whole = segment(run, fresh, device="cpu")
    assert found.masks.ids == fresh.ids
    assert found.masks.sizes.tolist() == [[16, 24]] * 3
    for row, size in ((0, (30, 40)), (2, (45, 31))):
        for column in range(2):
            text = whole.masks.texts[row][column]
            assert found.masks.texts[row][column] == resize_rle(text, size, (16, 24))


def test_images_that_were_trained_on_are_told(run, trained, fresh):
    both = make_table([trained.images[3], fresh.images[0]])
    found = segment(run, both, device="cpu")
    assert found.known.tolist() == [True, False]
    assert "1 of 2 images were trained on; their masks flatter" in found.notes


def test_rows_that_were_set_aside_keep_their_place(run, fresh):
    table = replace(fresh.select([0]), quarantined=(Quarantined(id="q.png", reason="too dark"),))
    found = segment(run, table, device="cpu")
    assert found.masks.ids == (fresh.ids[0], "q.png")
    assert (found.masks.texts[1], found.errors[1]) == (("", ""), "too dark")
    assert len(found.known) == 2


# Samples ------------------------------------------------------------------------------------------


def write_sample(path: Path, lines) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_sample_gives_rows_order_and_form(run, fresh, tmp_path):
    lines = ["ImageId,ClassId,EncodedPixels,extra"]
    for row, name in ((2, "stain"), (0, "crack"), (0, "stain")):
        lines.append(f"{fresh.ids[row]},{name},1 1,{row}{name}")
    sample = write_sample(tmp_path / "sample.csv", lines)
    out = tmp_path / "out.csv"
    found = segment(run, fresh, like=sample, device="cpu", out=out)
    plain = segment(run, fresh, device="cpu").masks.texts
    assert found.masks.ids == (fresh.ids[2], fresh.ids[0])
    assert (found.errors, found.known.tolist()) == ((None, None), [False, False])
    written = [line.split(",") for line in out.read_text().splitlines()]
    assert written[0] == lines[0].split(",")
    assert [[*cells[:2], cells[3]] for cells in written[1:]] == [
        [*line.split(",")[:2], line.split(",")[3]] for line in lines[1:]
    ]
    assert [cells[2] for cells in written[1:]] == [plain[2][1], plain[0][0], plain[0][1]]
    told = " ".join(found.notes)
    assert f"no row for 1 of the 3 images: {fresh.ids[1]!r}" in told
    assert plain[2][0]
    assert "1 mask(s) are left out" in told


def test_a_sample_of_other_images_is_refused_before_the_work(run, fresh, tmp_path):
    names = ["0.png", "1.png", fresh.ids[0]]
    sample = write_sample(
        tmp_path / "s.csv", ["Image_Label,EncodedPixels", *(f"{n}_crack," for n in names)]
    )
    with pytest.raises(AlignmentError, match=r"2 of its 3 images.*'0\.png', '1\.png'"):
        segment(run, fresh, like=sample, device="cpu")


def test_classes_of_a_sample(run, fresh, tmp_path):
    head = "Image_Label,EncodedPixels"
    rust = write_sample(tmp_path / "rust.csv", [head, f"{fresh.ids[0]}_stan,"])
    with pytest.raises(AlignmentError, match=r"'stan'; did you mean 'stain'"):
        plan_sheet(run.table(), fresh.ids, CLASSES, like=rust)
    numbers = write_sample(
        tmp_path / "numbers.csv", [head, *(f"{fresh.ids[0]}_{number}," for number in (2, 1))]
    )
    table = replace(run.table(), layout=replace(JOINED, numbers=("1", "2")))
    plan = plan_sheet(table, fresh.ids, CLASSES, like=numbers)
    assert dict(zip(plan.classes, plan.columns, strict=True)) == {"1": 0, "2": 1}
    single = write_sample(tmp_path / "single.csv", ["id,rle_mask", f"{fresh.ids[0]},"])
    with pytest.raises(AlignmentError, match="'mask'"):
        plan_sheet(table, fresh.ids, CLASSES, like=single)
    plan = plan_sheet(table, fresh.ids, ("salt",), like=single)
    assert (plan.columns, plan.classes) == ((0,), ("mask",))
    only = write_sample(tmp_path / "only.csv", [head, f"{fresh.ids[0]}_stain,"])
    plan = plan_sheet(table, fresh.ids, CLASSES, like=only)
    assert plan.columns == (1,)
    assert any("no row of class crack" in note for note in plan.notes)


def test_the_form_is_that_of_the_training_table(trained):
    texts, sizes = [("1 2", "3 1")], np.array([[4, 5]])

    def spell(layout, classes=CLASSES):
        mine = [row[: len(classes)] for row in texts]
        table = replace(trained, layout=layout)
        masks, notes = lay_out_masks(table, ["x"], classes, mine, sizes, like=None, size=None)
        assert (masks.texts, notes) == (tuple(mine), ())
        return masks.form

    own = Layout(
        name="rle-rows", image_column="Name", label_column=("Kind", "Pixels"),
        columns=("Pixels", "fold", "Name", "Kind"),
    )  # fmt: skip
    form = spell(own)
    assert form.header == ("Pixels", "Name", "Kind")
    assert (form.image_column, form.class_column, form.text_column) == ("Name", "Kind", "Pixels")
    assert spell(JOINED).header == ("Image_Label", "EncodedPixels")
    assert spell(Layout(name="memory")).layout == "rle-joined"
    assert spell(Layout(name="coco"), ("crack",)).layout == "rle-single"


# Refusals -----------------------------------------------------------------------------------------


def test_what_cannot_be_done_is_told_before_the_work(run, fresh, trained, tmp_path):
    with pytest.raises(MaskError, match=r"masks\.csv"):
        segment(run, fresh, device="cpu", out=tmp_path / "masks.parquet")
    with pytest.raises(InputError, match="0 images"):
        segment(run, fresh.select([]), device="cpu")
    plain = make_run(tmp_path / "plain", trained, ("wide",), decoder=False)
    with pytest.raises(RunError, match="loupe predict"):
        segment(plain, fresh, device="cpu")


# From counts to scores ----------------------------------------------------------------------------


def test_masks_of_held_out_rows_are_those_that_were_counted(run, trained):
    """Networks of one fold, cut by the cuts chosen without it, as pixels: the same areas."""
    rule, sheet = read_mask_rule(run.cuts_file), read_mask_counts(run)
    counted = cross_fitted_masks(run).pairs
    drawer = open_drawer(run, device="cpu")
    for part in (0, 1):
        own = replace(
            drawer,
            mappers=tuple(drawer.mappers[place] for place in (part, part + 2)),
            rule=replace(rule, cuts=rule.part_cuts[part]),
        )
        for row in np.flatnonzero(trained.folds == part):
            picture = read_image(trained.images[row])
            pixels = [prepare_image(picture, spec)[None] for spec in own.specs]
            found = draw_masks(own, pixels, np.array([picture.shape[:2]]), np.ones((1, 2), bool))
            # A pixel at the threshold may fall on either side in another batch.
            assert np.abs(found.areas[0] - counted.predicted[row]).max() <= 2
    assert counted.predicted.any()
    again = cut_parts(rule, sheet.counts, trained.folds)
    assert (again.pairs.predicted == counted.predicted).all()


def test_a_run_is_scored_on_rows_that_it_never_saw(run, trained, fresh):
    boxes = [encode_rle(np.ones((30, 40), bool)), encode_rle(np.ones((45, 31), bool))]
    table = make_table(fresh.images, [[boxes[0], ""], ["", ""], ["", boxes[1]]])
    graded = score_segmenter(run, table, group="given", device="cpu", resamples=0)
    assert (graded.rows, graded.classes) == (2, CLASSES)
    assert [key for key, _ in graded.unread] == [table.ids[1]]
    masks = segment(run, table.select([0, 2]), device="cpu").masks
    pairs = measure_sheet(masks, table.select([0, 2]))
    assert pairs.truth.tolist() == [[1200, 0], [0, 1395]]
    dice = [
        2 * pairs.predicted[0, 0] / (1200 + pairs.predicted[0, 0]),
        float(pairs.predicted[0, 1] == 0),
        float(pairs.predicted[1, 0] == 0),
        2 * pairs.predicted[1, 1] / (1395 + pairs.predicted[1, 1]),
    ]
    assert graded.scores[0].value == pytest.approx(np.mean(dice))
    assert any("cross-validation measured" in note for note in graded.notes)
    with pytest.raises(LeakageError, match="trained on"):
        score_segmenter(run, trained, device="cpu")
    stamped = score_segmenter(
        run, trained, group="given", allow_leak=True, device="cpu", resamples=0
    )
    assert "LEAK" in stamped.stamps[0]
    with pytest.raises(RunError, match="loupe score"):
        score_segmenter(replace(run, segments=False), table)


def test_a_run_with_a_size_and_some_classes(tmp_path, trained, fresh):
    run = make_run(
        tmp_path / "run", trained, ("square",), size=[20, 24], cut="fixed", classes=["stain"]
    )
    run = finish(run)
    found = segment(run, fresh, device="cpu")
    assert found.masks.classes == ("stain",)
    assert found.masks.sizes[[0, 2]].tolist() == [[20, 24]] * 2
    assert "the run draws no masks of crack" in found.notes
    rule = read_mask_rule(run.cuts_file)
    assert (rule.size, rule.classes) == ((20, 24), ("stain",))
    # Everything is drawn: its share of each image is that of the given box.
    everything = replace(rule.cuts[0].top, threshold=0.0)
    cut = replace(rule.cuts[0], top=everything, bottom=everything)
    write_mask_rule(run.cuts_file, replace(rule, cuts=(cut,)))
    half = np.zeros((30, 40), bool)
    half[:15] = True
    table = make_table(fresh.images[:1], [["", encode_rle(half)]])
    graded = score_segmenter(run, table, group="given", device="cpu", resamples=0)
    scores = {s.metric: s.value for s in graded.scores if not s.class_name}
    assert scores["iou_nonempty"] == 0.5
    assert any("crack, which is left out" in note for note in graded.notes)
