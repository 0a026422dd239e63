"""What the commands print: in colours on a terminal, as plain text into a pipe, as JSON where that is asked for.

Rich never reads markup in what it is given here, and every value has gone through :func:`.text.printable`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from .command import Environment
from .text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red", "weak": "dim", "strong": "bold", "none": ""}
"""Of cells and lines, by what they mean."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A value with a meaning, which is a key of :data:`STYLES`."""

    text: str
    style: str = "none"


@dataclass(frozen=True, slots=True)
class Column:
    """``is_long``: it gets the room that the others leave."""

    title: str
    is_right: bool = False
    is_long: bool = False


@dataclass(slots=True)
class Table:
    """Rows under titles; without any titles a list of names and values."""

    columns: Sequence[Column]
    rows: list[Sequence[str | Cell]] = field(default_factory=list)

    def add(self, *cells: str | Cell) -> None:
        self.rows.append([_safe(cell) for cell in cells])


def _safe(cell: str | Cell) -> Cell:
    return Cell(printable(cell.text), cell.style) if isinstance(cell, Cell) else Cell(printable(cell))


class Output:
    """Where a command prints to. ``is_terminal``: whether it may move the cursor and use colours."""

    def __init__(self, environment: Environment, stream: IO[str] | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._environment = environment
        self.is_terminal = self._stream.isatty() and environment.get("TERM", "") not in ("", "dumb")
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        """Rich's, for a terminal. (It takes a tenth of a second to import: a pipe doesn't wait for it.)"""
        if self._console is None:
            from rich.console import Console

            self._console = Console(
                file=self._stream, markup=False, emoji=False, highlight=False, soft_wrap=False,
                no_color=True if self._environment.get("NO_COLOR") else None,
            )  # fmt: skip
        return self._console

    def json(self, value: Any) -> None:
        """All that isn't ASCII is escaped, and so no value does anything to a terminal."""
        self._stream.write(json.dumps(value, indent=2) + "\n")

    def json_line(self, value: Any) -> None:
        """One of many (NDJSON), at once."""
        self._stream.write(json.dumps(value) + "\n")
        self._stream.flush()

    def line(self, text: str = "", style: str = "none") -> None:
        """One line, of any length."""
        text = printable(text)
        if self.is_terminal:
            self.console.print(text, style=STYLES[style], soft_wrap=True)  # above a bar, if one is there
        else:
            self._stream.write(text + "\n")

    def title(self, text: str) -> None:
        self.line(text, "strong")

    def table(self, table: Table) -> None:
        if self.is_terminal:
            self.console.print(as_rich(table))
        else:
            for line in as_lines(table):
                self._stream.write(line + "\n")

    def flush(self) -> None:
        self._stream.flush()


def as_lines(table: Table) -> list[str]:
    """As plain text, in columns. The last one isn't padded."""
    rows = [[_safe(cell).text for cell in row] for row in table.rows]
    titles = [column.title for column in table.columns]
    if any(titles):
        rows.insert(0, titles)
    widths = [max((len(row[at]) for row in rows), default=0) for at in range(len(table.columns))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column.is_right else cell.ljust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def as_rich(table: Table) -> RenderableType:
    """For a terminal: long values are folded, never cut, so that they can be copied."""
    from rich.table import Table as RichTable
    from rich.text import Text

    has_titles = any(column.title for column in table.columns)
    made = RichTable(box=None, show_header=has_titles, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for column in table.columns:
        made.add_column(
            Text(column.title), justify="right" if column.is_right else "left", overflow="fold",
            no_wrap=not column.is_long, ratio=None,
        )  # fmt: skip
    for row in table.rows:
        made.add_row(*(Text(cell.text, style=STYLES[cell.style]) for cell in map(_safe, row)))
    return made
