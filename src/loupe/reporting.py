"""Reporting: the verb `report`, which gathers all that is known into one page.

Owns which parts a page has, their order, and where its files stand. It must not compute a
number, draw or know HTML: each part comes from the module that owns it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from loupe.calibrationcharts import describe_calibration, describe_conformal
from loupe.cells import write_cells
from loupe.checking import CheckReport
from loupe.checking import check as check_table
from loupe.comparingcharts import MOST_RUNS
from loupe.comparingruns import Compared, describe_comparison
from loupe.confusioncharts import describe_confusion
from loupe.curvecharts import describe_curves
from loupe.datahealth import describe_table
from loupe.decisions import compare
from loupe.errors import InputError, LoupeError, RunError
from loupe.figures import save_charts
from loupe.files import write_text
from loupe.heldout import gather_evidence
from loupe.historycharts import describe_history
from loupe.issuecharts import describe_issues, read_run_issues
from loupe.judged import Judged, judge_run
from loupe.layouts import read_table
from loupe.maskcharts import describe_masks
from loupe.mistakes import describe_mistakes, describe_predictions
from loupe.progress import Reporter, Silent
from loupe.reportpages import Heading, write_page
from loupe.reportparts import Commands, Grid, Section, Text, list_charts
from loupe.runfacts import describe_commands, describe_facts, name_source, quote_command
from loupe.runs import Run, open_run
from loupe.scorecharts import describe_blend, describe_scores
from loupe.table import Table
from loupe.thresholdtables import describe_thresholds
from loupe.variants import try_variants
from loupe.verdicts import write_verdict

PathLike = str | Path
Found = Section | Sequence[Section] | None
"""What a part of a report gives: one section, several, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A written report.

    Attributes:
        path: The page.
        figures: Folder with its figures as SVG and PNG, and their numbers and tables as CSV.
        sections: What is in the page.
        size: Of the page in bytes.
        seconds: How long each part took, by its key; "page" is writing it.
    """

    path: Path
    figures: Path
    sections: tuple[Section, ...]
    size: int
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the page; where it cannot be made, its title stands above the reason.

    A loud one tells of its own progress, so that it is made before the others are counted.
    """

    key: str
    title: str
    make: Callable[[], Found]
    loud: bool = False


