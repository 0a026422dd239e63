"""Short turns for the event loop.

asyncio handles all pending events, and everything that follows from them, before it looks at timers and new events.
With dozens of busy connections such a turn takes 10 ms and more, and a new event waits for two of them. An addon can't
choose the loop that ``mitmdump`` runs on, so the existing one is patched to take shorter turns: fewer events at a time
when they take long, and fewer new connections.

The 99th percentile of a timer's delay falls from 60 to 20 ms (misses of 1 MB), or from 40 to 10 ms (a thousand agents
connecting at once). Measured with 32 clients on one core.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import select
import selectors
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from .privates import Feature, attributes, calls, names, report

TURN = 0.003
"""Seconds that a turn of the loop should take at most."""
SWITCH = 0.001
"""Seconds after which a thread has to pass Python's lock to another one; by default 5 ms."""
EVENTS_MIN, EVENTS_MAX = 1, 64
"""Bounds of the number of events in one turn."""
ACCEPTED_AT_ONCE = 4
"""Connections accepted in one turn, at some 0.4 ms each; asyncio accepts up to a hundred."""


TURNS: Final = Feature(
    "short turns of the event loop",
    "who connects may wait behind all that is under way, and a client that is not being read and leaves is noticed "
    "late; tune_event_loop=false says that this is meant",
    (
        *attributes("asyncio.selector_events:BaseSelectorEventLoop", "_selector"),
        *attributes("selectors:EpollSelector", "_selector"),
    ),
)
READS: Final = Feature(
    "reads without detours",
    "each read costs a little more",
    (
        *attributes("asyncio.selector_events:_SelectorSocketTransport", "_read_ready_cb"),
        *calls("asyncio.selector_events:_SelectorSocketTransport", _read_ready="self"),
    ),
)
ACCEPTING: Final = Feature(
    "accepting a few at a time",
    "bursts of connections hold up the others, and mitmproxy hears of every client first",
    (
        *attributes("asyncio.selector_events:BaseSelectorEventLoop", "_selector"),
        *calls(
            "asyncio.selector_events:BaseSelectorEventLoop",
            _accept_connection="self, protocol_factory, sock, sslcontext, server, backlog",
        ),
        *names("asyncio.events:Handle", "_args _callback"),
    ),
)
SOCKETS: Final = Feature(
    "bodies sent from their files",
    "the fast lane sends them from memory",
    attributes("asyncio.trsock:TransportSocket", "_sock"),
)
"""Used by ``downstream/lane.py`` for each client."""
FEATURES: Final = (TURNS, READS, ACCEPTING, SOCKETS)
"""Everything that depends on asyncio's private names. Only used on Linux, with asyncio's own loop."""
for _part in FEATURES:
    _part.check(f"Python {platform.python_version()}")

logger = logging.getLogger(__name__)


def report_disabled() -> None:
    """Log one line for each change in asyncio that disables a feature, once."""
    if hasattr(selectors, "EpollSelector"):
        report(FEATURES, logger)


