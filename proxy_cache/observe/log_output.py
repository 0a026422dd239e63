"""Where log lines go, and what they may look like there.

A log must not be able to stop the proxy. Whoever reads it may have stalled (a pipe that is full would block the loop
for everybody), its disk may be full, or its encoding not know a character. So lines are written only as far as that
takes no waiting, a bounded number of bytes waits, and what can't be had is counted and left out; when there is room
again the log says how many lines are missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import stat
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TextIO

from ..semantics.redaction import for_log

WAITING_MAX: Final = 1 << 20
"""Bytes that may wait until they can be written."""
AT_ONCE: Final = 4096
"""Bytes that a pipe or a socket takes without blocking once it has said that it takes some (PIPE_BUF)."""
AGAIN: Final = 0.05
"""Seconds between tries, where nothing can be written."""
LAST_WAIT: Final = 1.0
"""Seconds that the reader of the log is given at the end."""
MESSAGE_MAX: Final = 8192
"""Characters of one message, or of a line of one that has several, and"""
SIDE_MAX: Final = 16 * 1024
"""characters that are kept of the beginning, and of the end, of a message or a traceback that has several."""


class LogOutput:
    """A text stream for logs over a descriptor, whose ``write`` neither blocks nor raises. ``on_lost(lines)`` hears of
    lines that were left out."""

    def __init__(self, stream: TextIO, on_lost: Callable[[int], None] = lambda lines: None) -> None:
        self._stream = stream
        self._on_lost = on_lost
        self.encoding = stream.encoding or "utf-8"
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # what is left of it is not ours
        self._descriptor = stream.fileno()
        self._is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)
        self._waiting = bytearray()
        self._lost = 0
        """Lines that are still to be told of."""
        self._retry: asyncio.TimerHandle | None = None

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str) -> int:
        data = text.encode(self.encoding, "backslashreplace")
        if len(self._waiting) + len(data) > WAITING_MAX:
            self._lose(text.count("\n"))
        else:
            self._waiting += data
        if text.endswith("\n"):
            self.flush()
        return len(text)

    def flush(self) -> None:
        if self._waiting and not self._flushed() and self._retry is None:
            try:
                self._retry = asyncio.get_running_loop().call_later(AGAIN, self._again)
            except RuntimeError:
                pass  # the loop has ended

    def close(self) -> None:
        """Write what waits, as far as it is taken within :data:`LAST_WAIT`."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        deadline = time.monotonic() + LAST_WAIT
        while self._waiting and not self._flushed() and (left := deadline - time.monotonic()) > 0:
            self._poll.poll(left * 1000)

    def _again(self) -> None:
        self._retry = None
        self.flush()

    def _flushed(self) -> bool:
        """Write what can be written now; whether that was all."""
        waiting = self._waiting
        try:
            while waiting:
                if self._is_file:
                    count = os.write(self._descriptor, waiting)
                else:
                    events = self._poll.poll(0)
                    if not events or not events[0][1] & (select.POLLOUT | select.POLLERR | select.POLLHUP):
                        return False
                    count = os.write(self._descriptor, waiting[:AT_ONCE])
                del waiting[:count]
        except BlockingIOError:
            return False
        except OSError:  # no space left, or nobody reads it any more: perhaps there is, or somebody does, later
            self._lose(waiting.count(b"\n"))
            waiting.clear()
            return True
        if self._lost:
            lost, self._lost = self._lost, 0
            waiting += f"proxy-cache: {lost} log lines are missing here\n".encode()
            return self._flushed()
        return True

    def _lose(self, lines: int) -> None:
        self._lost += lines
        self._on_lost(lines)


def output_for(stream: Any, on_lost: Callable[[int], None]) -> LogOutput | None:
    """An output over what ``stream`` writes to; ``None`` if that is no descriptor."""
    try:
        return LogOutput(stream, on_lost)
    except (OSError, ValueError, AttributeError):
        return None


class SafeRecords(logging.Filter):
    """Makes a record one that a log can have, whoever made it: messages are one line (those of errors may have more,
    since tracebacks do), of a bounded length, without control characters and without the secrets of URLs."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception:  # arguments that don't fit: logging would print a traceback for it
            text = str(record.msg)
        keep_lines = record.levelno >= logging.ERROR
        if keep_lines:
            text = _bounded(text)
        elif len(text) > MESSAGE_MAX:
            text = text[:MESSAGE_MAX] + "[...]"
        record.msg, record.args = for_log(text, keep_lines=keep_lines), None
        trace = record.exc_text
        if not trace and record.exc_info and record.exc_info[0] is not None:
            # What a formatter would put there. Messages of exceptions have in them what clients and origins have sent.
            trace = logging.Formatter().formatException(record.exc_info)
        if trace:
            record.exc_text = for_log(_bounded(trace), keep_lines=True)
        return True


def _bounded(text: str) -> str:
    """A text of several lines: the beginning and the end of one that is too long, and the beginning of each line."""
    if len(text) > 2 * SIDE_MAX:
        # Whole lines of the end: what begins in the middle of a URL would not be known for one.
        end = text[-SIDE_MAX:].partition("\n")[2]
        text = text[:SIDE_MAX] + "[...]" + (f"\n{end}" if end else "")
    lines = text.split("\n")
    return "\n".join([line if len(line) <= MESSAGE_MAX else line[:MESSAGE_MAX] + "[...]" for line in lines])


_SAFE: Final = SafeRecords()


def make_records_safe(prefixes: Iterable[str]) -> Callable[[], None]:
    """Have all loggers below these names log safe records, for every handler there is. Returns what ends that."""
    wanted = tuple(prefixes)
    loggers = [
        logging.getLogger(name)
        for name in list(logging.root.manager.loggerDict)
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in wanted)
    ]
    for logger in loggers:
        logger.addFilter(_SAFE)

    def end() -> None:
        for logger in loggers:
            with contextlib.suppress(ValueError):
                logger.removeFilter(_SAFE)

    return end
