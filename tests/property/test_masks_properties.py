"""Masks: round trips through every form, and every malformed text refused with its row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loupe.cocomasks import decode_coco, decode_counts, encode_coco, encode_counts, read_coco_rle
from loupe.errors import MaskError
from loupe.maskfaults import find_faults, list_faults
from loupe.maskruns import fill_runs, find_runs
from loupe.masks import (
    decode_rle,
    decode_rle_rows,
    encode_rle,
    encode_rle_rows,
    measure_rle,
    resize_mask,
    resize_rle,
)
from loupe.masksheets import Masks, make_form, read_mask_sheet, write_mask_sheet

bitmaps = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14))
sides = st.integers(1, 20)
CALM = settings(max_examples=60, deadline=None)


@given(bitmaps)
def test_every_form_decodes_to_the_mask_it_was_made_of(mask):
    for again in (
        decode_rle(encode_rle(mask), *mask.shape),
        decode_rle_rows(encode_rle_rows(mask), *mask.shape),
        decode_coco(encode_coco(mask)),
        decode_counts(encode_counts(mask), *mask.shape),
        fill_runs(find_runs(mask, "rows"), *mask.shape, "rows"),
    ):
        assert again.dtype == np.bool_
        np.testing.assert_array_equal(again, mask)


@given(bitmaps)
def test_forms_agree_with_each_other(mask):
    text = encode_rle(mask)
    assert read_coco_rle(encode_coco(mask)) == text
    assert encode_rle_rows(mask.T) == text
    assert measure_rle(text) == mask.sum()
    assert list_faults(text, *mask.shape) == ()


@CALM
@given(st.integers(0, 2**32), st.floats(0, 1), st.integers(1, 300), st.integers(1, 300))
def test_large_masks_of_any_density_survive_in_any_memory_layout(seed, share, height, width):
    mask = np.random.default_rng(seed).random((height, width)) < share
    text = encode_rle(mask)
    assert encode_rle(np.asfortranarray(mask)) == text
    np.testing.assert_array_equal(decode_rle(text, height, width), mask)
    np.testing.assert_array_equal(decode_coco(encode_coco(mask)), mask)


@given(bitmaps, sides, sides)
def test_text_is_resized_as_its_pixels_are(mask, height, width):
    small = resize_mask(mask, (height, width))
    assert resize_rle(encode_rle(mask), mask.shape, (height, width)) == encode_rle(small)
    # A way that lets masks grow would let the background grow less.
    np.testing.assert_array_equal(resize_mask(~mask, (height, width)), ~small)


@given(bitmaps, st.integers(1, 5), st.integers(1, 5))
def test_to_a_multiple_of_the_size_and_back_is_the_same_mask(mask, down, across):
    height, width = mask.shape
    large = resize_mask(mask, (height * down, width * across))
    assert large.mean() == pytest.approx(mask.mean())
    np.testing.assert_array_equal(resize_mask(large, (height, width)), mask)


words = st.one_of(st.integers(-2, 40).map(str), st.sampled_from(["x", "1.0", "", "9" * 25, "\t"]))


@CALM
@given(st.lists(st.lists(words, max_size=7).map(" ".join), max_size=6))
def test_a_text_is_faulty_exactly_where_the_codec_refuses_it(texts):
    refused = set()
    for at, text in enumerate(texts):
        try:
            decode_rle(text, 5, 6)
        except MaskError:
            refused.add(at)
    found = find_faults(texts, [(5, 6)] * len(texts))
    assert set(found) == refused
    assert found == {at: list_faults(texts[at], 5, 6) for at in refused}


@CALM
@given(
    st.lists(hnp.arrays(np.bool_, (2, 5, 6)), min_size=1, max_size=5),
    st.sampled_from(["rle-joined", "rle-rows"]),
)
def test_sheets_survive_files_and_files_are_written_alike(tmp_path_factory, stacks, layout):
    folder = tmp_path_factory.mktemp("sheet")
    masks = Masks(
        ids=tuple(f"image_{at}.jpg" for at in range(len(stacks))),
        classes=("1", "2"),
        texts=tuple(tuple(map(encode_rle, stack)) for stack in stacks),
        form=make_form(layout),
    )
    write_mask_sheet(folder / "a.csv", masks)
    again = read_mask_sheet(folder / "a.csv", sizes=(5, 6))
    assert (again.ids, again.classes, again.texts) == (masks.ids, masks.classes, masks.texts)
    write_mask_sheet(folder / "b.csv", again)
    assert (folder / "b.csv").read_bytes() == (folder / "a.csv").read_bytes()


@CALM
@given(st.lists(st.sampled_from(["", "1 2", "1", "31 1", "3 1 2 1", "0 1", "a b"]), min_size=1))
def test_every_malformed_cell_is_refused_with_its_line(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("sheet") / "in.csv"
    rows = "".join(f"{at}.png,{cell}\n" for at, cell in enumerate(cells))
    path.write_text("id,rle_mask\n" + rows, encoding="utf-8")
    bad = [at + 2 for at, cell in enumerate(cells) if cell not in ("", "1 2")]
    if not bad:
        assert len(read_mask_sheet(path, sizes=(5, 6)).ids) == len(cells)
        return
    with pytest.raises(MaskError) as caught:
        read_mask_sheet(path, sizes=(5, 6))
    assert f"{len(bad)} cell(s) are not valid" in str(caught.value)
    assert [f"line {line}:" in str(caught.value) for line in bad[:20]] == [True] * len(bad[:20])
