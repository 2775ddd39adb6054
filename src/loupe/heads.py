"""The last layer solved on frozen features: ridge logistic regression by L-BFGS.

It must not see pixels or held-out rows: it is given features and row numbers.

Shapes: N rows, V views, D features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from loupe.data import Rows, Samples
from loupe.losses import LossFunction
from loupe.table import Float32

L2_GRID = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4)
"""Ridge penalties tried by `l2: auto`, strongest first (each starts the next)."""
_LBFGS_STEPS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A fitted last layer, for features as they are (not standardised).

    Attributes:
        weight: (C, D).
        bias: (C,).
        l2: Ridge penalty, given or chosen.
        loss: Mean loss over the rows fitted, without the penalty.
    """

    weight: Tensor
    bias: Tensor
    l2: float
    loss: float


def fit_head(
    features: Tensor,
    samples: Samples,
    *,
    loss: LossFunction,
    rows: Rows,
    inner: Rows,
    l2: float | Literal["auto"],
) -> Head:
    """Fit the last layer on standardised features; the scaling is folded in.

    Args:
        features: Of all rows and views.
        samples: Targets and weights of all rows.
        loss: From `build_loss`.
        rows: Row numbers to fit.
        inner: A part of `rows` on which `l2="auto"` is judged; the final fit
            uses all of `rows`.
        l2: Ridge penalty on standardised features, or `auto`.

    Shape:
        features: (N, V, D).
    """
    mean, scale = _standardise(features[rows])
    fitted = _Flat.of(features, samples, rows, mean, scale)
    classes = fitted.targets.shape[1]
    start = (
        torch.zeros(classes, features.shape[2], device=features.device),
        torch.zeros(classes, device=features.device),
    )
    if l2 == "auto":
        kept = rows[~np.isin(rows, inner)]
        judged = _Flat.of(features, samples, inner, mean, scale)
        l2 = _choose_l2(_Flat.of(features, samples, kept, mean, scale), judged, loss, start)
    weight, bias = fit_logistic(
        fitted.features, fitted.targets, loss, l2, start, fitted.row_weights
    )
    final = loss(
        functional.linear(fitted.features, weight, bias), fitted.targets, fitted.row_weights
    )
    weight = weight * scale
    return Head(weight=weight, bias=bias - weight @ mean, l2=l2, loss=float(final))


def fit_logistic(
    features: Tensor,
    targets: Tensor,
    loss: LossFunction,
    l2: float,
    start: tuple[Tensor, Tensor],
    row_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Minimise mean loss + l2/2 |W|^2 by L-BFGS.

    The bias is not penalised. With one-hot targets and no smoothing this is
    scikit-learn's LogisticRegression with C = 1 / (l2 x rows).

    Args:
        features: Standardised features.
        targets: In [0, 1].
        loss: From `build_loss`.
        l2: Ridge penalty.
        start: Weight and bias to start from.
        row_weights: Weight of each row in the loss, or None.

    Shape:
        features: (N, D). targets: (N, C). weight: (C, D). bias: (C,).
        row_weights: (N,).

    Returns:
        Weight and bias.

    References:
        Liu & Nocedal (1989), On the limited memory BFGS method, Mathematical
        Programming 45.
    """
    weight, bias = (value.clone().requires_grad_() for value in start)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_LBFGS_STEPS,
        tolerance_grad=1e-5,
        tolerance_change=1e-8,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        logits = functional.linear(features, weight, bias)
        value = loss(logits, targets, row_weights) + 0.5 * l2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(objective)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


@dataclass(frozen=True, slots=True)
class _Flat:
    """Rows and views laid end to end: features (N V, D), targets (N V, C)."""

    features: Tensor
    targets: Tensor
    row_weights: Tensor | None

    @classmethod
    def of(
        cls, features: Tensor, samples: Samples, rows: Rows, mean: Tensor, scale: Tensor
    ) -> _Flat:
        chosen = (features[rows] - mean) * scale
        views = chosen.shape[1]

        def repeat(values: Float32) -> Tensor:
            return (
                torch.from_numpy(values[rows]).to(features.device).repeat_interleave(views, dim=0)
            )

        weights = None if samples.weights is None else repeat(samples.weights)
        return cls(chosen.flatten(0, 1), repeat(samples.targets), weights)


def _standardise(features: Tensor) -> tuple[Tensor, Tensor]:
    flat = features.flatten(0, 1)
    # A feature that never changes is left alone instead of blown up.
    deviation = flat.std(dim=0)
    scale = torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), torch.ones_like(deviation))
    return flat.mean(dim=0), scale


def _choose_l2(
    fitted: _Flat, judged: _Flat, loss: LossFunction, start: tuple[Tensor, Tensor]
) -> float:
    """Judge the grid on rows that are not fitted."""
    if not len(judged.features):
        return L2_GRID[len(L2_GRID) // 2]
    losses = []
    for l2 in L2_GRID:
        start = fit_logistic(fitted.features, fitted.targets, loss, l2, start, fitted.row_weights)
        logits = functional.linear(judged.features, *start)
        losses.append(float(loss(logits, judged.targets, judged.row_weights)))
    return L2_GRID[min(range(len(losses)), key=losses.__getitem__)]
