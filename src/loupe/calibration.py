"""Calibration: maps from a probability to the frequency that was observed at it.

Owns the maps as data, their text form and how they are applied, wherever a decision
is made. It must not fit one (that is `calibrating`) and imports nothing but NumPy.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError, suggest

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Kind = Literal["none", "temperature", "platt", "isotonic"]

EPS = float(np.finfo(np.float32).eps)
"""Probabilities are kept this far from 0 and 1 before their logit is taken, as by `log_loss`."""
ROWS_AT_ONCE = 1 << 15
"""Rows that are mapped at once, in float64: some MB, whatever N is."""
_LOWEST = -700.0
"""Logits below it are raised to it, as exp(710) has no float64; both are 0 in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One map for all columns, or one for each.

    Attributes:
        kind: Which of the fields below are used; "none" leaves probabilities as they are.
        temperature: Logits are divided by it; above 1 it makes probabilities less certain.
        slopes: (C,) what logits are multiplied by, none below 0.
        intercepts: (C,) what is then added to them.
        knots: For each class, rising probabilities in [0, 1].
        values: For each class, what its knots are mapped to: in [0, 1], never falling.
            Linear between knots, constant outside.
    """

    kind: Kind = "none"
    temperature: float = 1.0
    slopes: tuple[float, ...] = ()
    intercepts: tuple[float, ...] = ()
    knots: tuple[tuple[float, ...], ...] = ()
    values: tuple[tuple[float, ...], ...] = ()


def calibrate(calibration: Calibration, probs: Float32, *, exclusive: bool) -> Float32:
    """Map probabilities to calibrated ones.

    Columns that stand alone keep the order of their rows, so ranking scores stay what
    they are, but for ties where an isotonic map is flat. Exclusive rows are divided by
    their sum after a map of single columns, which can change the order of rows, and by
    a map of each class also which class is the largest; temperature never does.

    Args:
        calibration: From `calibrating`, or read from a rule.
        probs: Probabilities in [0, 1]; rows with NaN (images that could not be read)
            stay NaN.
        exclusive: True if the columns of a row sum to 1: they do so afterwards. A row
            whose mapped values are all 0 is left as it was.

    Shape:
        probs: (N, C).

    Returns:
        (N, C); the same array for the kind "none".

    Raises:
        InputError: the calibration is for another number of classes.

    References:
        Guo et al. (2017), "On calibration of modern neural networks" (temperature);
        Platt (1999), "Probabilistic outputs for support vector machines"; Zadrozny &
        Elkan (2002), "Transforming classifier scores into accurate multiclass
        probability estimates" (isotonic; one map a class, then division by the sum).

    Examples:
        >>> sheet = np.float32([[0.5, 0.25, 0.25]])
        >>> sharper = Calibration(kind="temperature", temperature=0.5)
        >>> calibrate(sharper, sheet, exclusive=True).round(3)
        array([[0.667, 0.167, 0.167]], dtype=float32)
    """
    sheet = np.asarray(probs, np.float32)
    if calibration.kind == "none":
        return sheet
    _check_width(calibration, sheet.shape)
    result = np.empty_like(sheet)
    for start in range(0, len(sheet), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        block = sheet[part].astype(np.float64)
        mapped = _map_block(calibration, block, exclusive=exclusive)
        # A row with one NaN is a row that was not read.
        mapped[np.isnan(block).any(axis=1)] = np.nan
        result[part] = mapped
    return result


def take_logits(probs: Float64) -> Float64:
    """Return log(p / (1 - p)), with p kept `EPS` away from 0 and 1.

    Args:
        probs: In [0, 1], any shape.

    Examples:
        >>> take_logits(np.array([0.5, 0.9])).round(4).tolist()
        [0.0, 2.1972]
    """
    kept = np.clip(probs, EPS, 1 - EPS)
    return np.asarray(np.log(kept / (1 - kept)))


def squash(logits: Float64) -> Float64:
    """Return 1 / (1 + exp(-z)), the inverse of `take_logits`.

    Args:
        logits: Any shape.

    Examples:
        >>> squash(np.array([0.0, 100.0])).tolist()
        [0.5, 1.0]
    """
    return np.asarray(1 / (1 + np.exp(-np.maximum(logits, _LOWEST))))


def calibration_to_dict(calibration: Calibration) -> dict[str, Any]:
    """Return a calibration as plain values, for JSON: only what its kind uses.

    Args:
        calibration: Any.

    Examples:
        >>> calibration_to_dict(Calibration(kind="temperature", temperature=1.5))
        {'kind': 'temperature', 'temperature': 1.5}
    """
    fields: dict[Kind, dict[str, Any]] = {
        "none": {},
        "temperature": {"temperature": calibration.temperature},
        "platt": {
            "slopes": list(calibration.slopes),
            "intercepts": list(calibration.intercepts),
        },
        "isotonic": {
            "knots": [list(line) for line in calibration.knots],
            "values": [list(line) for line in calibration.values],
        },
    }
    return {"kind": calibration.kind, **fields[calibration.kind]}


def read_calibration(values: Mapping[str, Any], *, classes: int) -> Calibration:
    """Read a calibration from plain values; nothing in them is trusted.

    Args:
        values: As `calibration_to_dict` wrote it.
        classes: How many classes it must be for.

    Raises:
        InputError: a field is missing, no number, out of its range, not rising, or not
            one a class; all such findings stand in one message.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"the calibration is {values!r:.80}; expected its fields by name.")
    kind = values.get("kind")
    if kind not in get_args(Kind):
        known = get_args(Kind)
        raise InputError(
            f"calibration of kind {kind!r} is not known; expected one of {', '.join(known)}"
            f"{suggest(str(kind), known)}."
        )
    try:
        read = Calibration(
            kind=cast("Kind", kind),
            temperature=float(values["temperature"]) if kind == "temperature" else 1.0,
            slopes=_read_line(values["slopes"]) if kind == "platt" else (),
            intercepts=_read_line(values["intercepts"]) if kind == "platt" else (),
            knots=_read_lines(values["knots"]) if kind == "isotonic" else (),
            values=_read_lines(values["values"]) if kind == "isotonic" else (),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the {kind} calibration cannot be read: {type(error).__name__} {error}. Expected "
            "what 'loupe decide' writes; run it again."
        ) from None
    wrong = _find_faults(read, classes)
    if wrong:
        raise InputError(
            f"the {kind} calibration is not valid: {'; '.join(wrong)}. Run 'loupe decide' again."
        )
    return read


