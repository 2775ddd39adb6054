"""Label quality: how far each given label is to be trusted, from held-out probabilities.

Owns the model of wrong labels, the default ranking and the ones to compare it with. It must not
flag anything, or know ids and files.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from loupe.errors import InputError
from loupe.noise import count_joint
from loupe.weighting import Float64, Floats, Integers

Ranking = Literal["posterior", "self_confidence", "margin"]
"""`posterior` is the default, see `rank_labels`; the others are those of confident learning."""

SHARPNESS = 1.5
"""Power of the probabilities: who learns from wrong labels is less sure than could be."""
FLOOR = 1e-3
"""Added to each probability: no class is impossible."""
PRIOR_ROWS = 100.0
"""How many rows of each class the prior counts for: labels wrong at one rate, in any direction."""
ROUNDS = 20
"""Of expectation and maximisation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseModel:
    """How true classes come to be labelled, and what each row therefore is.

    Attributes:
        transition: (C, C) share of the rows of each true class that are labelled as each class.
        posterior: (N, C) probability of each true class, given the image and its label.
    """

    transition: Float64
    posterior: Float64


def fit_noise_model(given: Integers, probs: Floats, weights: Floats | None = None) -> NoiseModel:
    """Fit how true classes come to be labelled, and the true class of each row.

    The held-out probabilities, sharpened to ``q = (p + FLOOR)^SHARPNESS``, stand for the true
    class; labels follow from it by one matrix T for all rows. Then P(true = k) is proportional
    to ``q_k T[k, given]``. T starts from confident counts and is fitted by expectation and
    maximisation, with a prior that sends all errors everywhere alike: few rows move it little.

    Args:
        given: Numbers of the given classes.
        probs: Held-out probabilities.
        weights: How often each row counts, as in a resample; once if None.

    Shape:
        given, weights: (N,). probs: (N, C).

    References:
        Dawid & Skene (1979), "Maximum likelihood estimation of observer error-rates using the
        EM algorithm", Applied Statistics 28, with a network for the second observer.

    Examples:
        >>> given = np.array([0, 0, 0, 1, 1, 1])
        >>> first = np.array([0.9, 0.8, 0.1, 0.2, 0.1, 0.3])
        >>> model = fit_noise_model(given, np.stack([first, 1 - first], axis=1))
        >>> model.posterior[:, 0].round(1)
        array([1. , 1. , 0.2, 0. , 0. , 0. ])
    """
    joint = count_joint(given, probs).T.astype(np.float64)
    sharp = (probs.astype(np.float64) + FLOOR) ** SHARPNESS
    sharp /= sharp.sum(axis=1, keepdims=True)
    counted = np.ones(len(given)) if weights is None else weights.astype(np.float64)
    rows = [np.flatnonzero(given == number) for number in range(probs.shape[1])]
    transition = _smooth(joint)
    posterior = np.empty_like(sharp)
    for _ in range(ROUNDS + 1):
        for number, own in enumerate(rows):
            found = sharp[own] * transition[:, number]
            posterior[own] = found / found.sum(axis=1, keepdims=True)
            joint[:, number] = counted[own] @ posterior[own]
        fitted, transition = transition, _smooth(joint)
    return NoiseModel(transition=fitted, posterior=posterior)


def rank_labels(
    given: Integers, probs: Floats, ranking: Ranking = "posterior", model: NoiseModel | None = None
) -> Float64:
    """Return the quality of each given label, in [0, 1]; low is suspect.

    `posterior` is the mean of two numbers in [0, 1]: the probability that the label is right under
    the noise model, and the margin of the given class over the best other one. The model knows
    which classes are mistaken for each other; the margin holds where there are too few rows to
    tell. Of what `votes.mix_votes` returns it is the default of an audit, see
    `benchmarks/label_noise.py` for what it was compared with.

    Args:
        given: Numbers of the given classes.
        probs: Held-out probabilities.
        ranking: Which; `self_confidence` is the probability of the given class, `margin` its
            lead over the best other one, scaled to [0, 1].
        model: Fitted on the same rows; fitted here if None.

    Shape:
        given: (N,). probs: (N, C). Returns: (N,).

    Raises:
        InputError: there is no such ranking.
    """
    at = np.arange(len(given))
    own = probs[at, given].astype(np.float64)
    if ranking == "self_confidence":
        return own
    others = probs.astype(np.float64)
    others[at, given] = -np.inf
    margin = (1 + own - others.max(axis=1)) / 2
    if ranking == "margin":
        return np.asarray(margin)
    if ranking != "posterior":
        raise InputError(f"ranking is {ranking!r}; expected one of {', '.join(get_args(Ranking))}.")
    model = model or fit_noise_model(given, probs)
    return np.asarray((model.posterior[at, given] + margin) / 2)


def _smooth(joint: Float64) -> Float64:
    """Turn counts, true by given, into shares, pulled to one rate of error in all directions."""
    count = len(joint)
    rate = 1 - joint.trace() / joint.sum()
    prior = np.full((count, count), rate / max(count - 1, 1))
    np.fill_diagonal(prior, 1 - rate)
    return np.asarray(
        (joint + PRIOR_ROWS * prior) / (joint.sum(axis=1, keepdims=True) + PRIOR_ROWS)
    )
