"""The fleet as this proxy sees it: its peers in rank for a key, who is left alone, and who may call itself a peer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from ...wire.responses import OriginError
from ..names import Names
from .health import Attempt, Health, PeerState
from .listings import parse_peer
from .peer import Peer, as_address
from .peer_list import PeerList
from .settings import FleetSettings
from .watch import JITTER

FIRST_LOOK: Final = 3.0
"""Seconds that a start waits for lists of peers."""
CHANGED_FOR: Final = 3600.0
"""Seconds after a change of the list, or a start, in which a key may still be with the one that was its home before."""

FIND_EVERY: Final = 10.0
"""Seconds from one look at the addresses of named peers to the next."""
FIND_FIRST: Final = 2.0
"""Seconds, as long as one of the names has none."""

logger = logging.getLogger(__name__)


class PeerFleet:
    """All on the event loop."""

    def __init__(self, names: Names, listening_on: Callable[[], Sequence[tuple[str, int]]]) -> None:
        """``listening_on``: the addresses and ports that clients are served on."""
        self._names = names
        self._listening_on = listening_on
        self._list = PeerList(names, self._changed)
        self._health = Health()
        self._found: dict[str, frozenset[str]] = {}
        """The addresses of peers that are listed by name."""
        self._addresses: frozenset[str] = frozenset()
        """Of all peers but this one, as far as they are known."""
        self._finding: asyncio.Task[None] | None = None
        """Looks up the names of peers, as long as there are any."""
        self.has_others = False
        self._last_home: tuple[str, Peer | None] = "", None

    def configure(self, settings: FleetSettings) -> None:
        """At the start, or while running."""
        own = parse_peer(settings.own) if settings.own else None
        self._list.configure(settings.peers, own, self._listening_on())

    def start(self) -> None:
        """Watch the lists of peers, from now on."""
        self._list.start()

    async def first_look(self) -> None:
        """Wait until each list was looked at, for :data:`FIRST_LOOK` at the most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK):
                await self._list.first_look()

    async def stop(self) -> None:
        await self._list.stop()
        if self._finding is not None:
            self._finding.cancel()

    # -- who is asked -------------------------------------------------------------------------------------------------

    @property
    def has_changed(self) -> bool:
        """Whether the list is new."""
        return time.monotonic() - self._list.changed_at < CHANGED_FOR

    def ranked(self, key: str) -> Iterator[Peer]:
        """All nodes, ourselves among them, the home of ``key`` first."""
        return self._list.ranking.ranked(key)

    def is_home(self, key: str) -> bool:
        """Whether we are the home of ``key``, by rank. Asked more than once for each miss."""
        last, home = self._last_home
        if last != key or home is None:
            home = self._list.ranking.home(key)
            self._last_home = key, home
        return home is not None and home.is_self

    def home_of(self, key: str) -> str | None:
        """The authority of the peer that is the home of ``key``; ``None`` if we are, or there is no list."""
        home = self._list.ranking.home(key) if self.has_others else None
        return None if home is None or home.is_self else home.authority

    def attempt(self, peer: Peer) -> Attempt | None:
        """A request is to go to it; ``None`` if it is left alone."""
        return self._health.attempt(peer)

    def body_ended(self, peer: Peer, error: OriginError | None) -> bool:
        """See :meth:`.health.Health.body_ended`."""
        return self._health.body_ended(peer, f"{error.error}: {error.detail}" if error is not None else "")

    def stopped(self, peer: Peer, error: OriginError) -> None:
        """It is not there any more."""
        self._health.stopped(peer, f"{error.error}: {error.detail}")

    # -- who asks -----------------------------------------------------------------------------------------------------

    def is_peer(self, address: str) -> bool:
        """Whether it is the address of one of the list."""
        return as_address(address) in self._addresses

    # -- changes ------------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        peers = self._list.peers
        self._last_home = "", None
        self.has_others = not all(peer.is_self for peer in peers)
        self._health.keep(peers)
        # Whoever has our own address is an agent of this machine: we ask ourselves nothing.
        fixed = frozenset(peer.host for peer in peers if peer.is_address and not peer.is_self)
        names = {peer.host: peer.port for peer in peers if not peer.is_address and not peer.is_self}
        self._found = {name: found for name, found in self._found.items() if name in names}
        self._addresses = fixed.union(*self._found.values())
        if self._finding is not None:
            self._finding.cancel()
        if names:
            self._finding = asyncio.get_running_loop().create_task(self._find(fixed, names))

    async def _find(self, fixed: frozenset[str], names: Mapping[str, int]) -> None:
        """The addresses of those that are listed by name: again and again, since they may have no address yet, or get
        another one. While a name server says nothing, the last ones hold."""
        while True:
            for name, port in names.items():
                with contextlib.suppress(OSError):
                    found = await self._names.getaddrinfo(name, port)
                    self._found[name] = frozenset(as_address(one[4][0].partition("%")[0]) or "" for one in found)
                    self._addresses = fixed.union(*self._found.values())
            every = FIND_EVERY if len(self._found) == len(names) else FIND_FIRST
            await asyncio.sleep(every * random.uniform(1 - JITTER, 1 + JITTER))

    def states(self) -> list[PeerState]:
        """How all of the list are doing."""
        return self._health.states(self._list.peers)

    def status(self) -> list[dict[str, Any]]:
        """The same, for the status page."""
        return [asdict(state) for state in self.states()]
