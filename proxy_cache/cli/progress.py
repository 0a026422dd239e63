"""A progress bar on a terminal. In a pipe there is none, only the lines that were printed beside it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from .output import Output

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress:
    """``is_shown``: whether anything is printed at all."""

    def __init__(self, output: Output, what: str, total: int | None = None, *, is_shown: bool = True) -> None:
        self.done = 0
        self._output = output
        self._is_shown = is_shown
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        if is_shown and output.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False), TimeRemainingColumn(),
                console=output.console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task(what, total=total, note="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def at(self, done: int, total: int | None, note: str = "") -> None:
        """So many of so many are done; ``note`` goes beside the bar."""
        self.done = done
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)

    def line(self, text: str, style: str = "none") -> None:
        """A line that stays, above the bar."""
        if self._is_shown:
            self._output.line(text, style)
            self._output.flush()
