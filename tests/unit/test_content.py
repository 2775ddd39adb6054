"""Features of both tables by one network; damaged files keep their row."""

from dataclasses import replace

import numpy as np
import pytest

from loupe.content import frozen_features
from loupe.errors import WeightsError
from loupe.progress import Silent


class Heard(Silent):
    def __init__(self):
        self.begun, self.done = [], []

    def begin(self, *told):
        self.begun.append(told)

    def advance(self, *told):
        self.done.append(told)


@pytest.fixture(scope="module")
def alone(save_weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    save_weights(folder, "test_resnet")
    return folder


def test_features_belong_to_their_rows(binary, alone, tmp_path):
    other = binary.select([5, 2, 0])
    other = replace(other, images=(other.images[0], tmp_path / "gone.png", other.images[2]))
    heard = Heard()
    ours, theirs = frozen_features((binary, other), alone, device="cpu", reporter=heard)
    assert ours.shape == (16, theirs.shape[1])
    assert ours.dtype == theirs.dtype == np.float32
    assert np.isfinite(ours).all()
    assert np.isnan(theirs[1]).all()
    assert theirs[[0, 2]] == pytest.approx(ours[[5, 0]], abs=1e-4)
    assert np.abs(ours[0] - ours[5]).max() > 1e-3
    assert heard.begun == [("features of test_resnet", 19)]
    assert heard.done == [(16,), (19,)]


def test_without_weights_there_are_none(binary, alone, tmp_path, monkeypatch):
    assert frozen_features((binary, binary), device="cpu") is None
    assert frozen_features((binary, binary), tmp_path, device="cpu") is None
    monkeypatch.setenv("LOUPE_WEIGHTS", str(alone))
    assert frozen_features((binary.select([0]), binary.select([1])), device="cpu") is not None
    with pytest.raises(WeightsError, match="no folder"):
        frozen_features((binary, binary), tmp_path / "gone", device="cpu")