def _map_block(calibration: Calibration, block: Float64, *, exclusive: bool) -> Float64:
    """Map some rows; `block` is left as it is."""
    if calibration.kind == "temperature":
        if exclusive:
            return _soften(block, calibration.temperature)
        return squash(take_logits(block) / calibration.temperature)
    if calibration.kind == "platt":
        slopes, intercepts = np.array(calibration.slopes), np.array(calibration.intercepts)
        mapped = squash(take_logits(block) * slopes + intercepts)
    else:
        mapped = np.empty_like(block)
        lines = zip(calibration.knots, calibration.values, strict=True)
        for column, (knots, values) in enumerate(lines):
            mapped[:, column] = np.interp(block[:, column], knots, values)
    if exclusive:
        sums = mapped.sum(axis=1, keepdims=True)
        mapped = np.divide(mapped, sums, out=block.copy(), where=sums > 0)
    return mapped


def _soften(block: Float64, temperature: float) -> Float64:
    """Return softmax(log p / T) by row."""
    logs = np.log(np.maximum(block, EPS)) / temperature
    logs -= logs.max(axis=1, keepdims=True)
    powers = np.exp(logs)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _check_width(calibration: Calibration, shape: tuple[int, ...]) -> None:
    maps = {"platt": len(calibration.slopes), "isotonic": len(calibration.knots)}
    found = maps.get(calibration.kind)
    if len(shape) != 2 or found not in (None, shape[1]):
        raise InputError(
            f"probabilities have shape {shape}; expected (N, C), a row a sample, and as many "
            f"columns as the {calibration.kind} calibration was fitted on"
            f"{'' if found is None else f', {found}'}."
        )


def _read_line(values: Sequence[Any]) -> tuple[float, ...]:
    if isinstance(values, str):
        raise TypeError("a text instead of a list of numbers")
    return tuple(float(value) for value in values)


def _read_lines(values: Sequence[Any]) -> tuple[tuple[float, ...], ...]:
    return tuple(_read_line(line) for line in values)


def _find_faults(calibration: Calibration, classes: int) -> list[str]:
    """Say what is wrong with each field that the kind uses."""
    if calibration.kind == "temperature":
        found = calibration.temperature
        return [] if np.isfinite(found) and found > 0 else [f"temperature {found}, expected > 0"]
    if calibration.kind == "platt":
        lines = {"slopes": calibration.slopes, "intercepts": calibration.intercepts}
        wrong = [
            f"{len(line)} {name}, expected {classes}"
            for name, line in lines.items()
            if len(line) != classes
        ]
        if not all(np.isfinite([*calibration.slopes, *calibration.intercepts])):
            wrong.append("a slope or an intercept that is not finite")
        return wrong + (["a slope below 0"] if min(calibration.slopes, default=0) < 0 else [])
    if calibration.kind == "isotonic":
        if not len(calibration.knots) == len(calibration.values) == classes:
            counts = f"{len(calibration.knots)} and values for {len(calibration.values)}"
            return [f"knots for {counts} classes, expected {classes} of each"]
        stairs = zip(calibration.knots, calibration.values, strict=True)
        faults = [_find_line_fault(np.array(knots), np.array(values)) for knots, values in stairs]
        return [f"class {place}: {fault}" for place, fault in enumerate(faults, 1) if fault]
    return []


def _find_line_fault(knots: Float64, values: Float64) -> str:
    """Say what is wrong with one isotonic map; "" if nothing is. NaN fails each test."""
    if not len(knots) or knots.shape != values.shape:
        return f"{len(knots)} knots for {len(values)} values, expected as many, and one or more"
    if not ((knots >= 0) & (knots <= 1) & (values >= 0) & (values <= 1)).all():
        return "a knot or a value outside [0, 1]"
    if not (np.diff(knots) > 0).all():
        return "knots that do not rise"
    return "" if (np.diff(values) >= 0).all() else "values that fall"
