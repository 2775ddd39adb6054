"""Masks as the network sees their images, and the file that keeps them."""

import numpy as np
import pytest
from PIL import Image

from loupe.errors import MaskError, RunError, TableError
from loupe.images import InputSpec, prepare_image, prepare_masks
from loupe.maskframes import count_lost, frame_masks, measure_images, read_frames, write_frames
from loupe.masks import decode_rle, encode_rle

SPECS = [
    InputSpec(height=16, width=24),
    InputSpec(height=40, width=9),
    InputSpec(height=16, width=24, resize="pad"),
    InputSpec(height=48, width=20, resize="pad"),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.resize}-{s.height}x{s.width}")
@pytest.mark.parametrize("size", [(16, 24), (32, 48), (31, 17), (8, 50), (5, 5)])
def test_frames_are_what_prepare_masks_gives(spec, size):
    rng = np.random.default_rng(sum(size))
    masks = rng.random((*size, 3)) < 0.4
    masks[..., 1] = False
    texts = (tuple(encode_rle(masks[..., k]) for k in range(3)),)
    frames = frame_masks(texts, np.array([size]), spec, ids=["a"])
    wanted = prepare_masks(masks.astype(np.uint8), spec)
    for k, text in enumerate(frames[0]):
        assert np.array_equal(decode_rle(text, spec.height, spec.width), wanted[..., k] > 0)
    assert frames[0][1] == ""


@pytest.mark.parametrize("resize", ["stretch", "pad"])
def test_frames_lie_where_their_image_is_bright(resize):
    spec = InputSpec(height=24, width=24, resize=resize, filter="nearest")
    mask = np.zeros((48, 36), bool)
    mask[10:30, 4:20] = True
    image = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
    (frames,) = frame_masks(((encode_rle(mask),),), np.array([[48, 36]]), spec, ids=["a"])
    framed = decode_rle(frames[0], 24, 24)
    bright = prepare_image(image, spec)[..., 0] > 127
    assert (framed != bright).mean() < 0.03
    assert framed.sum() > 50


def test_each_image_has_its_own_size():
    spec = InputSpec(height=2, width=2)
    texts = (("1 8", " "), ("", "1 1"))
    frames = frame_masks(texts, np.array([[4, 4], [2, 2]]), spec, ids=["a", "b"])
    # The left half of 4 x 4, and one pixel of 2 x 2 that stays as it is.
    assert frames == (("1 2", ""), ("", "1 1"))


def test_thin_masks_are_lost_and_counted():
    # Column 0 of 8: the pixels that are kept are columns 1, 3, 5 and 7.
    spec = InputSpec(height=4, width=4)
    texts = (("1 8", "9 8"), ("", " "))
    frames = frame_masks(texts, np.array([[8, 8], [8, 8]]), spec, ids=["a", "b"])
    assert frames == (("", "1 4"), ("", ""))
    assert count_lost(texts, frames) == 1
    assert count_lost(texts, texts) == 0


def test_all_faults_are_told_at_once():
    texts = (("1 99", "1 2"), ("4 4", "3 2 1 1"), ("1 x", ""))
    with pytest.raises(MaskError) as error:
        frame_masks(
            texts,
            np.array([[4, 4]] * 3),
            SPECS[0],
            ids=["a.jpg", "b.jpg", "c.jpg"],
            classes=["crack", "hole"],
        )
    told = str(error.value)
    assert told.startswith("3 mask(s) do not fit their images: 'a.jpg', class 'crack': ")
    assert "reaches pixel 99, but an image of 4 x 4" in told
    assert "'b.jpg', class 'hole': " in told
    assert "'c.jpg', class 'crack': " in told
    with pytest.raises(MaskError, match=r"'a\.jpg', class 1: "):
        frame_masks(texts[:1], np.array([[4, 4]]), SPECS[2], ids=["a.jpg"])


def test_sizes_are_those_displayed(tmp_path):
    picture = Image.new("RGB", (7, 5))
    picture.save(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    paths = [tmp_path / "turned.jpg", tmp_path / "plain.png"]
    sizes = measure_images(paths)
    assert sizes.dtype == np.int64
    assert sizes.tolist() == [[7, 5], [5, 7]]
    assert measure_images([]).shape == (0, 2)


def test_all_unreadable_images_are_told(tmp_path):
    Image.new("RGB", (7, 5)).save(tmp_path / "fine.png")
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    paths = [tmp_path / name for name in ("text.png", "fine.png", "gone.png")]
    with pytest.raises(TableError, match=r"2 of 3 images(?s:.*)text\.png(?s:.*)gone\.png"):
        measure_images(paths)


@pytest.mark.parametrize(
    "frames",
    [
        (("1 2 7 3", "", "5 1"), ("", "", ""), ("", "", "9 900")),
        (("",),),
        (("",), ("1 1",)),
        (("", ""),),
        ((), ()),
        (),
    ],
)
def test_frames_survive_the_file(tmp_path, frames):
    path = tmp_path / "deep" / "frames.npz"
    write_frames(path, frames)
    assert read_frames(path) == frames
    assert [file.name for file in path.parent.iterdir()] == ["frames.npz"]


def test_a_damaged_file_is_told(tmp_path):
    path = tmp_path / "frames.npz"
    with pytest.raises(RunError, match=r"frames\.npz: no masks of a run"):
        read_frames(path)
    write_frames(path, (("1 2",),))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RunError, match=r"frames\.npz: no masks of a run"):
        read_frames(path)
    np.savez(path, shape=np.array([2, 2]), letters=np.frombuffer(b"1 1\n", np.uint8))
    with pytest.raises(RunError, match=r"2 masks for 2 x 2"):
        read_frames(path)
