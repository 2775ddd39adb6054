"""Reviewing: the verb `review`.

Owns what is opened for a review, and the server's life. It must not decide about labels or
show them (that is `reviewserver`).

Shapes: N rows of the table, D features.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import webbrowser
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loupe.desks import Desk
from loupe.errors import InputError, LoupeError, MissingExtraError, shorten
from loupe.heldout import open_source
from loupe.issues import IssueSheet, read_issues
from loupe.neighbours import Space, open_space, place_probabilities
from loupe.predictions import Predictions, average_sheets
from loupe.reviews import settle_reviews
from loupe.rowfeatures import read_row_features, reorder_rows
from loupe.runs import Run
from loupe.sheetfiles import open_sheet_file
from loupe.table import Table

if TYPE_CHECKING:
    import uvicorn

_LOOPBACK = "127.0.0.1"
_EXTRA = {"jinja2", "markupsafe", "starlette", "uvicorn"}
_FEATURES = "by features of the network"
_PROBABILITIES = "by predicted probabilities: the run kept no features"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewed:
    """What a review has led to.

    Attributes:
        path: The reviews file.
        issues: How many there are.
        kept: Given labels that are right.
        relabelled: Labels that get another.
        dropped: Rows not to train on.
        skipped: Put off, and still open.
        made: Decisions of this sitting, undone ones too.
    """

    path: Path
    issues: int
    kept: int
    relabelled: int
    dropped: int
    skipped: int
    made: int

    @property
    def left(self) -> int:
        """Issues nobody has decided yet, the skipped ones with them."""
        return self.issues - self.kept - self.relabelled - self.dropped


def review(
    issues: str | Path,
    *,
    source: str | Path | None = None,
    table: Table | None = None,
    reviewer: str = "",
    out: str | Path | None = None,
    port: int = 0,
    open_browser: bool = True,
    tell: Callable[[str], None] | None = None,
) -> Reviewed:
    """Show label issues on a local web page, and write down what is decided about each.

    The page is served to this machine alone, at an address that holds a secret. Every
    decision is on the disk before the page goes on. It ends with the page's own button, or
    with ctrl-C; started again, it goes on at the first issue nobody decided.

    Args:
        issues: The file that `audit` wrote.
        source: The run or predictions file that was audited; None takes the one that the
            issues name. It gives the table, and what rows are near each other.
        table: The rows, their images and labels; None takes those of the run.
        reviewer: A name to sign decisions with.
        out: The reviews file; None puts it beside the issues, `<name>.reviews.csv`. Decisions
            are only ever added to it.
        port: Of the page; 0 takes a free one.
        open_browser: Open the page in the browser of this machine.
        tell: Called with the address of the page, once it can be opened.

    Raises:
        InputError: there are no issues, their table is not known or has none of their rows,
            `out` is no reviews file, or the port is taken.
        MissingExtraError: the extra `review` is not installed.
    """
    desk = open_desk(issues, source=source, table=table, reviewer=reviewer, out=out)
    desk.reviews()  # a file that is none is refused now, not at the first decision
    _serve(desk, port=port, open_browser=open_browser, tell=tell)
    return count_reviewed(desk)


def open_desk(
    issues: str | Path,
    *,
    source: str | Path | None = None,
    table: Table | None = None,
    reviewer: str = "",
    out: str | Path | None = None,
) -> Desk:
    """Open what a review needs; see `review`.

    Args:
        issues: The file that `audit` wrote.
        source: What was audited; None takes what the issues name.
        table: The rows; None takes those of the run.
        reviewer: A name to sign decisions with.
        out: The reviews file.

    Raises:
        InputError: as `review`.
    """
    issues = Path(issues)
    sheet = read_issues(issues)
    if not sheet.issues:
        raise InputError(f"{issues}: holds no issues, so there is nothing to review.")
    named = str(sheet.origin.get("source", "")) if source is None else str(source)
    place = Path(named) if named else None
    run = None
    if place is not None and (place.exists() or source is not None):
        run = open_source(place)
    if table is None:
        table = _borrow_table(run, issues, named)
    _check_ids(sheet, table, issues)
    space, basis = _open_space(place, run, table)
    groups = None
    if table.groups is not None:
        _, groups = np.unique(np.asarray(table.groups), return_inverse=True)
    segments = bool(sheet.origin.get("segments", run is not None and run.segments))
    return Desk(
        sheet=sheet,
        table=table,
        path=issues.with_name(f"{issues.stem}.reviews.csv") if out is None else Path(out),
        space=space,
        basis=basis,
        groups=groups,
        segments=segments,
        reviewer=reviewer,
    )


def count_reviewed(desk: Desk) -> Reviewed:
    """Count what is decided so far.

    Args:
        desk: What is reviewed.
    """
    standing = settle_reviews(desk.reviews())
    found = Counter(standing[key].decision for key in desk.places if key in standing)
    return Reviewed(
        path=desk.path,
        issues=len(desk.places),
        kept=found["keep"],
        relabelled=found["relabel"],
        dropped=found["drop"],
        skipped=found["skip"],
        made=desk.made,
    )


def _serve(
    desk: Desk, *, port: int, open_browser: bool, tell: Callable[[str], None] | None
) -> None:
    """Serve the pages until the reviewer has finished."""
    token = secrets.token_urlsafe(24)
    with _listen(port) as door:
        port = door.getsockname()[1]
        server = _make_server(desk, token, port)
        address = f"http://{_LOOPBACK}:{port}/?token={token}"
        if tell is not None:
            tell(address)
        if open_browser:
            # Its own thread: some browsers return only when they are closed.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        try:
            server.run(sockets=[door])
        except KeyboardInterrupt:
            return


def _make_server(desk: Desk, token: str, port: int) -> uvicorn.Server:
    try:
        import uvicorn  # noqa: PLC0415

        from loupe.reviewserver import make_app  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise MissingExtraError(
            f"loupe.review needs {error.name}; install it with: pip install 'loupe-vision[review]'"
        ) from None

    def stop() -> None:
        server.should_exit = True

    app = make_app(desk, token=token, port=port, stop=stop)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    return server


def _listen(port: int) -> socket.socket:
    """Open the port to this machine alone; whoever connects now waits for the server."""
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if port and os.name == "posix":
            # Else a review that was stopped could not go on at its own address; elsewhere
            # the same word would let two servers share it.
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((_LOOPBACK, port))
        door.listen()
    except (OSError, OverflowError) as error:
        door.close()
        raise InputError(
            f"port {port} cannot be opened ({error}); leave out --port to take a free one."
        ) from None
    return door


def _borrow_table(run: Run | None, issues: Path, named: str) -> Table:
    if run is not None:
        return run.table()
    raise InputError(
        f"{issues}: the table is not known"
        + (f", for {named} is no run folder" if named else "")
        + ". Name it with --table TABLE, or the run that was audited with --source RUN."
    )


def _check_ids(sheet: IssueSheet, table: Table, issues: Path) -> None:
    """Refuse a table that has none of the rows; single lost rows are shown without image."""
    known = set(table.ids)
    lost = [repr(issue.id) for issue in sheet.issues if issue.id not in known]
    if len(lost) == len(sheet.issues):
        raise InputError(
            f"{issues}: none of its ids is in the table: {shorten(lost, 3)}, where the table has "
            f"{shorten([repr(name) for name in table.ids], 3)}. Name the table that was audited."
        )


def _open_space(place: Path | None, run: Run | None, table: Table) -> tuple[Space | None, str]:
    """Return in what rows are near each other, and its name; None if nothing says."""
    found = None if run is None else read_row_features(run, table.ids)
    if found is not None:
        return open_space(found), _FEATURES
    sheet = _find_probabilities(place, run)
    if sheet is None:
        return None, ""
    points = place_probabilities(sheet.probs, exclusive=sheet.exclusive)
    return open_space(reorder_rows(points, sheet.ids, table.ids)), _PROBABILITIES


def _find_probabilities(place: Path | None, run: Run | None) -> Predictions | None:
    try:
        if run is not None:
            return average_sheets(list(run.oof().values()))
        if place is not None and place.is_file():
            return open_sheet_file(place).sheet
    except LoupeError:
        # Neighbours help, but a review goes on without them.
        return None
    return None
