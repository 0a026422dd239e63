"""The fleet as this proxy sees it: its peers in rank for a key, who is left alone, and who may call itself a peer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from ...wire.responses import OriginError
from ..names import Names
from .health import Attempt, Health, PeerState
from .listings import parse_peer
from .peer import Peer, as_address
from .peer_list import PeerList
from .settings import FleetSettings

FIRST_LOOK: Final = 3.0
"""Seconds that a start waits for lists of peers."""
CHANGED_FOR: Final = 3600.0
"""Seconds after a change of the list, or a start, in which a key may still be with the one that was its home before."""

logger = logging.getLogger(__name__)


class PeerFleet:
    """All on the event loop."""

    def __init__(self, names: Names, listening_on: Callable[[], Sequence[tuple[str, int]]]) -> None:
        """``listening_on``: the addresses and ports that clients are served on."""
        self._names = names
        self._listening_on = listening_on
        self._list = PeerList(names, self._changed)
        self._health = Health()
        self._addresses: frozenset[str] = frozenset()
        """Of all peers, as far as they are known."""
        self._finding: asyncio.Task[None] | None = None
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

    def attempt(self, peer: Peer) -> Attempt | None:
        """A request is to go to it; ``None`` if it is left alone."""
        return self._health.attempt(peer)

    def broke_off(self, peer: Peer, error: OriginError) -> None:
        """A body of its broke off."""
        attempt = self._health.attempt(peer)
        if attempt is not None:
            attempt.failed(f"{error.error}: {error.detail}")

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
        self._addresses = frozenset(peer.host for peer in peers if peer.is_address)
        names = [peer for peer in peers if not peer.is_address]
        if self._finding is not None:
            self._finding.cancel()
        if names:
            self._finding = asyncio.get_running_loop().create_task(self._find(names))

    async def _find(self, peers: Sequence[Peer]) -> None:
        """The addresses of those that are listed by name."""
        for peer in peers:
            with contextlib.suppress(OSError):
                found = await self._names.getaddrinfo(peer.host, peer.port)
                self._addresses |= {as_address(sockaddr[0].partition("%")[0]) or "" for *_, sockaddr in found}

    def states(self) -> list[PeerState]:
        """How all of the list are doing."""
        return self._health.states(self._list.peers)

    def status(self) -> list[dict[str, Any]]:
        """The same, for the status page."""
        return [asdict(state) for state in self.states()]
