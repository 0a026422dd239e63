"""SIGHUP, from the first moment on: unhandled, it would end the process without a drain.

It is caught before any slow import (so this file imports little), and remembered until :func:`listen`. After the proxy
has stopped the signal is ignored. Without any handler it would still end the process; with one, beside an event loop
that is closing, Python would write to the loop's closed socket, or to another file with its number
(``signal.set_wakeup_fd``).
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
    """Install the handler. Idempotent: a script may be loaded again."""
    global _caught, _was_ignored
    if _caught or threading.current_thread() is not threading.main_thread():
        return
    _caught = True
    _was_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signal.signal(signal.SIGHUP, _on_signal)
    # At its very end Python restores the default action of handled signals, but not of ignored ones.
    atexit.register(_handle, signal.SIG_IGN)


def listen(callback: Callable[[], None]) -> None:
    """Call ``callback`` on the running loop for each signal from now on, in place of the previous one; at once if a
    signal is pending. Signals within one turn of the loop count once."""
    global _listener
    _listener = (asyncio.get_running_loop(), callback)
    _handle(_on_signal)
    if _pending:
        _listener[0].call_soon(_tell)


def quiet_wakeups() -> None:
    """Silence Python's warning about signals that don't fit into the loop's socket. In 3.11 it takes a lock inside the
    signal handler, which deadlocks a process that holds the lock. Call it once mitmproxy has set its own handlers."""
    if _caught and threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)


def ignore(callback: Callable[[], None]) -> None:
    """Ignore the signal from now on, unless another callback listens by now (of a script that was loaded again)."""
    global _listener
    if _listener is not None and _listener[1] == callback:
        _listener = None
        _handle(signal.SIG_IGN)


def was_ignored() -> bool:
    """Whether the process was started with the signal ignored (nohup)."""
    return _was_ignored


def _handle(handler: Any) -> None:
    if not _caught or threading.current_thread() is not threading.main_thread():
        return
    # Blocked meanwhile: Python reports an error for a signal whose handler was just removed.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        signal.signal(signal.SIGHUP, handler)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])


def _on_signal(number: int, frame: object) -> None:
    global _pending
    was_pending, _pending = _pending, True
    if _listener is not None and not was_pending:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            _listener[0].call_soon_threadsafe(_tell)


def _tell() -> None:
    global _pending
    if _pending and _listener is not None:
        _pending = False
        _listener[1]()


def terminal_is_gone() -> bool:
    """Whether stdout or stderr is a closed terminal: then the kernel or the shell sent the signal, not an operator."""
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
    """Whether it is or was a terminal. isatty(3) denies it after a hangup, so the device number decides (Linux: 4 and 5
    for consoles, 136 to 143 for pseudoterminals)."""
    major = os.major(os.fstat(descriptor).st_rdev)
    return major in (4, 5) or 136 <= major <= 143
