"""SIGHUP, from the first moment on: unhandled, it would end the process without a drain.

It is caught before anything that takes long is imported (so this file imports little), and remembered until somebody
asks to hear of it. Once the proxy has stopped the signal is ignored, not unhandled: a handler beside an event loop
that closes makes Python write to the loop's closed socket, or to what has its number by then
(``signal.set_wakeup_fd``), and no handler would leave a gap at the end.
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
    atexit.register(_handle, signal.SIG_IGN)


def listen(callback: Callable[[], None]) -> None:
    """Call this on the running loop for the signals from now on, in place of whoever listened before; at once if one
    has come already. Signals that come faster than the loop turns are one."""
    global _listener
    _listener = (asyncio.get_running_loop(), callback)
    _handle(_on_signal)
    if _pending:
        _listener[0].call_soon(_tell)


def quiet_wakeups() -> None:
    """Let signals that come faster than the loop turns be lost in silence. Python reports each that no longer fits
    into the loop's socket, and in 3.11 the report takes a lock inside the signal handler: a process that happens to
    hold it stands still for good. Call it once mitmproxy has its own handlers."""
    if _caught and threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)


def ignore(callback: Callable[[], None]) -> None:
    """Ignore the signal from now on, unless somebody else listens by now (a script that was loaded again)."""
    global _listener
    if _listener is not None and _listener[1] == callback:
        _listener = None
        _handle(signal.SIG_IGN)


def was_ignored() -> bool:
    """Whether the process was started so that a terminal which closes does not end it (nohup)."""
    return _was_ignored


def _handle(handler: Any) -> None:
    if not _caught or threading.current_thread() is not threading.main_thread():
        return
    # Blocked meanwhile: Python complains of a signal that came for a handler which is no more.
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
