"""The log's output, which never blocks and never raises; and a filter that makes log records safe.

A log must not be able to stop the proxy. Its reader may have stalled (a full pipe would block the loop), its disk may
be full, or its encoding may lack a character. So lines are written only as far as that needs no waiting, a bounded
number of bytes is buffered, and other lines are dropped and counted; later the log says how many lines are missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import stat
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TextIO

from ..semantics.redaction import for_log

WAITING_MAX: Final = 1 << 20
"""Bytes that are buffered."""
AT_ONCE: Final = 4096
"""Bytes that a writable pipe or socket takes without blocking (PIPE_BUF)."""
AGAIN: Final = 0.05
"""Seconds between attempts to write."""
LAST_WAIT: Final = 1.0
"""Seconds that the log's reader is given at the end."""
MESSAGE_MAX: Final = 8192
"""Characters of a message, or of one line of an error."""
SIDE_MAX: Final = 16 * 1024
"""Characters kept of the beginning, and of the end, of an error or a traceback."""


class LogOutput:
    """A text stream over a descriptor whose ``write`` neither blocks nor raises. ``on_lost(lines)`` is called with the
    number of dropped lines."""

    def __init__(self, stream: TextIO, on_lost: Callable[[int], None] = lambda lines: None) -> None:
        self._stream = stream
        self._on_lost = on_lost
        self.encoding = stream.encoding or "utf-8"
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # its buffer is not ours
        self._descriptor = stream.fileno()
        self._is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)
        self._waiting = bytearray()
        self._lost = 0
        """Dropped lines that the log doesn't mention yet."""
        self._retry: asyncio.TimerHandle | None = None
        self._lock = threading.RLock()
        """Threads of the disk and of mitmproxy log, too."""

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str) -> int:
        data = text.encode(self.encoding, "backslashreplace")
        with self._lock:
            if len(self._waiting) + len(data) > WAITING_MAX:
                self._lose(text.count("\n"))
            else:
                self._waiting += data
            if text.endswith("\n"):
                self.flush()
        return len(text)

    def flush(self) -> None:
        with self._lock:
            if self._waiting and not self._flushed() and self._retry is None:
                try:
                    self._retry = asyncio.get_running_loop().call_later(AGAIN, self._again)
                except RuntimeError:
                    pass  # the loop has ended, or this is another thread: what is left goes with the next line

    def close(self) -> None:
        """Write the buffer, as far as that is possible within :data:`LAST_WAIT`."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        deadline = time.monotonic() + LAST_WAIT
        with self._lock:
            while self._waiting and not self._flushed() and (left := deadline - time.monotonic()) > 0:
                self._poll.poll(left * 1000)

    def _again(self) -> None:
        self._retry = None
        self.flush()

    def _flushed(self) -> bool:
        """Write without waiting. Returns whether the buffer is empty."""
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
        except OSError:  # the disk is full, or the reader has gone; later writes may succeed
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
    """An output over the descriptor of ``stream``; ``None`` if it has none."""
    try:
        return LogOutput(stream, on_lost)
    except (OSError, ValueError, AttributeError):
        return None


class SafeRecords(logging.Filter):
    """Makes log records of any origin safe: a single line (errors may have several, as tracebacks do) of bounded
    length, without control characters, without secrets in URLs."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception:  # arguments that don't fit: logging would print a traceback
            text = str(record.msg)
        keep_lines = record.levelno >= logging.ERROR
        if keep_lines:
            text = _bounded(text)
        elif len(text) > MESSAGE_MAX:
            text = text[:MESSAGE_MAX] + "[...]"
        record.msg, record.args = for_log(text, keep_lines=keep_lines), None
        trace = record.exc_text
        if not trace and record.exc_info and record.exc_info[0] is not None:
            # As a formatter would do it. Messages of exceptions may quote clients and origins.
            trace = logging.Formatter().formatException(record.exc_info)
        if trace:
            record.exc_text = for_log(_bounded(trace), keep_lines=True)
        return True


def _bounded(text: str) -> str:
    """Shorten a text of several lines to its beginning and its end, and each of its lines."""
    if len(text) > 2 * SIDE_MAX:
        # The end begins with a whole line: half a URL would not be recognised and redacted.
        end = text[-SIDE_MAX:].partition("\n")[2]
        text = text[:SIDE_MAX] + "[...]" + (f"\n{end}" if end else "")
    lines = text.split("\n")
    return "\n".join([line if len(line) <= MESSAGE_MAX else line[:MESSAGE_MAX] + "[...]" for line in lines])


_SAFE: Final = SafeRecords()


def make_records_safe(prefixes: Iterable[str]) -> Callable[[], None]:
    """Add the filter to all loggers below these names, for all handlers. Returns a function that removes it."""
    parents = tuple(prefixes)
    loggers = [
        logging.getLogger(name)
        for name in list(logging.root.manager.loggerDict)
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in parents)
    ]
    for logger in loggers:
        logger.addFilter(_SAFE)

    def end() -> None:
        for logger in loggers:
            with contextlib.suppress(ValueError):
                logger.removeFilter(_SAFE)

    return end
