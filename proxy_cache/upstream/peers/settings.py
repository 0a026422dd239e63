"""What an operator may choose about peers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .client import PeerSettings


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Who the peers are, and what is asked of them."""

    peers: tuple[str, ...] = ()
    own: str = ""
    mode: Literal["home", "sibling"] = "home"
    keep: Literal["always", "hot", "never"] = "always"
    client: PeerSettings = field(default_factory=PeerSettings)
