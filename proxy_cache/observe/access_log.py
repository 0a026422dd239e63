"""One line per request in the log (formats: docs/access-log.md).

A log record costs more than the rest of a hit. So if the log is printed (mitmdump), this module prints the lines
itself, many at a time; otherwise (mitmweb) they are log records. With a file of their own they go there.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .log_clock import Clock, IsoClock, UnixClock
from .log_file import LogFile
from .log_formats import FORMATS, Format, Hit, HitFormat, LoggedRequest, as_line, hits_as_lines
from .log_output import LogOutput, make_records_safe, output_for

logger = logging.getLogger(__name__)

FLUSH_AFTER = 0.05
"""Seconds for which lines are collected."""
LINES_MAX = 256
"""Lines that are printed at once: printing thousands would delay other requests."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """``format``: of :data:`.log_formats.FORMATS`; ``file``: where the lines go, if not to mitmproxy's log."""

    format: Literal["line", "json", "squid"] = "line"
    file: Path | None = None
    phases: bool = False
    """Whether the steps of a miss are told."""


class AccessLog:
    """Writes access lines to mitmproxy's log or to a file, and protects the log from all messages, and the proxy from a
    stalled log. ``on_lost(lines)`` is called with the number of lines that could not be written."""

    def __init__(self, on_lost: Callable[[int], None] = lambda lines: None) -> None:
        self._on_lost = on_lost
        self.settings = LogSettings()
        self._format: Format = as_line
        self._hit_format: HitFormat = hits_as_lines
        self._clock: Clock = IsoClock()
        self._file: LogFile | None = None
        self._lines: list[str] = []
        self._is_shown = True
        """Whether mitmproxy's log shows lines of this level."""
        self._is_printed = False
        """Whether mitmproxy's log is printed."""
        self._print = False
        self._flush_is_due = False
        self._enabled = True
        self._output: LogOutput | None = None
        self._terminal: Any = None
        """mitmproxy's addon that prints log records."""
        self._terminal_file: Any = None
        """The stream it printed to before."""
        self._end_safety: Callable[[], None] = lambda: None

    def open(self, *, is_shown: bool, is_printed: bool, terminal: Any = None) -> None:
        """Start. ``is_shown``: whether the log shows lines of this level; ``is_printed``: whether they are printed, not
        recorded; ``terminal``: the addon that prints log records, to its attribute ``file``."""
        self._is_shown, self._is_printed = is_shown, is_printed
        self._choose_way()
        self._end_safety = make_records_safe(("proxy_cache", "mitmproxy", "asyncio", "aiohttp"))
        if is_printed:
            self._output = output_for(sys.stdout, self._on_lost)
            # mitmproxy's handler may end the process if it can't write. One output for both also keeps lines in order.
            if self._output is not None and getattr(terminal, "file", None) is sys.stdout:
                self._terminal, self._terminal_file = terminal, sys.stdout
                self._terminal.file = self._output

    def configure(self, settings: LogSettings) -> None:
        """Lines from now on are of this format, and go there. What goes by the format is chosen here, once, and not for
        each line. A file that can't be opened is an error in the log, and lines go into that."""
        if settings == self.settings:
            return
        self.flush()
        if settings.file != self.settings.file:
            self._use_file(settings.file)
        self.settings = settings
        self._format, self._hit_format = FORMATS[settings.format]
        self._clock = UnixClock() if settings.format == "squid" else IsoClock()

    def _use_file(self, path: Path | None) -> None:
        if self._file is not None:
            self._file.close(0)  # its thread writes what waits
            self._file = None
        if path is not None:
            try:
                self._file = LogFile(path, self._on_lost)
            except OSError as error:
                logger.error("access_log_file: %s: %s", path, error.strerror)
        self._choose_way()

    def _choose_way(self) -> None:
        self._enabled = self._is_shown or self._file is not None
        self._print = self._is_printed or self._file is not None

    def write(
        self, method: str, url: str, status: int, size: int, seconds: float, served_from: str, queued: float,
        client: str, note: str = "", reasons: str = "", request_id: str = "",
        phases: tuple[tuple[str, float], ...] = (), trace: tuple[str, str] | None = None,
    ) -> None:  # fmt: skip
        """A request is over. The parameters are those of :class:`.log_formats.LoggedRequest`."""
        if self._enabled:
            request = LoggedRequest(
                method, url, status, size, seconds, served_from, queued, client, note, reasons, request_id, phases,
                trace,
            )  # fmt: skip
            self._append([self._format(self._clock.text(time.time()), request)])

    def hits(self, hits: Sequence[Hit], traced: Mapping[int, tuple[str, str]]) -> None:
        """The same for GETs that were answered from memory, with times of the monotonic clock. ``traced``: the ids of
        trace and span of those that are, by their places."""
        if not self._enabled:
            return
        ahead = time.time() - time.monotonic()
        stamps = self._clock.texts([hit[4] + ahead for hit in hits])
        lines = self._hit_format(stamps, hits)
        for place, ids in traced.items():
            target, status, size, started, ended, client, request_id, _ = hits[place]
            request = LoggedRequest(
                "GET", target.shown, status, size, ended - started, "hit", 0.0, client, request_id=request_id, trace=ids
            )
            lines[place] = self._format(stamps[place], request)
        self._append(lines)

    def _append(self, lines: list[str]) -> None:
        if not self._print:
            for line in lines:
                logger.info("%s", line)
            return
        self._lines += lines
        if len(self._lines) >= LINES_MAX:
            self.flush()
        elif not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_later(FLUSH_AFTER, self._flush_now)

    def _flush_now(self) -> None:
        self._flush_is_due = False
        self.flush()

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        count = len(lines)
        lines.append("")
        text = "\n".join(lines)
        if self._file is not None:
            self._file.write(text, count)
            return
        if self._output is not None:
            self._output.write(text)
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except (OSError, ValueError):
            self._on_lost(count)

    def reopen(self) -> None:
        """The file may have been renamed: further lines go into a new one."""
        self.flush()
        if self._file is not None:
            self._file.reopen()
        elif self.settings.file is not None:
            self._use_file(self.settings.file)

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None
            self._choose_way()
        self._end_safety()
        if self._terminal is not None and self._terminal.file is self._output:
            self._terminal.file = self._terminal_file
        if self._output is not None:
            self._output.close()
            self._output = None
