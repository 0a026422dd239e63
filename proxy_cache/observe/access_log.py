"""One line per request in the log (format: docs/access-log.md).

A log record costs more than the rest of a hit. So if the log is printed (mitmdump), this module prints the lines
itself, many at a time; otherwise (mitmweb) they are log records.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from ..semantics.redaction import for_log, one_line
from ..semantics.texts import brief
from .log_output import LogOutput, make_records_safe, output_for

logger = logging.getLogger(__name__)

FLUSH_AFTER = 0.05
"""Seconds for which lines are collected."""
LINES_MAX = 256
"""Lines that are printed at once: printing thousands would delay other requests."""
METHOD_MAX = 32


class AccessLog:
    """Writes access lines to mitmproxy's log, and protects the log from all messages, and the proxy from a stalled log.
    ``on_lost(lines)`` is called with the number of lines that could not be written."""

    def __init__(self, on_lost: Callable[[int], None] = lambda lines: None) -> None:
        self._on_lost = on_lost
        self._lines: list[str] = []
        self._second, self._clock, self._zone = 0, "", ""
        self._millisecond, self._text = 0, ""
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
        self._enabled = is_shown
        self._print = is_printed
        self._end_safety = make_records_safe(("proxy_cache", "mitmproxy", "asyncio", "aiohttp"))
        if is_printed:
            self._output = output_for(sys.stdout, self._on_lost)
            # mitmproxy's handler may end the process if it can't write. One output for both also keeps lines in order.
            if self._output is not None and getattr(terminal, "file", None) is sys.stdout:
                self._terminal, self._terminal_file = terminal, sys.stdout
                self._terminal.file = self._output

    def write(
        self, method: str, url: str, status: int, size: int, seconds: float, served_from: str, queued: float,
        client: str, note: str = "", reasons: str = "",
    ) -> None:  # fmt: skip
        """``TIME GET http://host/path 200 1024 B 12.3 ms miss queued=250ms fwd=uri-miss [127.0.0.1]``.

        ``url``: redacted; ``reasons``: ``key=value``, each with a space before it.
        """
        if not self._enabled:
            return
        wait = f" queued={queued * 1000:.0f}ms" if queued >= 0.001 else ""
        tail = f" ({for_log(brief(note))})" if note else ""
        took = f"{seconds * 1000:.1f} ms"
        word = method if method == "GET" else _word(method)
        line = f"{self._stamp()}{word} {url} {status} {size} B {took} {served_from}{wait}{reasons} [{client}]{tail}"
        self._append(line if line.isprintable() else one_line(line))

    def hit(self, url: str, status: int, size: int, seconds: float, client: str) -> None:
        """The same for the most frequent case, a GET that is answered from memory (1.1 µs of 17, instead of 1.4)."""
        if self._enabled:
            took = "0.0" if seconds < 0.00005 else f"{seconds * 1000:.1f}"
            self._append(f"{self._stamp()}GET {url} {status} {size} B {took} ms hit [{client}]")

    def _append(self, line: str) -> None:
        if not self._print:
            logger.info("%s", line)
            return
        self._lines.append(line)
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_later(FLUSH_AFTER, self._flush_now)
        elif len(self._lines) >= LINES_MAX:
            self.flush()

    def _stamp(self) -> str:
        """The time of day, in ISO 8601 with milliseconds and zone."""
        now = int(time.time() * 1000)
        if now != self._millisecond:
            self._millisecond = now
            second, left = divmod(now, 1000)
            if second != self._second:
                self._second = second
                local = time.localtime(second)
                zone = time.strftime("%z", local)
                self._clock, self._zone = time.strftime("%Y-%m-%dT%H:%M:%S.", local), f"{zone[:-2]}:{zone[-2:]} "
            self._text = f"{self._clock}{left:03d}{self._zone}"
        return self._text

    def _flush_now(self) -> None:
        self._flush_is_due = False
        self.flush()

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        text = "\n".join(lines) + "\n"
        if self._output is not None:
            self._output.write(text)
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except (OSError, ValueError):
            self._on_lost(len(lines))

    def close(self) -> None:
        self.flush()
        self._end_safety()
        if self._terminal is not None and self._terminal.file is self._output:
            self._terminal.file = self._terminal_file
        if self._output is not None:
            self._output.close()
            self._output = None


def _word(method: str) -> str:
    """A method as one word of a line: clients may send anything."""
    return method if method.isalpha() and len(method) <= METHOD_MAX else method[:METHOD_MAX].replace(" ", "%20")
