"""What long work tells of itself while it runs.

Functions that take long are given a `Reporter`; the command line shows it as a
bar or as plain lines. It must not print: `Silent` is what Python callers get.
"""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Hears of the progress of one piece of work at a time."""

    def begin(self, label: str, total: int) -> None:
        """A piece of work of `total` units begins."""

    def advance(self, done: int, total: int | None = None) -> None:
        """`done` units are finished, of `total` if that has changed."""

    def end(self, summary: str = "") -> None:
        """The piece of work is finished."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class Silent:
    """A reporter that keeps quiet."""

    def begin(self, label: str, total: int) -> None:
        """Ignore it."""

    def advance(self, done: int, total: int | None = None) -> None:
        """Ignore it."""

    def end(self, summary: str = "") -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""
