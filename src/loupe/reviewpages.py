"""Review pages: what the page of one issue says, as plain values for its template.

Owns the words of the page. It must not know HTTP, or write anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from loupe.desks import Desk, Strip
from loupe.errors import LoupeError
from loupe.issues import Issue, Key
from loupe.queues import Choice, choose_issues, find_next
from loupe.reviews import Review, settle_reviews
from loupe.rowimages import CRISP_SIDE

_NO_BASIS = "Spread over the table: no features or probabilities say which rows are alike."
MOST_KEYS = 9
"""Labels that get a key of their own, 1 to 9; more are found by typing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumb:
    """A small image beside the large one.

    Attributes:
        id: Of its row.
        plain: Address of the image.
        drawn: Address of the image with its given mask; the same if it has none.
        label: Its given label.
        mark: What is known of that label: "flagged", or what was decided; "" for nothing.
    """

    id: str
    plain: str
    drawn: str
    label: str
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Thumbs under one heading.

    Attributes:
        kind: As in `Strip`.
        title: What they have in common, before the label.
        label: Their label; "" if it is no label.
        thumbs: The nearest first.
    """

    kind: str
    title: str
    label: str
    thumbs: tuple[Thumb, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """The image of the issue itself.

    Attributes:
        plain: Address of the image; "" if it cannot be shown.
        drawn: Address of the image with its given mask; the same if it has none.
        full: Address of the image in all its pixels.
        size: Of the image, "width x height px".
        crisp: True if the image is small and its pixels are to be seen.
        fault: Why there is no image, or no mask; "" if all is well.
    """

    plain: str = ""
    drawn: str = ""
    full: str = ""
    size: str = ""
    crisp: bool = False
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuePage:
    """What the page of one issue says.

    Attributes:
        issue: What is in doubt.
        percent: Its quality in percent.
        number: Which of the chosen issues it is, from 1; 0 if it is none of them.
        back: Place of the issue before it; None at the first.
        ahead: Place of the issue after it; None at the last.
        standing: What was decided about it.
        labels: What it can be relabelled to, each with its key or "".
        image: The image itself.
        rows: What to compare it with.
        basis: In what neighbours are near, as a sentence.
        preload: Images of the next page.
    """

    issue: Issue
    percent: str
    number: int
    back: int | None
    ahead: int | None
    standing: Review | None
    labels: tuple[tuple[str, str], ...]
    image: Large
    rows: tuple[Row, ...] = ()
    basis: str = ""
    preload: tuple[str, ...] = ()


def describe_issue(desk: Desk, place: int, choice: Choice) -> IssuePage:
    """Describe the page of an issue.

    Args:
        desk: What is reviewed.
        place: Of the issue.
        choice: Among which issues it is looked at.
    """
    issue = desk.sheet.issues[place]
    places = choose_issues(desk.sheet.issues, choice)
    at = places.index(place) if place in places else -1
    standing = settle_reviews(desk.reviews())
    names = desk.list_labels(issue)
    keyed = len(names) <= MOST_KEYS
    labels = tuple((name, str(n) if keyed else "") for n, name in enumerate(names, 1))
    row = desk.rows.get(issue.id)
    image = Large(fault="The table has no row with this id.")
    if row is not None:
        image = _describe_image(desk, row, issue)
    rows = tuple(_describe_strip(desk, strip, issue, standing) for strip in desk.find_strips(issue))
    return IssuePage(
        issue=issue,
        percent=f"{issue.quality:.0%}" if issue.quality >= 0.1 else f"{issue.quality:.1%}",
        number=at + 1,
        back=places[at - 1] if at > 0 else None,
        ahead=places[at + 1] if 0 <= at < len(places) - 1 else None,
        standing=standing.get(issue.key),
        labels=labels,
        rows=rows,
        basis=f"Most alike {desk.basis}." if desk.basis else _NO_BASIS,
        preload=_list_preload(desk, place, choice),
        image=image,
    )


def _describe_image(desk: Desk, row: int, issue: Issue) -> Large:
    plain, drawn = _spell_images(desk, row, "page", issue)
    try:
        picture = desk.images.draw(row, "page", None if drawn == plain else issue.class_name)
    except LoupeError as error:
        return Large(fault=f"This image cannot be shown: {error}")
    return Large(
        plain=plain,
        drawn=drawn,
        full=_spell_images(desk, row, "full", issue)[1],
        size=f"{picture.width} × {picture.height} px",  # noqa: RUF001 - a multiplication sign
        crisp=max(picture.width, picture.height) <= CRISP_SIDE,
        fault=picture.note,
    )


def _spell_images(desk: Desk, row: int, size: str, issue: Issue) -> tuple[str, str]:
    """Return the addresses of an image without and with its given mask."""
    plain = f"/image/{row}/{size}"
    if not desk.segments or not desk.images.has_mask(row, issue.class_name):
        return plain, plain
    return plain, f"{plain}?mask={quote(issue.class_name, safe='')}"


def _describe_strip(desk: Desk, strip: Strip, issue: Issue, standing: Mapping[Key, Review]) -> Row:
    alike = "Others" if desk.space is None else "Most alike"
    titles = {
        "given": f"{alike}, labelled",
        "suggested": f"{alike}, labelled",
        "other": f"{alike} with another label",
        "near": alike,
        "group": "Same group",
    }
    thumbs = []
    for row in strip.rows:
        plain, drawn = _spell_images(desk, row, "thumb", issue)
        review = standing.get((desk.table.ids[row], issue.class_name))
        mark = "flagged" if desk.flagged(row, issue) else ""
        thumbs.append(
            Thumb(
                id=desk.table.ids[row],
                plain=plain,
                drawn=drawn,
                label=desk.label(row, issue),
                mark=mark if review is None else spell_review(review),
            )
        )
    return Row(kind=strip.kind, title=titles[strip.kind], label=strip.label, thumbs=tuple(thumbs))


def spell_review(review: Review) -> str:
    """Say what was decided, in the words of the page.

    Args:
        review: A decision that stands.
    """
    if review.decision == "relabel":
        return f"relabelled {review.label}"
    return {"keep": "kept", "drop": "dropped", "skip": "skipped"}.get(review.decision, "")


def _list_preload(desk: Desk, place: int, choice: Choice) -> tuple[str, ...]:
    """Return the images of the issue that will come if this one is decided."""
    following = find_next(desk.sheet.issues, desk.reviews(), choice, after=place)
    if following is None or following == place:
        return ()
    issue = desk.sheet.issues[following]
    row = desk.rows.get(issue.id)
    if row is None:
        return ()
    thumbs = (r for strip in desk.find_strips(issue) for r in strip.rows)
    addresses = [_spell_images(desk, row, "page", issue)[1]]
    return (*addresses, *(_spell_images(desk, r, "thumb", issue)[1] for r in thumbs))
