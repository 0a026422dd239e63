"""The workers of one machine as a fleet: always the same ones, so there is nothing to discover.

Keys are ranked by the workers' numbers and not by their ports, which are others after each start: what a worker has on
its disk is what it is the home of.
"""

from __future__ import annotations

from ..upstream.names import Names
from ..upstream.peers.fleet import PeerFleet
from ..upstream.peers.peer import Peer
from ..upstream.peers.ranking import Ranking
from ..upstream.peers.settings import FleetSettings
from .door import ADDRESS
from .role import Role


class Siblings(PeerFleet):
    """The list is never new (:attr:`has_changed`): a key that isn't at its home is nowhere."""

    def __init__(self, role: Role, names: Names) -> None:
        super().__init__(names, tuple)
        self._list.peers = tuple(
            Peer("http", ADDRESS, port, index == role.index, f"worker-{index}") for index, port in enumerate(role.ports)
        )
        self._list.ranking = Ranking(self._list.peers)
        self._changed()

    def configure(self, settings: FleetSettings) -> None:
        """There is nothing to set."""

    def start(self) -> None:
        """There is nothing to watch."""
