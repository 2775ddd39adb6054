"""Apart: what is known once two tables of images were compared, in numbers and words.

Owns the report of adversarial validation, its verdict and its file. It must not measure
anything: that is `adversarial`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loupe.cells import write_cells
from loupe.errors import shorten

Side = Literal["ours", "other"]

EVERYTHING = "everything"
"""What the classifier goes by as a rule: all that was measured."""
CONTENT = "what it shows"
"""Name of what frozen features say, all together."""
COLUMNS = ("id", "table", "probability", "remoteness", "reasons", "copy_of")
"""Columns of the file that `write_apart` writes."""

_DEGREES = ((0.6, "slightly"), (0.8, "clearly"), (0.95, "strongly"), (1.01, "almost completely"))
_SLIGHT = _DEGREES[0][0]
_LARGEST_P = 0.025  # one-sided, as fits an interval of 95 %
_FEW_GROUPS = 10
_ADVICE_SLIGHT = "scores of ours should roughly hold there; look at the images least like ours"
_ADVICE_CLEAR = (
    "scores measured on ours may not hold there: label 50 images of the other table, drawn at "
    "random, and run `loupe score`; look at the images least like ours"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Separation:
    """How well the tables are told apart by some of what was measured.

    Attributes:
        by: "everything", a kind of statistics, or `CONTENT`.
        auc: Chance that an image of the other table looks more like the other's than
            one of ours does; held out. 0.5 is chance, 1 is always.
        low: Lower end of its 95 % interval, from a bootstrap over groups.
        high: Upper end.
    """

    by: str
    auc: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """How one statistic differs. Nothing is fitted, so nothing need be held out.

    Attributes:
        name: Of the statistic, one of `loupe.appearance.NAMES`.
        kind: What it speaks of: file, light, colour or texture.
        direction: "higher" or "lower" in the other table; "alike" where the interval
            holds 0.5.
        auc: Chance that an image of the other table has the more extreme value in this
            direction, 0.5 or above.
        low: Lower end of its interval, of 95 % for all statistics together.
        high: Upper end.
        ours: Median in our table.
        other: Median in the other.
    """

    name: str
    kind: str
    direction: Literal["higher", "lower", "alike"]
    auc: float
    low: float
    high: float
    ours: float
    other: float

    def __str__(self) -> str:
        if self.direction == "alike":
            return f"{self.name}: alike (AUC {self.auc:.2f})"
        return (
            f"{self.name}: {self.direction} in the other table, AUC {self.auc:.2f} "
            f"(median {self.other:.3g}, ours {self.ours:.3g})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One image, and how foreign it looks.

    Attributes:
        id: The row.
        table: "ours" or "other".
        probability: Held-out chance that it is of the other table, if both were of
            one size.
        remoteness: Share of our images that lie nearer to their kin than this one
            lies to ours; 1 is further out than all. Needs no classifier, so it also
            finds the odd one of many.
        reasons: Up to three, what spoke most for the other table first.
        copy_of: Id of an image of the opposite table that shows the same; else "".
    """

    id: str
    table: Side
    probability: float
    remoteness: float
    reasons: tuple[str, ...]
    copy_of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """An image of the other table that also stands in ours.

    Attributes:
        other: Its id in the other table.
        ours: Id of the most alike image of ours.
        kind: "equal" pixels, "near" alike, or "linked" by copies of copies.
    """

    other: str
    ours: str
    kind: Literal["equal", "near", "linked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """An image that was left out because its file cannot be read."""

    id: str
    table: Side
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """All that `tell_apart` found.

    Attributes:
        ours: Readable images of our table.
        other: Readable images of the other.
        total: Told apart by everything.
        p_value: Share of random exchanges of groups between the tables that are told
            apart as well as the tables are.
        kinds: By one kind of statistics alone, the best first.
        shifts: Of each statistic, the largest difference first.
        images: All that could be read: the other table's first, and those least like
            ours first: by remoteness, then probability.
        shared: Images of the other table that stand in ours too.
        shared_groups: Group names that stand in both tables.
        unread: Images left out.
        verdict: One sentence on how different the tables are.
        advice: What to do next.
        notes: What limits the result.
    """

    ours: int
    other: int
    total: Separation
    p_value: float
    kinds: tuple[Separation, ...]
    shifts: tuple[Shift, ...]
    images: tuple[Placed, ...]
    shared: tuple[Shared, ...]
    shared_groups: tuple[str, ...]
    unread: tuple[Unread, ...]
    verdict: str
    advice: str
    notes: tuple[str, ...]

    @property
    def least_like_ours(self) -> tuple[Placed, ...]:
        """The other table's images, those least like ours first."""
        return tuple(image for image in self.images if image.table == "other")


def judge(total: Separation, p_value: float, shifts: Sequence[Shift] = ()) -> tuple[str, str]:
    """Say in words how different two tables are, and what to do next.

    Args:
        total: Told apart by everything.
        p_value: Of the area, if the tables do not differ; one-sided.
        shifts: Of each statistic. Where one differs beyond chance by itself, this is
            said, though everything together may drown it.

    Returns:
        Verdict and advice. Where the interval reaches down to 0.5, or the p-value is
        above 0.025, and no statistic differs by itself, the verdict is "no evidence that
        the tables differ", in these words.

    Examples:
        >>> judge(Separation(by=EVERYTHING, auc=0.52, low=0.47, high=0.57), 0.3)[0]
        'no evidence that the tables differ (AUC 0.52, 95 % interval 0.47 to 0.57)'
        >>> judge(Separation(by=EVERYTHING, auc=0.71, low=0.66, high=0.76), 0.01)[0]
        'the tables differ clearly (AUC 0.71, 95 % interval 0.66 to 0.76)'
    """
    figures = f"(AUC {total.auc:.2f}, 95 % interval {total.low:.2f} to {total.high:.2f})"
    alone = [f"{shift.name} {shift.auc:.2f}" for shift in shifts if shift.direction != "alike"]
    if not (total.low > 0.5 and p_value <= _LARGEST_P):  # so also where they are NaN
        if alone:
            verdict = (
                f"the tables differ in single statistics (AUC: {shorten(alone, 3)}), but not "
                f"measurably by everything together {figures}"
            )
            return verdict, _ADVICE_SLIGHT
        advice = "nothing measured here speaks against scores of ours holding there"
        if total.high > _SLIGHT:
            advice += (
                f"; but an AUC up to {total.high:.2f} is not excluded: add images to know more"
            )
        return f"no evidence that the tables differ {figures}", advice
    degree = next(word for end, word in _DEGREES if total.auc < end)
    advice = _ADVICE_SLIGHT if total.auc < _SLIGHT else _ADVICE_CLEAR
    return f"the tables differ {degree} {figures}", advice


def note_doubts(
    kinds: Sequence[Separation],
    shared: Sequence[Shared],
    shared_groups: Sequence[str],
    groups: Mapping[Side, int],
) -> tuple[str, ...]:
    """List what the reader must know beside the verdict.

    Args:
        kinds: Told apart by one kind of statistics alone.
        shared: Images that stand in both tables.
        shared_groups: Group names that stand in both.
        groups: How many groups each table has, copies together.
    """
    notes = []
    if shared:
        kept = {kind: sum(s.kind == kind for s in shared) for kind in ("equal", "near", "linked")}
        spelt = ", ".join(f"{n} {kind}" for kind, n in kept.items() if n)
        notes.append(
            f"{len(shared):,} image(s) of the other table stand in ours too ({spelt}): if it is "
            "meant to be held out, this is a leak, and scores on these images flatter"
        )
    if shared_groups:
        notes.append(
            f"{len(shared_groups):,} group name(s) stand in both tables and were held out "
            "together; if they are the same parts, scores on the other table flatter"
        )
    few = [f"{name} {n}" for name, n in groups.items() if n < _FEW_GROUPS]
    if few:
        notes.append(
            f"few groups ({', '.join(few)}): one odd group can make the tables differ, and the "
            "intervals are too narrow"
        )
    pixels = [kind for kind in kinds if kind.by != "file"]
    by_file = [kind for kind in kinds if kind.by == "file" and kind.low > 0.5]
    if by_file and not any(kind.low > 0.5 for kind in pixels):
        notes.append(
            "the files differ (size, compression), the pictures in them do not: a network that "
            "sees them resized may not care"
        )
    if CONTENT not in {kind.by for kind in kinds}:
        notes.append(
            "statistics of the pictures alone were used; with pretrained weights (--weights DIR "
            "or $LOUPE_WEIGHTS) what the pictures show is compared as well"
        )
    return tuple(notes)


def describe_apart(report: Apart, *, most: int = 5) -> tuple[str, ...]:
    """Say in lines what was found, the verdict first, for a screen.

    Args:
        report: From `loupe.adversarial.tell_apart`.
        most: How many statistics and images to list.
    """
    lines = [f"{report.ours:,} images of ours, {report.other:,} of the other table"]
    lines.append(report.verdict)
    told = [f"{kind.by} {kind.auc:.2f} ({kind.low:.2f}-{kind.high:.2f})" for kind in report.kinds]
    lines.append(f"told apart by one kind alone, AUC: {', '.join(told)}")
    lines += [f"  {shift}" for shift in report.shifts[:most] if shift.direction != "alike"]
    lines.append("least like ours:")
    for image in report.least_like_ours[:most]:
        copy = f"; shows the same as {image.copy_of}" if image.copy_of else ""
        lines.append(
            f"  {image.id}: further out than {image.remoteness:.0%} of ours, "
            f"probability {image.probability:.2f} ({', '.join(image.reasons) or 'nothing'}){copy}"
        )
    for side, name in (("ours", "ours"), ("other", "the other table")):
        lost = [image.id for image in report.unread if image.table == side]
        if lost:
            lines.append(f"! {len(lost):,} image(s) of {name} cannot be read: {shorten(lost)}")
    lines += [f"! {note}" for note in report.notes]
    lines.append(f"next: {report.advice}")
    return tuple(lines)


def write_apart(report: Apart, path: Path) -> None:
    """Write the images as CSV with the columns of `COLUMNS`, whole or not at all.

    The other table's come first, those least like ours first; then ours; then those
    whose file cannot be read, with the reason.

    Args:
        report: From `loupe.adversarial.tell_apart`.
        path: The file; its folder is made.
    """
    rows = [
        [
            image.id,
            image.table,
            f"{image.probability:.4f}",
            f"{image.remoteness:.4f}",
            "; ".join(image.reasons),
            image.copy_of,
        ]
        for image in report.images
    ]
    rows += [[lost.id, lost.table, "", "", lost.reason, ""] for lost in report.unread]
    write_cells(path, COLUMNS, rows)