class ShortTurns:
    """Replaces the ``select.epoll`` of a selector. (The kernel reports ready descriptors in rotation, so none starves.)

    Registered transports read at once, without the selector's list, the loop's list and a handle for each event: that
    saves 1 of the 15 µs of a hit.
    """

    def __init__(self, epoll: Any) -> None:
        self._epoll = epoll
        self._maxevents = EVENTS_MAX
        self._since = time.monotonic()
        self.readers: dict[int, Any] = {}
        """Registered transports by descriptor."""
        self.hangups: dict[int, Callable[[], None]] = {}
        """Callbacks for the end of a connection, by a descriptor duplicated for that."""

    def poll(self, timeout: float, maxevents: int) -> Any:
        spent = time.monotonic() - self._since
        if spent > TURN:
            self._maxevents = max(EVENTS_MIN, min(self._maxevents, maxevents) // 2)
        elif self._maxevents < EVENTS_MAX:
            self._maxevents = min(EVENTS_MAX, self._maxevents + 1 + self._maxevents // 4)
        events = self._epoll.poll(timeout, min(self._maxevents, maxevents))
        self._since = time.monotonic()
        readers = self.readers
        if not readers and not self.hangups:
            return events
        others = []
        for event in events:
            transport = readers.get(event[0]) if event[1] == select.EPOLLIN else None
            if transport is not None:
                transport._read_ready_cb()  # asyncio's own callback, which handles all errors
            elif event[0] in self.hangups:
                self.hangups.pop(event[0])()
            else:
                others.append(event)
        return others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


def take_short_turns(loop: asyncio.AbstractEventLoop) -> None:
    """On loops other than asyncio's own on Linux, only the switch interval of threads is set."""
    sys.setswitchinterval(SWITCH)
    if not TURNS.is_on:
        return
    selector: Any = getattr(loop, "_selector", None)
    epoll = getattr(selector, "_selector", None)
    if isinstance(selector, selectors.EpollSelector) and epoll is not None and not isinstance(epoll, ShortTurns):
        setattr(selector, "_selector", ShortTurns(epoll))  # noqa: B010 - not in its stub


def read_at_once(loop: asyncio.AbstractEventLoop, transport: Any) -> Callable[[], None]:
    """Make a transport of the loop read as soon as its socket is readable. Returns a function that ends this, to be
    called before the socket is closed."""
    turns = getattr(getattr(loop, "_selector", None), "_selector", None)
    if not READS.is_on or not isinstance(turns, ShortTurns) or not hasattr(transport, "_read_ready_cb"):
        return lambda: None
    readers, descriptor = turns.readers, transport.get_extra_info("socket").fileno()
    readers[descriptor] = transport

    def end() -> None:
        if readers.get(descriptor) is transport:
            del readers[descriptor]

    return end


def when_hung_up(
    loop: asyncio.AbstractEventLoop, connection: socket.socket, tell: Callable[[], None], *, reset: bool = False
) -> Callable[[], None]:
    """Call ``tell`` once, in a turn of the loop, when the other end closes or resets a connection that is not being
    read (asyncio only notices the end of connections that it reads). ``reset``: only for resets, not for a FIN. Returns
    a function that ends the watch, to be called in any case. (Does nothing on loops other than asyncio's own on
    Linux.)"""
    turns = getattr(getattr(loop, "_selector", None), "_selector", None)
    if not isinstance(turns, ShortTurns):
        return lambda: None
    # A duplicate: a descriptor can't be registered twice, and the loop may close its own first.
    watched = os.dup(connection.fileno())

    def end() -> None:
        nonlocal watched
        if watched >= 0:
            turns.hangups.pop(watched, None)
            with contextlib.suppress(OSError):
                turns.unregister(watched)
            os.close(watched)
            watched = -1

    def hung_up() -> None:
        end()
        loop.call_soon(tell)

    try:
        turns.register(watched, 0 if reset else select.EPOLLRDHUP)  # errors and full closes are always reported
    except OSError:
        os.close(watched)
        return lambda: None
    turns.hangups[watched] = hung_up
    return end


ProtocolFactory: TypeAlias = Callable[[], asyncio.BaseProtocol]


def accept_in_turns(
    loop: asyncio.AbstractEventLoop,
    listener: asyncio.Server,
    wrap_factory: Callable[[ProtocolFactory], ProtocolFactory],
) -> None:
    """Make a server accept fewer connections at once, and replace its protocol factory by ``wrap_factory(factory)``.
    asyncio's handler of the socket stays, with other arguments."""
    selector: Any = getattr(loop, "_selector", None) if ACCEPTING.is_on else None
    for listening in listener.sockets:
        if listening.type != socket.SOCK_STREAM or not isinstance(selector, selectors.BaseSelector):
            continue
        key = selector.get_map().get(listening.fileno())
        if key is None:
            continue  # asyncio ran out of descriptors, and will register it again
        reader = key.data[0]
        arguments = list(getattr(reader, "_args", ()))
        # protocol_factory, sock, sslcontext, server, backlog, …
        if len(arguments) > 4 and arguments[3] is listener and isinstance(arguments[4], int):
            arguments[0] = wrap_factory(arguments[0])
            arguments[4] = ACCEPTED_AT_ONCE - 1
            loop.add_reader(listening.fileno(), reader._callback, *arguments)
