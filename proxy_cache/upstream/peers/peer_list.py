"""The peers of this proxy: what ``cache_peers`` says, watched, and which of them is this proxy itself."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from ..names import Names
from .dns_discovery import DnsDiscovery
from .file_discovery import FileDiscovery
from .listings import InDns, InFile, parse
from .local import is_here
from .peer import Peer, as_address
from .ranking import Ranking
from .watch import Watch

logger = logging.getLogger(__name__)

FIND_AGAIN: Final = 10.0
"""Seconds until the next try to find this proxy among its peers: its address, or its name, may come later."""
ASKED_AT_ONCE: Final = 16
"""Names."""
LOOKS: Final = {InDns: 3, InFile: 1}
"""So many looks without ourselves in the list are normal. (A headless Service lists a pod when it is ready.)"""
_SHOWN_MAX: Final = 5
"""Peers that a log line names."""


class PeerList:
    """All on the event loop. ``names`` looks names up. ``on_change`` is called after each change of :attr:`peers`."""

    def __init__(self, names: Names, on_change: Callable[[], None] = lambda: None) -> None:
        self.peers: tuple[Peer, ...] = ()
        """All peers, this proxy among them (:attr:`Peer.is_self`), in the order of their URLs. It may be none of them:
        then it only asks; and more than one of them if it has several addresses."""
        self.ranking: Ranking[Peer] = Ranking(())
        """Of :attr:`peers`."""
        self.changed_at = -math.inf
        """When :attr:`peers` changed last, by the monotonic clock; at the start, too."""
        self._names = names
        self._on_change = on_change
        self._fixed: tuple[Peer, ...] = ()
        self._watches: dict[InDns | InFile, Watch] = {}
        self._found: dict[str, Peer] = {}
        """All that is listed, by URL, as :attr:`peers` was made of it."""
        self._own: Peer | None = None
        self._listening: tuple[tuple[str, int], ...] = ()
        self._are_ours: dict[tuple[str, int], bool] = {}
        """Names of peers with their ports, as far as they have been looked up: whether they lead to us."""
        self._finding: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._is_running = False
        self._is_warned = False

    def __repr__(self) -> str:
        shown = (f"{peer} (this proxy)" if peer.is_self else str(peer) for peer in self.peers)
        return f"<PeerList: {', '.join(shown)}>"

    # -- settings -----------------------------------------------------------------------------------------------------

    def configure(
        self, values: Sequence[str], own: Peer | None = None, listening: Iterable[tuple[str, int]] = ()
    ) -> None:
        """Take values of ``cache_peers``, at the start or while running; what was found at places that are in both the
        old and the new values stays. ``own`` is this proxy (``cache_peer_self``); if it isn't given, this proxy is
        recognised by ``listening``, the addresses and ports of its listeners. Raises ``ValueError``, as
        :func:`.listings.parse` does."""
        listings = parse(values)
        listening = tuple((as_address(host.partition("%")[0]) or "", port) for host, port in listening)
        if (own, listening) != (self._own, self._listening):
            self._own, self._listening = own, listening
            self._are_ours.clear()
            self._end(self._stop_finding())
            self._is_warned = False
        self._fixed = tuple(listing for listing in listings if isinstance(listing, Peer))
        places = [listing for listing in listings if not isinstance(listing, Peer)]
        for listing in [listing for listing in self._watches if listing not in places]:
            self._end(self._watches.pop(listing).cancel())
        for listing in places:
            if listing not in self._watches:
                discovery = DnsDiscovery(listing, self._names) if isinstance(listing, InDns) else FileDiscovery(listing)
                self._watches[listing] = watch = Watch(str(listing), discovery, self._update)
                if self._is_running:
                    watch.start()
        self._update(again=True)

    # -- start and stop -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Watch the places where peers are listed, from now on. (There is nothing to watch if all peers are fixed.)"""
        self._is_running = True
        for watch in self._watches.values():
            watch.start()
        self._update(again=True)

    async def first_look(self) -> None:
        """Wait until each place has been looked at once, in vain or not: a proxy that takes requests before that takes
        them as if it were alone. A silent name server keeps this waiting; limit the time."""
        await asyncio.gather(*(watch.looked.wait() for watch in self._watches.values()))

    async def stop(self) -> None:
        """The peers stay as they are."""
        self._is_running = False
        for watch in self._watches.values():
            self._end(watch.cancel())
        self._end(self._stop_finding())
        if self._ending:
            await asyncio.wait(self._ending)

    def _end(self, task: asyncio.Task[None] | None) -> None:
        """Don't lose sight of a task that was cancelled."""
        if task is not None:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    # -- changes ------------------------------------------------------------------------------------------------------

    def _update(self, again: bool = False) -> None:
        """Put the list together after each look, and after new settings. The only place that changes it. ``again``:
        also if the same peers are listed as before, since one of them may have become ours."""
        found = {peer.url: peer for peer in self._fixed}
        for watch in self._watches.values():
            found |= {peer.url: peer for peer in watch.peers}
        if again or found != self._found:
            self._found = found
            peers = tuple(replace(found[url], is_self=self._is_self(found[url])) for url in sorted(found))
            if peers != self.peers:
                before, self.peers = self.peers, peers
                self.ranking = Ranking(peers)
                self.changed_at = time.monotonic()
                _log_change(before, peers)
                self._on_change()
        if self._is_running and self._finding is None and not self._is_found and any(self._candidates()):
            self._finding = asyncio.get_running_loop().create_task(self._find_ourselves())
        self._warn()

    def _warn(self) -> None:
        """Say once that we are not in the list."""
        if self._is_found:
            self._is_warned = False
            return
        is_known = self._own is not None or (bool(self._listening) and not any(self._candidates(unknown=True)))
        is_complete = all(watch.good_looks >= LOOKS[type(listing)] for listing, watch in self._watches.items())
        if self.peers and is_known and is_complete and not self._is_warned:
            self._is_warned = True
            who = f"{self._own} (cache_peer_self)" if self._own is not None else "this proxy"
            logger.warning(
                "proxy-cache: %s is none of the %d peers of cache_peers: it asks them, and is nobody's home%s",
                who, len(self.peers), "" if self._own is not None else " (cache_peer_self says which one it is)",
            )  # fmt: skip

    # -- which one is this proxy? -------------------------------------------------------------------------------------

    @property
    def _is_found(self) -> bool:
        return any(peer.is_self for peer in self.peers)

    def _is_self(self, peer: Peer) -> bool:
        """As far as it is known without a look-up."""
        if self._own is not None:
            return peer.url == self._own.url
        if all(port != peer.port for _, port in self._listening):
            return False
        if peer.is_address:
            return is_here(peer.host, peer.port, self._listening)
        if peer.host == "localhost":
            return any(is_here(address, peer.port, self._listening) for address in ("127.0.0.1", "::1"))
        return peer.host == socket.gethostname().lower() or self._are_ours.get((peer.host, peer.port), False)

    def _candidates(self, *, unknown: bool = False) -> Iterator[Peer]:
        """Peers with a port of ours; ``unknown``: with a name that has to be looked up."""
        ports = {port for _, port in self._listening} if self._own is None else set()
        for peer in self.peers:
            if peer.port in ports and not (
                unknown and (peer.is_address or peer.host == "localhost" or (peer.host, peer.port) in self._are_ours)
            ):
                yield peer

    async def _find_ourselves(self) -> None:
        """Look again until one of the peers turns out to be this proxy."""
        while not self._is_found and any(self._candidates()):
            unknown = list(self._candidates(unknown=True))
            for start in range(0, len(unknown), ASKED_AT_ONCE):
                batch = unknown[start : start + ASKED_AT_ONCE]
                for peer, is_ours in zip(batch, await asyncio.gather(*map(self._leads_here, batch)), strict=True):
                    if is_ours is not None:
                        self._are_ours[peer.host, peer.port] = is_ours
                if any(self._are_ours.get((peer.host, peer.port)) for peer in batch):
                    break
            self._update(again=True)
            if not self._is_found:
                await asyncio.sleep(FIND_AGAIN)
        self._finding = None

    def _stop_finding(self) -> asyncio.Task[None] | None:
        finding, self._finding = self._finding, None
        if finding is not None:
            finding.cancel()
        return finding

    async def _leads_here(self, peer: Peer) -> bool | None:
        """Whether all addresses of its name are here; ``None`` if they can't be looked up. (A name that leads here and
        to other machines is that of a load balancer.)"""
        try:
            found = await self._names.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
        except OSError:
            return None
        addresses = {sockaddr[0].partition("%")[0] for *_, sockaddr in found}
        wildcard = [("", peer.port)]
        return all(is_here(address, peer.port, wildcard) for address in addresses) and any(
            is_here(address, peer.port, self._listening) for address in addresses
        )


def _log_change(before: tuple[Peer, ...], after: tuple[Peer, ...]) -> None:
    old, new = {peer.url for peer in before}, {peer.url for peer in after}
    own = next((peer.url for peer in after if peer.is_self), "none of them")
    changes = [
        f"{what} {', '.join(urls[:_SHOWN_MAX])}{f' and {len(urls) - _SHOWN_MAX} more' if urls[_SHOWN_MAX:] else ''}"
        for what, urls in (("new:", sorted(new - old)), ("gone:", sorted(old - new)))
        if urls
    ]
    logger.info("proxy-cache: %s", "; ".join([f"{len(after)} peers, this proxy is {own}", *changes]))
