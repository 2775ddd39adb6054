"""Data health: the part of a report about the table, before any network is asked.

Owns what is said of counts, sizes, copies and contradictions, and the charts of them. It must
not decode all images (it is given what `check` found), judge a label, or change a table.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loupe.checking import CheckReport, Sizes
from loupe.datasamples import show_samples
from loupe.decoding import DamagedImageError, read_size
from loupe.errors import InputError, shorten
from loupe.figures import BLUE, FAINT, INK, add_axes, drawing, finish_figure
from loupe.findings import Finding
from loupe.origins import parse_origin
from loupe.reportparts import Block, Chart, Commands, Facts, Grid, Section, Text
from loupe.table import ALWAYS_TRAINED, HOLDOUT, Table, count_classes

Rows = NDArray[np.intp]

SHOWN_FINDINGS = 30
"""Findings on the page; the command beside them lists all."""
_MOST_BARS = 60  # a taller chart is no longer looked at
_READ_SIZES = 2000  # headers of files to read: a second or two
_MOST_SPOTS = 1000  # different sizes in the chart; more are joined with their neighbours
_STEPS = 60
_LEAST_AREA, _MOST_AREA, _MANY = 10, 260, 20  # of a spot, in square points; images it holds
_UNBALANCED = 10.0  # to 1: from about here on accuracy says little of the rare class
_WIDEST_LOG = 8.0  # sizes further apart than this factor go on a logarithmic scale
_LETTER = 0.022  # width of a letter beside a bar, as a share of the longest bar
# Room is left for it; the layout would measure each of them, which takes longest of all.
_BESIDE: Any = {
    "textcoords": "offset points", "va": "center", "fontsize": 8.5, "in_layout": False,
}  # fmt: skip
_NAME_WIDTH = 30  # columns of a name beside a bar


def describe_table(
    table: Table, *, check: CheckReport | None, seed: int = 0, source: str = "TABLE"
) -> Section:
    """Say what is in a table, what is wrong with it, and show some of its images.

    Args:
        table: Labels may be missing.
        check: What `loupe.check` found in it; None if nobody looked, which the part says.
        seed: Of the choice of sample images.
        source: What to type for the table in commands.

    Raises:
        InputError: `check` is about a table of another length.
    """
    if check is not None and check.rows != len(table):
        raise InputError(
            f"the check is about {check.rows:,} rows, the table has {len(table):,}; expected the "
            "check of this table."
        )
    blocks: list[Block] = [*_spell_classes(table), *_list_facts(table)]
    if table.classes:
        blocks.append(_draw_classes(table))
    blocks += [*_draw_per_image(table), *_describe_sizes(table, check)]
    blocks += _describe_check(check, source)
    blocks += show_samples(table, seed=seed)
    return Section(key="data", title="Data health", blocks=tuple(blocks))


def _spell_classes(table: Table) -> Iterator[Text]:
    """Say how large the table is, and how unequal its classes."""
    n, counts = len(table), _count_bars(table)
    if not table.classes:
        yield Text(text=f"{n:,} images without labels.", tone="warn")
        return
    if len(table.classes) == 1:
        held = counts[table.classes[0]]
        yield Text(text=f"{n:,} images; {_share(held, n)} are {table.classes[0]!r}.")
    elif table.exclusive:
        yield Text(text=f"{n:,} images, each of one of {len(table.classes)} classes.")
    else:
        none = int((_count_per_image(table) == 0).sum())
        yield Text(
            text=f"{n:,} images; {len(table.classes)} classes that stand alone, so that an image "
            f"has any number of them. {_share(none, n)} have none."
        )
    empty = [name for name, count in counts.items() if not count]
    if empty:
        yield Text(text=f"No row has {shorten([repr(name) for name in empty])}.", tone="bad")
    filled = {name: count for name, count in counts.items() if count}
    if len(filled) > 1:
        yield _spell_balance(filled)


def _spell_balance(counts: Mapping[str, int]) -> Text:
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    ratio = counts[most] / counts[least]
    told = (
        f"The most frequent is {most!r} with {counts[most]:,} rows, the rarest {least!r} with "
        f"{counts[least]:,}: {ratio:.1f} to 1."
    )
    if ratio < _UNBALANCED:
        return Text(text=told)
    told += " Accuracy hides what happens to the rare ones: read the scores by class."
    return Text(text=told, tone="warn")


def _list_facts(table: Table) -> Iterator[Block]:
    """Yield what else the table brings: folds, groups, weights, where labels come from."""
    pairs = [*_list_label_facts(table), *_list_row_facts(table)]
    if pairs:
        yield Facts(pairs=tuple(pairs))
    if table.notes:
        rows = tuple((note,) for note in table.notes)
        yield Grid(title="What the reader of the table did", header=("note",), rows=rows, wide=True)


def _list_label_facts(table: Table) -> Iterator[tuple[str, str]]:
    n, targets = len(table), table.targets
    unknown = int(np.isnan(targets).any(axis=1).sum())
    if unknown:
        yield "Rows with a label missing", _share(unknown, n)
    soft = int(((targets > 0) & (targets < 1)).any(axis=1).sum())
    if soft:
        yield "Rows with labels between 0 and 1", _share(soft, n)
    if table.masks is not None:
        yield "Rows with a mask", _share(sum(any(texts) for texts in table.masks), n)
    taught = sum(map(bool, table.teachers or ()))
    if taught:
        yield "Rows labelled by networks", _share(taught, n)
    told = filter(None, (parse_origin(text) for text in table.label_origins or ()))
    for (action, by), count in sorted(Counter((each.action, each.by) for each in told).items()):
        yield f"Labels {action} by {by}", _share(count, n)


def _list_row_facts(table: Table) -> Iterator[tuple[str, str]]:
    n = len(table)
    if table.weights is not None and (table.weights == 0).any():
        yield (
            "Rows of weight 0",
            f"{_share(int((table.weights == 0).sum()), n)}; scored, but never trained on",
        )
    if table.groups is not None:
        sizes = Counter(table.groups)
        yield "Groups", f"{len(sizes):,}; the largest has {max(sizes.values(), default=0):,}"
    if table.folds is not None:
        held = np.unique(table.folds[table.folds >= 0])
        yield "Folds", f"{len(held)}"
        for fold, name in ((HOLDOUT, "kept apart"), (ALWAYS_TRAINED, "in the training of all")):
            count = int((table.folds == fold).sum())
            if count:
                yield f"Rows {name}", _share(count, n)
    if table.quarantined:
        yield "Rows set aside before", f"{len(table.quarantined):,}"


def _count_bars(table: Table) -> dict[str, int]:
    """Count each class, and the rows without it where there is only one."""
    counts = count_classes(table)
    if len(table.classes) == 1:
        known = int((~np.isnan(table.targets[:, 0])).sum())
        counts[f"not {table.classes[0]}"] = known - counts[table.classes[0]]
    return counts


def _count_per_image(table: Table) -> Rows:
    """Return how many classes each row with a whole label has."""
    known = table.targets[~np.isnan(table.targets).any(axis=1)]
    return np.asarray((known >= 0.5).sum(axis=1), np.intp)


def _draw_classes(table: Table) -> Chart:
    """Draw a bar a class, in the order of the table; of very many the ends alone."""
    n, counts = len(table), _count_bars(table)
    names = list(counts)
    title = "Images of each class"
    if len(names) > _MOST_BARS:
        ranked = sorted(names, key=lambda name: -counts[name])
        kept = {*ranked[: _MOST_BARS // 2], *ranked[-(_MOST_BARS // 2) :]}
        names = [name for name in names if name in kept]
        title += f": the {_MOST_BARS // 2} most frequent and the {_MOST_BARS // 2} rarest"
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    with drawing(0.35 + 0.26 * len(names)) as figure:
        (axes,) = add_axes(figure)
        values = [counts[name] for name in names]
        places = range(len(names))
        axes.barh(places, values, color=BLUE, height=0.72)
        labels = [_share(value, n) for value in values]
        for spot, told in zip(zip(values, places, strict=True), labels, strict=True):
            axes.annotate(told, spot, (4, 0), **_BESIDE)
        axes.set_yticks(places, [_shorten_name(name) for name in names])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, max(*values, 1) * (1 + _LETTER * max(map(len, labels))))
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        return finish_figure(
            figure,
            name="class-counts",
            title=title,
            alt=f"Bars of {len(names)} counts among {n:,} images; the longest {most!r} with "
            f"{counts[most]:,}, the shortest {least!r} with {counts[least]:,}.",
            header=("class", "images", "share"),
            rows=[(name, str(count), f"{count / max(n, 1):.4f}") for name, count in counts.items()],
        )


def _draw_per_image(table: Table) -> Iterator[Chart]:
    """Draw how many classes an image has, where it may have any number."""
    if table.exclusive or len(table.classes) < 2:
        return
    found = Counter(_count_per_image(table).tolist())
    if not found:
        return
    numbers = range(max(found) + 1)
    values = [found[number] for number in numbers]
    with drawing(2.3) as figure:
        (axes,) = add_axes(figure)
        axes.bar(numbers, values, color=BLUE, width=0.72)
        for number, value in zip(numbers, values, strict=True):
            axes.text(number, value, f"{value:,}", ha="center", va="bottom", fontsize=8.5)
        axes.set_xticks(numbers)
        # Few bars stay slim, as they would be among many.
        axes.set_xlim(-0.6, max(numbers[-1], 5) + 0.6)
        axes.set_ylim(0, max(values) * 1.12)
        axes.tick_params(axis="x", length=0)
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("classes of an image", loc="left")
        told = ", ".join(f"{number}: {found[number]:,}" for number in sorted(found))
        yield finish_figure(
            figure,
            name="classes-per-image",
            title="Classes of an image",
            alt=f"Bars of how many images have how many classes. {told}.",
            header=("classes", "images"),
            rows=[(str(number), str(found[number])) for number in numbers],
        )


def _describe_sizes(table: Table, check: CheckReport | None) -> Iterator[Block]:
    if check is not None and check.sizes.distinct == 1:
        yield Text(text=f"All images have {_spell_size(check.sizes.median)} pixels (h x w).")
        return
    taken = min(len(table), _READ_SIZES)
    found: Counter[tuple[int, int]] = Counter()
    for row in np.linspace(0, len(table) - 1, taken).astype(int).tolist():
        try:
            found[read_size(table.images[row])] += 1
        except DamagedImageError:
            continue
    if not found:
        return
    of_all = f"{taken:,} of {len(table):,}" if taken < len(table) else f"all {taken:,}"
    if len(found) == 1:
        told = f"One size, {_spell_size(next(iter(found)))} pixels (h x w), in {of_all} images."
        yield Text(text=told)
        return
    sizes = _summarise(found) if check is None else check.sizes
    yield Text(
        text=f"{sizes.distinct:,} image sizes: median {_spell_size(sizes.median)} pixels (h x w), "
        f"heights from {sizes.smallest[0]:,} to {sizes.largest[0]:,}, widths from "
        f"{sizes.smallest[1]:,} to {sizes.largest[1]:,}."
    )
    yield _draw_sizes(found, of_all)


def _summarise(found: Mapping[tuple[int, int], int]) -> Sizes:
    sizes = np.repeat(np.array(list(found)), list(found.values()), axis=0)
    low, middle, top = sizes.min(axis=0), np.median(sizes, axis=0).astype(int), sizes.max(axis=0)
    return Sizes(
        distinct=len(found),
        smallest=(int(low[0]), int(low[1])),
        median=(int(middle[0]), int(middle[1])),
        largest=(int(top[0]), int(top[1])),
    )


def _draw_sizes(found: Mapping[tuple[int, int], int], of_all: str) -> Chart:
    """Draw widths and heights; the area of a spot tells how many images it holds."""
    spots = np.array([(w, h, count) for (h, w), count in _join_sizes(found).items()], np.float64)
    wide, high, count = spots[np.argsort(-spots[:, 2], kind="stable")].T
    with drawing(3.2) as figure:
        (axes,) = add_axes(figure)
        area = _LEAST_AREA + _MOST_AREA * count / max(count.max(), _MANY)
        axes.scatter(wide, high, s=area, color=BLUE, alpha=0.55, linewidths=0)
        if wide.max() > _WIDEST_LOG * wide.min():
            axes.set_xscale("log")
        if high.max() > _WIDEST_LOG * high.min():
            axes.set_yscale("log")
        for scale in (axes.xaxis, axes.yaxis):
            scale.set_major_formatter("{x:,.0f}")
        axes.margins(0.08)
        axes.grid(visible=True)
        axes.set_xlabel("width in pixels; a larger spot holds more images", color=FAINT)
        axes.set_ylabel("height in pixels")
        (often_h, often_w), most = max(found.items(), key=lambda each: each[1])
        return finish_figure(
            figure,
            name="image-sizes",
            title=f"Sizes of {of_all} images",
            alt=f"Spots of width and height of {of_all} images: {len(found):,} sizes, the most "
            f"frequent {_spell_size((often_h, often_w))} pixels (h x w) with {most:,} images.",
            header=("width", "height", "images"),
            rows=[(str(w), str(h), str(n)) for (h, w), n in sorted(found.items())],
        )


def _join_sizes(found: Mapping[tuple[int, int], int]) -> Mapping[tuple[int, int], int]:
    """Join sizes that lie close together, if there are too many to draw."""
    if len(found) <= _MOST_SPOTS:
        return found
    sizes = np.array(list(found), np.float64)
    step = np.maximum((sizes.max(axis=0) - sizes.min(axis=0)) / _STEPS, 1)
    joined: Counter[tuple[int, int]] = Counter()
    for (high, wide), count in zip(np.round(sizes / step) * step, found.values(), strict=True):
        joined[max(1, round(high)), max(1, round(wide))] += count
    return joined


def _describe_check(check: CheckReport | None, source: str) -> Iterator[Block]:
    if check is None:
        yield Text(
            text="Not checked: whether files are damaged, and whether there are copies or copies "
            "with other labels. This decodes all images:",
            tone="warn",
        )
        yield Commands(lines=(f"loupe check {source}",))
        return
    bad = len(check.bad_ids)
    if bad:
        yield Text(text=f"{bad:,} row(s) must be fixed or set aside.", tone="bad")
        yield Commands(lines=(f"loupe check {source} --quarantine CLEAN.csv",))
    else:
        yield Text(text="All files could be decoded; nothing must be fixed.", tone="good")
    copies = check.copy_sizes
    if copies:
        yield Text(
            text=f"{sum(copies.values()):,} rows are copies of each other, in {len(copies):,} "
            f"group(s), the largest of {max(copies.values()):,}. A group belongs into one fold."
        )
    else:
        yield Text(text="No image is a copy of another.")
    near = sum(each.finding == "near-contradiction" for each in check.findings)
    if near:
        yield Text(text=f"{near:,} rows have a near copy with another label.", tone="warn")
    yield from _list_findings(check.findings, source)


def _list_findings(findings: Sequence[Finding], source: str) -> Iterator[Block]:
    if not findings:
        return
    kinds = Counter((each.finding, each.severity) for each in findings)
    yield Grid(
        title="Findings by kind",
        header=("finding", "number", "must be fixed"),
        rows=tuple(
            (name, f"{count:,}", "yes" if severity == "fix" else "no")
            for (name, severity), count in kinds.items()
        ),
    )
    # Else thousands of copies would hide the one thing that is odd.
    ranked = sorted(findings, key=lambda f: (f.severity != "fix", kinds[f.finding, f.severity]))
    shown = ranked[:SHOWN_FINDINGS]
    more = len(findings) > len(shown)
    few = f"{len(shown)} of {len(findings):,} findings, rare kinds first"
    yield Grid(
        title=few if more else "All findings",
        header=("image", "finding", "must be fixed", "detail"),
        rows=tuple(
            (
                each.id or "(the table)",
                each.finding,
                "yes" if each.severity == "fix" else "no",
                each.detail,
            )
            for each in shown
        ),
        wide=True,
    )
    if more:
        yield Commands(lines=(f"loupe check {source} --out check.csv",))


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / max(total, 1):.1%})"


def _spell_size(size: tuple[int, int]) -> str:
    return f"{size[0]:,} x {size[1]:,}"


def _shorten_name(name: str) -> str:
    """Leave out the middle of a name that is too wide; a Chinese or Korean sign has two columns."""
    signs = list(" ".join(name.split()))
    widths = [1 + (unicodedata.east_asian_width(sign) in "WF") for sign in signs]
    if sum(widths) <= _NAME_WIDTH:
        return "".join(signs)
    while sum(widths) >= _NAME_WIDTH:
        middle = len(signs) // 2
        del signs[middle], widths[middle]
    middle = -(-len(signs) // 2)
    return f"{''.join(signs[:middle])}…{''.join(signs[middle:])}"
