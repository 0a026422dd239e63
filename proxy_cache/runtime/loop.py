"""Short turns for the event loop.

asyncio handles every event that is there, and everything that follows from it, before it looks at its timers and at
what is new. With some dozens of busy connections such a turn takes 10 ms and more, and whoever comes meanwhile waits
for two of them. ``mitmdump`` gives an addon no say in the loop that it runs on, so what is there is made to take
shorter turns: fewer events at a time when they take long, and fewer new connections.

Measured (32 clients, one core): of a hundred timers one is late by 20 ms, not by 60 (misses of 1 MB), or by 10 ms,
not by 40 (a thousand agents that connect at once).
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
"""Seconds that a turn of the loop should take at the most."""
SWITCH = 0.001
"""Seconds after which a thread that holds Python's lock has to let another have it; Python's own choice is 5 ms."""
EVENTS_MIN, EVENTS_MAX = 1, 64
"""Events of a turn, however long they take, and however short."""
ACCEPTED_AT_ONCE = 4
"""Connections accepted in one turn, at some 0.4 ms each; asyncio takes up to a hundred."""


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
"""Which ``downstream/lane.py`` looks up for each client."""
FEATURES: Final = (TURNS, READS, ACCEPTING, SOCKETS)
"""What depends on asyncio's insides, all of it on Linux and on its own loop alone."""
for _part in FEATURES:
    _part.check(f"Python {platform.python_version()}")

logger = logging.getLogger(__name__)


def report_disabled() -> None:
    """One line in the log for each change that has switched something off, once."""
    if hasattr(selectors, "EpollSelector"):
        report(FEATURES, logger)


class ShortTurns:
    """Stands in for the ``select.epoll`` of a selector. (The kernel hands out what is ready by turns, so who gets
    nothing now is the next.)

    Transports that are here by their descriptor read at once what there is for them, without the selector's list, the
    loop's list and the handle that each event is otherwise: 1 of the 15 µs of a hit.
    """

    def __init__(self, epoll: Any) -> None:
        self._epoll = epoll
        self._most = EVENTS_MAX
        self._since = time.monotonic()
        self.readers: dict[int, Any] = {}
        self.hangups: dict[int, Callable[[], None]] = {}
        """What to call when the other end of a connection has gone, by a descriptor of its own."""

    def poll(self, timeout: float, most: int) -> Any:
        spent = time.monotonic() - self._since
        if spent > TURN:
            self._most = max(EVENTS_MIN, min(self._most, most) // 2)
        elif self._most < EVENTS_MAX:
            self._most = min(EVENTS_MAX, self._most + 1 + self._most // 4)
        events = self._epoll.poll(timeout, min(self._most, most))
        self._since = time.monotonic()
        readers = self.readers
        if not readers and not self.hangups:
            return events
        others = []
        for event in events:
            transport = readers.get(event[0]) if event[1] == select.EPOLLIN else None
            if transport is not None:
                transport._read_ready_cb()  # what asyncio calls; it sees to all that can go wrong
            elif event[0] in self.hangups:
                self.hangups.pop(event[0])()
            else:
                others.append(event)
        return others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


def take_short_turns(loop: asyncio.AbstractEventLoop) -> None:
    """Does nothing on loops other than asyncio's own on Linux, but for the other threads' turns."""
    sys.setswitchinterval(SWITCH)
    if not TURNS.is_on:
        return
    selector: Any = getattr(loop, "_selector", None)
    epoll = getattr(selector, "_selector", None)
    if isinstance(selector, selectors.EpollSelector) and epoll is not None and not isinstance(epoll, ShortTurns):
        setattr(selector, "_selector", ShortTurns(epoll))  # noqa: B010 - not in its stub


def read_at_once(loop: asyncio.AbstractEventLoop, transport: Any) -> Callable[[], None]:
    """Have a transport of the loop read as soon as the loop knows that there is something. Returns what ends that, to
    be called before the socket is closed."""
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
    """Call ``tell`` once, in a turn of the loop, when the other end has closed or reset a connection that nobody reads:
    asyncio notices the end of what it reads only. ``reset``: that alone, and not that the other end sends no more.
    Returns what ends the watch, to be called in any case. (Does nothing on other loops than asyncio's own on Linux.)"""
    turns = getattr(getattr(loop, "_selector", None), "_selector", None)
    if not isinstance(turns, ShortTurns):
        return lambda: None
    # A descriptor of its own: the loop's is not to be registered twice, and may be closed first.
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
        turns.register(watched, 0 if reset else select.EPOLLRDHUP)  # errors and full closes are told in any case
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
            continue  # it has run out of files, and will be back
        reader = key.data[0]
        arguments = list(getattr(reader, "_args", ()))
        # protocol_factory, sock, sslcontext, server, backlog, …
        if len(arguments) > 4 and arguments[3] is listener and isinstance(arguments[4], int):
            arguments[0] = wrap_factory(arguments[0])
            arguments[4] = ACCEPTED_AT_ONCE - 1
            loop.add_reader(listening.fileno(), reader._callback, *arguments)
