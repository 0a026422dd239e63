"""The workers of one machine as a fleet: always the same ones, so there is nothing to discover.

Keys are ranked by the workers' numbers and not by their ports, which are others after each start: what a worker has on
its disk is what it is the home of.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..semantics.ranges import strong_validator
from ..upstream.names import Names
from ..upstream.peers.fleet import PeerFleet
from ..upstream.peers.health import Attempt
from ..upstream.peers.peer import Peer
from ..upstream.peers.peer_source import PeerSource
from ..upstream.peers.ranking import Ranking
from ..upstream.peers.settings import FleetSettings
from ..upstream.response import OriginResponse
from .door import ADDRESS
from .role import Role


def name_of(index: int) -> str:
    return f"worker-{index}"


class Siblings(PeerFleet):
    """The list is never new (:attr:`has_changed`): a key that isn't at its home is nowhere."""

    def __init__(self, role: Role, names: Names) -> None:
        super().__init__(names, tuple)
        self._there: set[str] = set()
        """Names of the others that answer, as the parent says."""
        self._list.peers = tuple(
            Peer("http", ADDRESS, port, index == role.index, name_of(index)) for index, port in enumerate(role.ports)
        )
        self._list.ranking = Ranking(self._list.peers)
        self._changed()

    def configure(self, settings: FleetSettings) -> None:
        """There is nothing to set."""

    def start(self) -> None:
        """There is nothing to watch."""

    def are_there(self, indices: Iterable[int]) -> None:
        """These workers answer; all others are just being started. What was known of one that is back was of its former
        life."""
        before, self._there = self._there, {name_of(index) for index in indices}
        self._health.keep(peer for peer in self._list.peers if peer.name in before)

    def attempt(self, peer: Peer) -> Attempt | None:
        return super().attempt(peer) if peer.name in self._there else None


class SiblingSource(PeerSource):
    """A worker that dies is to cost the clients of the others nothing. So a body that comes from it has to be there
    until its end: without a validator the origin's whole answer is compared with it (:mod:`..caching.fills.repeat`)."""

    def decide_on_keeping(self, response: OriginResponse, key: str) -> None:
        super().decide_on_keeping(response, key)
        if not (response.may_be_kept or response.is_whole) and response.status == 200:
            response.may_be_kept = response.is_kept_until_its_end = strong_validator(response.headers) is None
