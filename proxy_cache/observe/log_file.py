"""A file of log lines, written by a thread of its own: a disk that has stalled holds nobody up.

Lines wait in memory, a bounded number of bytes of them; what has no room is dropped and counted. So is what can't be
written (the disk is full). logrotate's way works without a loss: it renames the file and sends SIGHUP, all lines from
before go into the renamed file, and the others into a new one (:meth:`LogFile.reopen`).
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .log_files import open_like

logger = logging.getLogger(__name__)

MODE: Final = 0o640
"""Of a new file: for its owner to write, for its group to read (and what the umask leaves of that)."""
WAITING_MAX: Final = 4 << 20
"""Bytes that wait for the disk."""
LAST_WAIT: Final = 1.0
"""Seconds that the disk is given at the end."""
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK


class LogFile:
    """A file that is appended to. ``on_lost(lines)`` is called with the number of lines that could not be written, in
    any thread. The constructor raises ``OSError``."""

    def __init__(self, path: Path, on_lost: Callable[[int], None] = lambda lines: None) -> None:
        self.path = path
        self._on_lost = on_lost
        self._descriptor = _open(path)
        self._waiting: deque[bytes | None] = deque()
        """Texts of whole lines; ``None``: open the file anew."""
        self._size = 0
        self._condition = threading.Condition()
        self._is_closing = False
        self._lost = 0
        """Lines since the last write that has succeeded."""
        self._is_torn = False
        """Whether the file ends within a line, since the disk was full."""
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, text: str, lines: int) -> None:
        """Append ``lines`` whole lines, in the background. Neither waits nor raises."""
        data = text.encode("utf-8", "backslashreplace")
        with self._condition:
            has_room = self._size + len(data) <= WAITING_MAX and not self._is_closing
            if has_room:
                self._size += len(data)
                self._waiting.append(data)
                self._condition.notify()
        if not has_room:
            self._on_lost(lines)

    def reopen(self) -> None:
        """Go on in a file of the same name, when all that was written before is in this one, if it was renamed or
        deleted."""
        with self._condition:
            self._waiting.append(None)
            self._condition.notify()

    def close(self, patience: float = LAST_WAIT) -> None:
        """Write what waits, as far as that takes no longer than ``patience`` seconds; the thread then does the rest,
        as long as the process lives. Idempotent."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        self._thread.join(patience)

    # -- in the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._is_closing:
                    self._condition.wait()
                if not self._waiting:
                    break
                text = self._waiting.popleft()
            if text is None:
                self._reopen()
                continue
            self._append(text)
            with self._condition:
                self._size -= len(text)
        os.close(self._descriptor)

    def _append(self, text: bytes) -> None:
        left = memoryview(text)
        try:
            if self._is_torn:
                os.write(self._descriptor, b"\n")
                self._is_torn = False
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            written = len(text) - len(left)
            self._is_torn = self._is_torn or (written > 0 and text[written - 1 : written] != b"\n")
            lines = bytes(left).count(b"\n")
            if not self._lost:
                logger.warning("proxy-cache: access_log_file: %s: %s: lines are lost", self.path, error.strerror)
            self._lost += lines
            self._on_lost(lines)
        else:
            if self._lost:
                logger.warning("proxy-cache: access_log_file: %s: %d lines are missing", self.path, self._lost)
                self._lost = 0

    def _reopen(self) -> None:
        try:
            old = os.fstat(self._descriptor)
            try:
                now = os.stat(self.path)
                if (now.st_dev, now.st_ino) == (old.st_dev, old.st_ino):
                    return
            except FileNotFoundError:
                pass
            new = _regular(open_like(str(self.path), old, os.O_NONBLOCK), self.path)
        except OSError as error:
            logger.warning(
                "proxy-cache: SIGHUP: access_log_file goes on where it was: %s: %s", self.path, error.strerror
            )
            return
        os.close(self._descriptor)
        self._descriptor, self._is_torn = new, False
        logger.info("proxy-cache: SIGHUP: access_log_file goes on in a new %s", self.path.name)


def check(path: Path) -> None:
    """Whether lines could be written there, without making the file. Raises ``OSError``."""
    try:
        _regular(os.open(path, _FLAGS), path, close=True)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(path)) from None


def _open(path: Path) -> int:
    return _regular(os.open(path, _FLAGS | os.O_CREAT, MODE), path)


def _regular(descriptor: int, path: Path, *, close: bool = False) -> int:
    """The descriptor, of a regular file: a pipe or a device could make a write wait for ever."""
    is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    if close or not is_regular:
        os.close(descriptor)
    if not is_regular:
        raise OSError(22, "not a regular file", str(path))
    return descriptor
