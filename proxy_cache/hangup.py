"""SIGHUP, from the first moment on: unhandled, it would end the process without a drain.

It is caught before anything that takes long is imported (so this file imports little), and remembered until somebody
asks to hear of it. The handler stays for as long as the process lives: one that went with the event loop would leave
a gap at the end.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

_caught = False
_was_ignored = False
_pending = False
_listener: tuple[asyncio.AbstractEventLoop, Callable[[], None]] | None = None


def catch() -> None:
    """Take the signal. Idempotent: a script may be loaded again."""
    global _caught, _was_ignored
    if _caught or threading.current_thread() is not threading.main_thread():
        return
    _caught = True
    _was_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signal.signal(signal.SIGHUP, _on_signal)
    # Python puts the default action back, at the very end, for what has a handler: not for what is ignored.
    atexit.register(signal.signal, signal.SIGHUP, signal.SIG_IGN)


def listen(callback: Callable[[], None]) -> None:
    """Call this on the running loop for each signal from now on, in place of whoever listened before; at once if one
    has come already."""
    global _listener, _pending
    loop = asyncio.get_running_loop()
    _listener = (loop, callback)
    if _pending:
        _pending = False
        loop.call_soon(callback)


def was_ignored() -> bool:
    """Whether the process was started so that a terminal which closes does not end it (nohup)."""
    return _was_ignored


def _on_signal(number: int, frame: object) -> None:
    global _pending
    if _listener is not None:
        loop, callback = _listener
        with contextlib.suppress(RuntimeError):  # it is closed: the process ends
            loop.call_soon_threadsafe(callback)
        return
    _pending = True


def terminal_is_gone() -> bool:
    """Whether what is printed goes to a terminal that has been closed: then the signal is the kernel's, or the
    shell's, and not an operator's."""
    return any(_is_hung_up(stream) for stream in (sys.stdout, sys.stderr))


def _is_hung_up(stream: Any) -> bool:
    try:
        descriptor = stream.fileno()
        if not _is_terminal(descriptor):
            return False
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        return any(events & select.POLLHUP for _, events in poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return False


def _is_terminal(descriptor: int) -> bool:
    """Whether it is, or was, a terminal: isatty(3) says no once it is hung up, so the device's number (Linux: 4 and 5
    for consoles, 136 to 143 for pseudoterminals) has to tell."""
    major = os.major(os.fstat(descriptor).st_rdev)
    return major in (4, 5) or 136 <= major <= 143
