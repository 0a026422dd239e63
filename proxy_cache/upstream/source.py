"""Where the response to a fill comes from: sources, asked in order until one has it.

Peers come first, then the shared store, and the origin is the last in any case: it takes a slot of the limiter, when
its turn has come and not before, so that a source that is asked earlier costs no slot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.policy import Policy
from .connection import Outcome
from .origin import OriginClient
from .response import OriginResponse
from .stopwatch import Stopwatch


class Slot(Protocol):
    """A fill's claim to ask an origin."""

    async def granted(self) -> None:
        """Wait for it. Ends with ``CancelledError``, or an error of the limiter's, if there will be none."""

    def answered(self) -> None:
        """The head of the response is here."""

    def asks_peer(self, is_asking: bool) -> None:
        """It waits for a peer, from now on, or no longer."""

    def released(self) -> None:
        """The origin has said that a response is good, which another source has: it has no part in what is left."""


class Wanted(Protocol):
    """What a fill is for, as far as sources choose by it."""

    @property
    def key(self) -> str:
        """The cache key, which is the same on all nodes of a fleet."""

    @property
    def client(self) -> str:
        """The address of the client that asked first."""

    @property
    def from_peer(self) -> bool:
        """Whether a peer has asked, on behalf of a client of its own."""

    @property
    def is_personal(self) -> bool:
        """Whether the response may be for one user alone, by the request's fields: it is nothing for peers, nor for
        a shared store."""

    @property
    def policy(self) -> Policy:
        """The operator's rules for it."""


@dataclass(slots=True)
class SourceRequest:
    """What a fill asks for."""

    wanted: Wanted
    target: Target
    headers: Headers
    """Those of the request as it is sent, with conditions and ``Range``."""
    slot: Slot
    retries: int | None = None
    """At most so many further tries; ``None``: as the settings say."""
    on_interim: Callable[[int, Headers], None] | None = None
    """Told of 1xx responses."""
    first_try: Outcome | None = None
    """What came of a first try by :attr:`Sources.ask_now`."""
    watch: Stopwatch = field(default_factory=Stopwatch)
    """Where sources note what they spend time on."""


class Source(Protocol):
    """One place that may have the response."""

    def may_have(self, wanted: Wanted) -> bool:
        """Whether it is worth asking."""

    async def get(self, request: SourceRequest) -> OriginResponse | None:
        """The response; ``None`` if it isn't here, or can't be had, and the next source is to be asked."""

    def invalidated(self, key: str) -> None:
        """What it has under ``key`` from before now is not to be used (RFC 9111 §4.4)."""


class OriginSource:
    """The last source: whatever it says is the response. Raises :class:`OriginError` if it says nothing."""

    def __init__(self, client: OriginClient) -> None:
        self.client = client

    async def get(self, request: SourceRequest) -> OriginResponse:
        await request.slot.granted()
        response = await self.client.get(
            request.target, request.headers, retries=request.retries, on_interim=request.on_interim,
            answer=request.first_try, watch=request.watch,
        )  # fmt: skip
        request.slot.answered()
        return response


class Sources:
    """The chain that a fill walks."""

    def __init__(self, origin: OriginSource, before: tuple[Source, ...] = ()) -> None:
        self.origin = origin
        self.before = before
        """Those that are asked before it."""
        self.ask_now = origin.client.ask_now
        """To be used in place of :meth:`get` if there are no others, with a slot that is granted already."""

    def begins_at_origin(self, wanted: Wanted) -> bool:
        """Whether no other source comes into question."""
        return not self.before or not any(source.may_have(wanted) for source in self.before)

    def invalidated(self, key: str) -> None:
        """An unsafe request has changed it, or may have."""
        for source in self.before:
            source.invalidated(key)

    async def get(self, request: SourceRequest) -> OriginResponse:
        """The first response that a source has. Raises what :class:`OriginSource` does."""
        for source in self.before:
            if request.first_try is None and source.may_have(request.wanted):
                response = await source.get(request)
                if response is not None:
                    return response
        return await self.origin.get(request)
