"""Name look-ups, with bounds on time and on threads.

``getaddrinfo`` blocks a thread while a name server is silent, for 20 s and more. asyncio runs it in its default
executor: six or so slow names take all of its threads, and no other name can be looked up. Here each look-up has a
thread of its own, which may be abandoned (a daemon, so that the process can end). Concurrent requests for a name share
one look-up, so a hanging name holds one thread.

It still is the system's ``getaddrinfo``, not a DNS library: ``/etc/hosts``, ``nsswitch.conf``, search domains, mDNS and
a container's resolver work as for every other program on the machine.

:mod:`.dial` uses it. :meth:`Names.install` also replaces the loop's own method, for connections that others open in
this process: other addons, and mitmproxy where it can't be made to dial as fills do.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

logger = logging.getLogger(__name__)

RUNNING_MAX: Final = 64
"""Look-ups at once, slow ones not counted."""
SLOW_MAX: Final = 192
"""Slow look-ups besides those."""
SLOW: Final = 2.0
"""Seconds after which a look-up is slow. A working resolver answers sooner, or tries its next server after five."""
WAITING_MAX: Final = 1024
"""Look-ups that may wait for a thread."""
KEPT_FOR: Final = 5.0
"""Seconds for which addresses are cached. (:mod:`.dial` keeps them longer, and rotates them.)"""
REFUSED_FOR: Final = 1.0
"""Seconds for which a failure is cached."""
KEPT_MAX: Final = 1024
"""Names in the cache."""

Address: TypeAlias = tuple[Any, ...]
Found: TypeAlias = list[tuple[Any, Any, int, str, Address]]
Query: TypeAlias = tuple[str, int, int, int, int]
"""Host, family, type, protocol and flags. (The port is added to the results.)"""


class NameTimeout(socket.gaierror):
    """No answer in time, or too many look-ups already wait for one."""

    def __init__(self, why: str) -> None:
        super().__init__(socket.EAI_AGAIN, why)
        self.why = why


class _Lookup:
    """One look-up, with the number of its waiters."""

    __slots__ = ("done", "is_running", "is_slow", "query", "waiters")

    def __init__(self, query: Query, done: asyncio.Future[Found | OSError]) -> None:
        self.query = query
        self.done = done
        """Its result is the addresses or the error. (As an exception, an error that nobody awaits would be logged.)"""
        self.waiters = 0
        self.is_running = self.is_slow = False


class Names:
    """Looks names up, on the event loop. ``timeout``: seconds that a caller waits. ``on_end(outcome)`` is called for
    each caller: ``found``, ``unknown``, ``timeout`` or ``rejected`` (too many were waiting)."""

    def __init__(self, timeout: float = 30.0, on_end: Callable[[str], None] = lambda outcome: None) -> None:
        self.timeout = timeout
        self._on_end = on_end
        self._lookups: dict[Query, _Lookup] = {}
        self._waiting: deque[_Lookup] = deque()
        self._running = self._slow = 0
        self._kept: OrderedDict[Query, tuple[float, Found | OSError]] = OrderedDict()
        """By query: expiry (monotonic clock), and the result."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._original: Any = None

    def __repr__(self) -> str:
        return f"<Names: {self._running} running, {self._slow} slow, {len(self._waiting)} waiting>"

    @property
    def in_flight(self) -> int:
        """Threads in a look-up."""
        return self._running + self._slow

    # -- in place of the loop's method --------------------------------------------------------------------------

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make ``loop`` look names up here, until :meth:`uninstall`. (A loop that isn't written in Python can't be
        patched, and continues as before.)"""
        original = loop.getaddrinfo
        try:
            loop.getaddrinfo = self.getaddrinfo  # type: ignore[method-assign]
        except AttributeError:
            logger.warning("proxy-cache: names are looked up by %s", type(loop).__name__)
            return
        self._loop, self._original = loop, original

    def uninstall(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and loop.__dict__.get("getaddrinfo") == self.getaddrinfo:
            del loop.getaddrinfo

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Found:
        """Like :meth:`asyncio.loop.getaddrinfo`. Raises :class:`NameTimeout`, or the look-up's ``OSError``."""
        if not isinstance(host, str) or not isinstance(port, int) or _is_address(host):
            return await self._unbounded(host, port, family=family, type=type, proto=proto, flags=flags)
        # "Example.com" is "example.com" (RFC 4343).
        found = await self.find((host.lower(), int(family), int(type), int(proto), int(flags)))
        return [(*each, (address[0], port, *address[2:])) for *each, address in found]  # type: ignore[misc]

    async def _unbounded(self, host: Any, port: Any, **how: int) -> Found:
        """Anything but a name takes no time."""
        if self._original is not None:
            found: Found = await self._original(host, port, **how)
            return found
        return await asyncio.get_running_loop().run_in_executor(
            None, lambda: socket.getaddrinfo(host, port, **how)  # type: ignore[arg-type]
        )  # fmt: skip

    # -- look-ups -----------------------------------------------------------------------------------------------

    async def find(self, query: Query) -> Found:
        """The addresses of a name, with port 0."""
        kept = self._kept.get(query)
        if kept is not None and time.monotonic() < kept[0]:
            return self._told(kept[1])
        lookup = self._lookups.get(query)
        if lookup is None:
            lookup = self._start(query)
        lookup.waiters += 1
        try:
            await asyncio.wait([lookup.done], timeout=self.timeout)
            if not lookup.done.done():
                await asyncio.sleep(0)  # if the process was stopped, the answer may be waiting for its turn
        finally:
            lookup.waiters -= 1
            if not lookup.waiters and not lookup.is_running and not lookup.done.done():
                # It has no thread yet, and nobody waits for it any more.
                self._waiting.remove(lookup)
                del self._lookups[query]
        if not lookup.done.done():
            self._on_end("timeout")
            raise NameTimeout(f"no answer for {query[0][:255]} within {self.timeout:g} s")
        return self._told(lookup.done.result())

    def _told(self, found: Found | OSError) -> Found:
        if isinstance(found, OSError):
            self._on_end("unknown")
            # A new exception for each caller, with a traceback of its own.
            raise NameTimeout(found.why) if isinstance(found, NameTimeout) else type(found)(*found.args)
        self._on_end("found")
        return found

    def _start(self, query: Query) -> _Lookup:
        if len(self._waiting) >= WAITING_MAX:
            self._on_end("rejected")
            raise NameTimeout("too many names are being looked up")
        lookup = self._lookups[query] = _Lookup(query, asyncio.get_running_loop().create_future())
        self._waiting.append(lookup)
        self._start_next()
        return lookup

    def _start_next(self) -> None:
        while self._waiting and self._running < RUNNING_MAX and self._running + self._slow < RUNNING_MAX + SLOW_MAX:
            lookup = self._waiting.popleft()
            loop = asyncio.get_running_loop()
            thread = threading.Thread(target=_look_up, args=(loop, lookup.query, self._ended, lookup), daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads
                self._over(lookup, NameTimeout(str(error)))
                continue
            lookup.is_running = True
            self._running += 1
            loop.call_later(SLOW, self._is_slow, lookup)

    def _is_slow(self, lookup: _Lookup) -> None:
        """Make its thread available to others, as long as there are not too many slow ones."""
        if lookup.is_running:
            if self._slow >= SLOW_MAX:
                asyncio.get_running_loop().call_later(SLOW, self._is_slow, lookup)
                return
            lookup.is_slow = True
            self._running -= 1
            self._slow += 1
            self._start_next()

    def _ended(self, lookup: _Lookup, found: Found | OSError) -> None:
        lookup.is_running = False
        if lookup.is_slow:
            self._slow -= 1
        else:
            self._running -= 1
        if len(self._kept) >= KEPT_MAX:
            self._kept.popitem(last=False)
        kept_for = REFUSED_FOR if isinstance(found, OSError) else KEPT_FOR
        self._kept.pop(lookup.query, None)
        self._kept[lookup.query] = time.monotonic() + kept_for, found
        self._over(lookup, found)
        self._start_next()

    def _over(self, lookup: _Lookup, found: Found | OSError) -> None:
        del self._lookups[lookup.query]
        lookup.done.set_result(found)


def _look_up(
    loop: asyncio.AbstractEventLoop, query: Query, tell: Callable[[_Lookup, Found | OSError], None], lookup: _Lookup
) -> None:
    """In a thread."""
    host, family, kind, proto, flags = query
    found: Found | OSError
    try:
        found = socket.getaddrinfo(host, 0, family, kind, proto, flags)
        if not found:
            found = socket.gaierror(socket.EAI_NONAME, "no address")
    except OSError as error:
        found = error
    except Exception as error:  # UnicodeError, of names that can't exist
        found = socket.gaierror(socket.EAI_NONAME, f"not a name: {error}")
    try:
        loop.call_soon_threadsafe(tell, lookup, found)
    except RuntimeError:
        pass  # the loop has ended


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return not host
    return True
