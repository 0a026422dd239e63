"""The proxy as a lane sees it. (mitmproxy's side of it is :mod:`mitm.lane_host`.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..caching.cache import Cache
from ..runtime.batches import CallBatch
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.limits import HeadLimits
from ..semantics.policy import Policy
from ..wire.requests import Parser, Request
from .account import Accounts
from .admission import Admission
from .peer_requests import PeerRequests
from .users import Users


class Host(Protocol):
    """Answers for one client's connection."""

    via: str
    admission: Admission
    accounts: Accounts
    peers: PeerRequests
    address: str
    """The client's."""
    client: str
    """Its name for fairness and the log: the address, or the user that has sent the last request."""
    absolute: bool
    """Whether request targets are in absolute form: the proxy is one to its clients."""
    users: Users
    head_limits: HeadLimits
    parse: Parser
    """The one that gives requests ids, too, where they have some."""
    sends: CallBatch
    ends: CallBatch
    known: dict[bytes, tuple[Request, Target, str]]
    """Requests that were plain hits, by their bytes, with their targets and keys: most are sent again. Shared by all
    lanes with the same kind of target (absolute, or of the same reverse host); cleared when options or rules change."""

    @property
    def asks_clients(self) -> bool:
        """Whether a rule of the operator's may tell clients apart that send the same bytes."""

    @property
    def half_closed_clients(self) -> bool:
        """Whether a client that sends no more is to have its answers."""

    def lane_lost(self) -> None:
        """The client's connection is gone."""

    def lane_hit(self, request: Request, target: Target, status: int, size: int, started: float) -> None:
        """A hit has been handed to the client's connection. ``started``: by the monotonic clock."""

    def lane_cache(self) -> Cache | None:
        """The cache, while nobody else has to see requests."""

    def lane_target(self, text: str) -> Target | None:
        """The target of a request; ``None`` if mitmproxy has to answer it."""

    def lane_policy(self, request: Request, target: Target) -> Policy:
        """The operator's rules for it."""

    def lane_connect(self, lane: Any, data: bytes) -> bool | None:
        """Whether ``data`` begins with a CONNECT for which the host takes the connection over (which it then has done).
        ``None``: more has to come before that is known."""

    def lane_users_changed(self, *, is_idle: bool) -> bool:
        """Clients are asked who they are otherwise than before, or no longer. Whether the connection may stay."""

    def lane_is_detached(self) -> None:
        """mitmproxy has the connection."""

    def lane_is_back(self) -> None:
        """The lane has it again."""

    def lane_child_is_idle(self, handed: int) -> bool:
        """Whether mitmproxy has read the ``handed`` bytes that it was given, and done with them."""

    def lane_interim(self, http11: bool) -> Callable[[int, Headers], None] | None: ...

    def failed(self, error: Exception) -> None: ...
