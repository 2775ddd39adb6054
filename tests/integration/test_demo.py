"""The demo keeps its promises: copies found, scores above chance, used again when finished."""

from __future__ import annotations

import numpy as np
import pytest

import loupe
from loupe.scoring import read_scores


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return loupe.demo(tmp_path_factory.mktemp("demo") / "demo")


@pytest.mark.slow
def test_demo_scores_above_prevalence_and_finds_the_planted_copies(made):
    precision = next(s for s in read_scores(made.run) if s.metric == "average_precision")
    prevalence = float(np.mean(made.truth.targets_given))
    assert precision.low > prevalence
    assert made.found_copies >= 0.9 * len(made.truth.duplicates)
    assert made.predictions.readable.all()


@pytest.mark.slow
def test_demo_again_uses_what_is_there(made):
    before = made.run.scores_file.stat().st_mtime_ns
    again = loupe.demo(made.truth.folder.parent)
    assert again.run.scores_file.stat().st_mtime_ns == before
    np.testing.assert_array_equal(again.predictions.probs, made.predictions.probs)


@pytest.mark.slow
def test_demo_draws_stains_behind_its_classifier(made):
    scores = {(s.metric, s.class_name): s.value for s in read_scores(made.masks)}
    assert scores["dice_given_found", "stain"] > 0.5
    assert made.masks.contact_file.is_file()
    assert made.cascaded.masks.ids == made.predictions.ids
    assert [stage.name for stage in made.cascaded.stages] == ["decode", "labels", "masks"]
