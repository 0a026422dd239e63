"""The fleet as this node sees it: the peers of the list, their ranks for a key, and who of them is left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from .settings import FleetSettings


@dataclass(frozen=True, slots=True)
class Node:
    scheme: str
    authority: str
    is_self: bool


class PeerFleet:
    """STAND-IN until the list is merged."""

    def __init__(self, settings: FleetSettings, listening_on: Callable[[], Sequence[int]]) -> None:
        self.nodes = []
        for url in settings.peers:
            scheme, _, authority = url.partition("://")
            self.nodes.append(Node(scheme, authority, int(authority.rpartition(":")[2]) in listening_on()))
        self.has_others = any(not node.is_self for node in self.nodes)
        self.changed_at = float("-inf")

    def ranked(self, key: str) -> list[Node]:
        return sorted(self.nodes, key=lambda node: xxh3_64_intdigest(f"{node.authority} {key}".encode()), reverse=True)

    def may_ask(self, peer: object) -> bool:
        return True

    def has_answered(self, peer: object) -> None: ...

    def has_failed(self, peer: object, why: str) -> None:
        import logging

        logging.getLogger(__name__).warning("peer %s: %s", peer, why)