def report(
    sources: PathLike | Run | Table | Sequence[PathLike | Run],
    *,
    images: PathLike | None = None,
    read_from: PathLike | None = None,
    out: PathLike | None = None,
    check: bool = True,
    maps: bool = True,
    cascade: PathLike | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Write all that is known of a run, or of a table, as one page that needs nothing else.

    Several runs are compared: each with the first, on the rows that both held out. A part that
    cannot be made says why in its place; the page is written all the same.

    Args:
        sources: A finished run, a table, or two runs or more.
        images: Folder of the images, for a table that is read from a file.
        read_from: What a `Table` was read from, for the commands shown.
        out: The page. Default: `report.html` in the run; beside a table, `<name>.report.html`;
            `compare.html` here for several runs. The figures stand beside it.
        check: Decode all images once to look for damage, copies and contradictions.
        maps: Show where networks looked in the images that they are most wrong about.
        cascade: Of a run that draws masks: a cascade file that names it, whose stages and gates
            are compared on held-out rows.
        reporter: Told of the progress.

    Raises:
        RunError: a run is not finished.
        InputError: there are too many runs, or a table from memory has no `out`.
        TableError: the table cannot be read.
    """
    told = reporter or Silent()
    if isinstance(sources, str | Path | Run | Table):
        sources = [sources] if not isinstance(sources, Table) else sources
    if isinstance(sources, Table):
        if out is None:
            raise InputError("a table from memory has no place: name the page (out=...).")
        typed = _type_table(read_from, images)
        return _report_table(sources, Path(out), typed, check=check, reporter=told)
    if len(sources) > 1:
        runs = [_open_finished(source) for source in sources]
        return _report_comparison(runs, Path(out or "compare.html"), told)
    if not sources:
        raise InputError("there is nothing to report; name a run or a table.")
    source = sources[0]
    if isinstance(source, Run) or is_run(Path(source)):
        run = _open_finished(source)
        page = run.folder / "report.html" if out is None else Path(out)
        return _report_run(run, page, cascade, check=check, maps=maps, reporter=told)
    table = read_table(source, images=images)
    page = place_page(Path(source)) if out is None else Path(out)
    typed = _type_table(source, images)
    return _report_table(table, page, typed, check=check, reporter=told)


def is_run(source: Path) -> bool:
    """Tell whether a folder is a run; anything else is taken for a table.

    Args:
        source: What the user named.
    """
    return (source / "manifest.json").is_file()


def place_page(table: Path) -> Path:
    """Return where the page of a table is written: beside it.

    Examples:
        >>> place_page(Path("data/labels.csv")).name
        'labels.report.html'
    """
    return table.absolute().with_name(f"{table.stem or 'table'}.report.html")


def _report_run(
    run: Run,
    page: Path,
    cascade: PathLike | None,
    *,
    check: bool,
    maps: bool,
    reporter: Reporter,
) -> Report:
    if cascade is not None and not run.segments:
        raise InputError(f"{run.folder} draws no masks, so there are no gates to compare.")
    table = run.table()
    checked = _check(table, reporter) if check else None
    known, fault = _gather(run, reporter)
    evidence = None if known is None else known.evidence

    def describe_worst() -> Found:
        if known is None:
            return None
        csv = place_figures(page) / "mistakes.csv"
        return describe_mistakes(run, known.evidence, known, maps=maps, csv=csv, reporter=reporter)

    def conclude() -> Found:
        return write_verdict(run, evidence, checked, read_run_issues(run), known)

    typed = quote_command(name_source(table) or "TABLE")
    parts = [
        _Part("verdict", "Verdict", conclude),
        _Part("data", "Data", lambda: describe_table(table, check=checked, source=typed)),
        _Part("scores", "Scores", lambda: _describe_scores(run, known, fault)),
        *_list_parts(run, known, cascade),
        _Part("mistakes", "Worst mistakes", describe_worst, loud=True),
        *_list_last(run, known),
    ]
    folds = f"{len(table):,} images, {len(table.classes):,} classes, {len(run.folds)} folds"
    if run.refit:
        folds = f"{len(table):,} images, {len(table.classes):,} classes, trained on all of them"
    name = run.folder.absolute().name
    return _write(
        Heading(title=name, lines=(folds, f"Run {run.folder.absolute()}")), parts, page, reporter
    )


def _list_parts(run: Run, known: Judged | None, cascade: PathLike | None) -> list[_Part]:
    """List the parts between the scores and the mistakes."""

    def draw_masks() -> Found:
        return describe_masks(run, None if cascade is None else try_variants(cascade))

    if known is None:
        masks = _Part("masks", "Masks", draw_masks)
        history = _Part("history", "Learning curves", lambda: describe_history(run))
        return [masks, history] if run.segments else [history]
    rows = known.evidence
    return [
        _Part("confusion", "Confusion", lambda: describe_confusion(run, rows, known)),
        _Part("curves", "Curves", lambda: describe_curves(run, rows, known)),
        _Part("thresholds", "Thresholds", lambda: describe_thresholds(run, rows, known)),
        _Part("history", "Learning curves", lambda: describe_history(run)),
        _Part("calibration", "Calibration", lambda: describe_calibration(run, rows, known)),
        _Part("blend", "Blend weights", lambda: describe_blend(run, rows)),
    ]


def _list_last(run: Run, known: Judged | None) -> list[_Part]:
    """List the parts after the mistakes."""
    parts = [
        _Part("issues", "Label issues", lambda: describe_issues(run)),
        _Part("facts", "What made this run", lambda: describe_facts(run)),
        _Part("reproduce", "How to reproduce", lambda: describe_commands(run)),
    ]
    if known is None:
        return parts
    rows = known.evidence
    return [
        _Part("predictions", "Predictions", lambda: describe_predictions(run, rows, known)),
        parts[0],
        _Part("conformal", "Sets of answers", lambda: describe_conformal(run, rows, known)),
        *parts[1:],
    ]


def _describe_scores(run: Run, known: Judged | None, fault: str) -> Found:
    if fault:
        raise InputError(fault)
    return describe_scores(run, None if known is None else known.evidence, known)


def _gather(run: Run, reporter: Reporter) -> tuple[Judged | None, str]:
    """Decide the held-out rows of a run that names classes; or say why that cannot be."""
    if run.segments or run.refit:
        return None, ""
    try:
        return judge_run(run, gather_evidence([run.folder], reporter=reporter)), ""
    except LoupeError as error:
        return None, str(error)


def _type_table(source: PathLike | None, images: PathLike | None) -> str:
    """Spell a table as it is typed in a command."""
    if source is None:
        return "TABLE"
    return quote_command(source, *([] if images is None else ["--images", images]))


def _report_table(
    table: Table, page: Path, typed: str, *, check: bool, reporter: Reporter
) -> Report:
    checked = _check(table, reporter) if check else None
    parts = [
        _Part("data", "Data", lambda: describe_table(table, check=checked, source=typed)),
    ]
    name = page.name.removesuffix(".html").removesuffix(".report")
    return _write(Heading(title=f"Data of {name}"), parts, page, reporter)


def _report_comparison(runs: Sequence[Run], page: Path, reporter: Reporter) -> Report:
    if len(runs) > MOST_RUNS:
        raise InputError(
            f"{len(runs)} runs were named; at most {MOST_RUNS} can be told apart in a figure. "
            "Leave out the weakest."
        )
    names = name_runs(runs)
    compared = [Compared(name=names[0], run=runs[0])]
    reporter.begin("compare", len(runs) - 1)
    for number, (name, run) in enumerate(zip(names[1:], runs[1:], strict=True), 1):
        try:
            found = Compared(name=name, run=run, comparison=compare(runs[0], run))
        except LoupeError as error:
            found = Compared(name=name, run=run, fault=str(error))
        compared.append(found)
        reporter.advance(number)
    reporter.end()
    folders = [str(run.folder) for run in runs]
    pairs = [each for each in compared if each.comparison is not None]
    lines = tuple(quote_command("loupe", "compare", folders[0], each.run.folder) for each in pairs)
    again = Commands(lines=(quote_command("loupe", "report", *folders, "--out", page), *lines))
    parts = [
        _Part(key="verdict", title="Comparison", make=lambda: describe_comparison(compared)),
        _Part(
            key="reproduce",
            title="How to reproduce",
            make=lambda: Section(key="reproduce", title="How to reproduce", blocks=(again,)),
        ),
    ]
    return _write(Heading(title=f"{names[0]} and {len(names) - 1} more"), parts, page, reporter)


def name_runs(runs: Sequence[Run]) -> tuple[str, ...]:
    """Name runs by their folders; by so many parts of the path that the names differ.

    Args:
        runs: Two or more; a run may be named twice.

    Examples:
        >>> name_runs([Run(Path("/a/run"), (), ()), Run(Path("/b/run"), (), ())])
        ('a/run', 'b/run')
    """
    places = [run.folder.absolute().parts for run in runs]
    for count in range(1, max(map(len, places)) + 1):
        names = [Path(*place[-count:]).as_posix() for place in places]
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(f"{name} ({number})" for number, name in enumerate(names, 1))


def _write(heading: Heading, parts: Sequence[_Part], page: Path, reporter: Reporter) -> Report:
    """Make all parts, and write the page and the files beside it."""
    made: dict[int, list[Section]] = {}
    seconds: dict[str, float] = {}
    loud = [number for number, part in enumerate(parts) if part.loud]
    quiet = [number for number, part in enumerate(parts) if not part.loud]
    for number in (*loud, *quiet):
        if quiet and number == quiet[0]:
            reporter.begin("report", len(quiet))
        begun = time.perf_counter()
        made[number] = _make(parts[number])
        seconds[parts[number].key] = time.perf_counter() - begun
        if number in quiet:
            reporter.advance(len(made) - len(loud))
    sections = [section for number in range(len(parts)) for section in made[number]]
    begun = time.perf_counter()
    figures = place_figures(page)
    save_charts(list_charts(sections), figures)
    for grid in (block for each in sections for block in each.blocks if isinstance(block, Grid)):
        if grid.name:
            write_cells(figures / f"{grid.name}.csv", grid.header, grid.rows)
    stamp = f"Made {time.strftime('%Y-%m-%d %H:%M')} by Loupe {metadata.version('loupe-vision')}"
    placed = replace(heading, lines=(*heading.lines, stamp), figures=figures.name)
    text = write_page(placed, sections)
    write_text(page, text)
    seconds["page"] = time.perf_counter() - begun
    reporter.end(f"{len(sections)} sections")
    return Report(
        path=page,
        figures=figures,
        sections=tuple(sections),
        size=len(text.encode()),
        seconds=seconds,
    )


def _make(part: _Part) -> list[Section]:
    try:
        found = part.make()
    except (LoupeError, OSError, ValueError, KeyError) as error:
        # Files of a run may be damaged or by hand; one part must not take the page with it.
        said = str(error) if isinstance(error, LoupeError) else f"{type(error).__name__}: {error}"
        told = Text(text=f"This part could not be made: {said}", tone="warn")
        found = Section(key=part.key, title=part.title, blocks=(told,))
    if found is None:
        return []
    several = [found] if isinstance(found, Section) else found
    return [section for section in several if section.blocks]


def place_figures(page: Path) -> Path:
    """Return the folder of a page's figures.

    Examples:
        >>> place_figures(Path("run/report.html")).as_posix()
        'run/figures'
        >>> place_figures(Path("labels.report.html")).as_posix()
        'labels.figures'
    """
    if page.name == "report.html":
        return page.with_name("figures")
    return page.with_name(f"{page.stem.removesuffix('.report')}.figures")


def _check(table: Table, reporter: Reporter) -> CheckReport | None:
    """Decode all images; None where they are not on this machine at all."""
    if not any(path.is_file() for path in table.images):
        reporter.note("no image of the table is at its place: pictures are left out")
        return None
    reporter.begin("check", len(table))
    found = check_table(table, progress=reporter.advance)
    reporter.end()
    return found


def _open_finished(source: PathLike | Run) -> Run:
    run = source if isinstance(source, Run) else open_run(Path(source))
    if not run.finished:
        raise RunError(
            f"{run.folder} is not finished; run the same 'loupe train' command again, it continues."
        )
    return run
