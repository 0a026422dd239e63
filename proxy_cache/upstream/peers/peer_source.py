"""The home of a key as a source: all nodes of a fleet ask one of them for a key, which asks the origin once for all.

The home looks it up, joins its own fill, or fills with a slot and a queue of its own. What it says is the fleet's
answer, also that there is no room in the queue. Where it can't be reached, or says nothing, the next in rank is the
home meanwhile; and where that is us, the origin is asked as if there were no peers.

A request that a peer has sent is passed on to no other: whatever lists the two of them go by, there are two hops at
the most. (Nor does it wait for a fill that asks a peer, see :meth:`caching.fills.table.FillTable.find`: two homes that
disagree would wait for each other.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from ...semantics.headers import Headers
from ...semantics.peer_fields import WITH_DIGEST, answer_to, repr_digest
from ...wire.responses import OriginError
from ..response import OriginResponse
from ..source import SourceRequest, Wanted
from .client import PeerClient
from .settings import Keeping

TRIES: Final = 2
"""Peers that are asked for one fill, at most."""
CHANGED_FOR: Final = 3600.0
"""Seconds after a change of the list in which the home asks the second in rank, which may have been the home before."""
NOT_OUR_ANSWERS: Final = ("error=proxy_internal_error", "error=proxy_loop_detected")
"""In Proxy-Status: the home itself is in trouble, and another may not be."""

logger = logging.getLogger(__name__)


class Peer(Protocol):
    """A node of the fleet."""

    @property
    def scheme(self) -> str: ...

    @property
    def authority(self) -> str: ...

    @property
    def is_self(self) -> bool: ...


class Fleet(Protocol):
    """Who there is, and how they are."""

    @property
    def has_others(self) -> bool: ...

    @property
    def changed_at(self) -> float:
        """By the monotonic clock."""

    def ranked(self, key: str) -> Sequence[Peer]:
        """The nodes in the order in which they are the home of a key; the first few will do."""

    def may_ask(self, peer: Peer) -> bool:
        """Whether it isn't left alone for now. (If it is time to try it again, for one caller only.)"""

    def has_answered(self, peer: Peer) -> None: ...

    def has_failed(self, peer: Peer, why: str) -> None: ...


class PeerEvents(Protocol):
    """Events for the metrics."""

    def peer_asked(self, outcome: str, seconds: float) -> None:
        """``outcome``: ``hit``, ``joined``, ``miss``, ``timeout``, ``error`` or ``skipped``."""


class PeerSource:
    """Asks the home of a key."""

    def __init__(self, fleet: Fleet, client: PeerClient, keeping: Keeping, events: PeerEvents) -> None:
        self._fleet = fleet
        self._keeping = keeping
        self._client = client
        self._events = events

    def may_have(self, wanted: Wanted) -> bool:
        fleet = self._fleet
        if wanted.is_personal or not fleet.has_others:
            return False
        home = fleet.ranked(wanted.key)[0]
        if home.is_self:
            return self._has_changed
        return not wanted.from_peer

    @property
    def _has_changed(self) -> bool:
        return time.monotonic() - self._fleet.changed_at < CHANGED_FOR

    async def get(self, request: SourceRequest) -> OriginResponse | None:
        wanted, fleet = request.wanted, self._fleet
        tries = 0
        for peer in fleet.ranked(wanted.key):
            if peer.is_self:
                break
            if wanted.from_peer or tries == TRIES:
                return None
            if not fleet.may_ask(peer):
                self._events.peer_asked("skipped", 0.0)
                continue
            tries += 1
            response = await self._ask(peer, request, request.headers, request.on_interim)
            if response is not None:
                return response
        else:
            return None
        return await self._ask_second(request) if not tries and self._has_changed else None

    async def _ask_second(self, request: SourceRequest) -> OriginResponse | None:
        """We are the home. Has the one that may have been it before the list changed?"""
        for peer in self._fleet.ranked(request.wanted.key)[:2]:
            if not peer.is_self and self._fleet.may_ask(peer):
                headers = request.headers.without("cache-control").add("Cache-Control", "only-if-cached")
                response = await self._ask(peer, request, headers, None)
                if response is not None and response.status == 504:
                    response.close()
                    return None
                return response
        return None

    async def _ask(
        self, peer: Peer, request: SourceRequest, headers: Headers, on_interim: Callable[[int, Headers], None] | None
    ) -> OriginResponse | None:
        fleet, wanted = self._fleet, request.wanted
        started = time.monotonic()
        request.slot.asks_peer(True)
        try:
            response = await self._client.get(
                (peer.scheme, peer.authority), request.target, headers, wanted.client,
                partial(_but_102, on_interim) if on_interim is not None else None,
            )  # fmt: skip
        except OriginError as error:
            fleet.has_failed(peer, f"{error.error}: {error.detail}")
            outcome = "timeout" if error.error.endswith("timeout") else "error"
            self._events.peer_asked(outcome, time.monotonic() - started)
            return None
        finally:
            request.slot.asks_peer(False)
        seconds = time.monotonic() - started
        proof = (response.peer or "").removesuffix(WITH_DIGEST)
        problem = ""
        if proof != answer_to(wanted.key, self._client.settings.token):
            problem = "what answers there is no peer of ours, or answers another key"
        elif proof != response.peer:
            problem = await self._checked(response)
        if problem:
            response.close()
            fleet.has_failed(peer, problem)
            self._events.peer_asked("error", seconds)
            return None
        fleet.has_answered(peer)
        status = response.headers.get("proxy-status") or "" if response.status >= 500 else ""
        if any(error in status for error in NOT_OUR_ANSWERS):
            response.close()
            self._events.peer_asked("error", seconds)
            return None
        response.source = "peer"
        response.may_be_kept = self._keeping.keeps(wanted.key)
        self._events.peer_asked(_outcome(response), seconds)
        return response

    async def _checked(self, response: OriginResponse) -> str:
        """Wait for the body, which is small, and compare it with its digest. What is wrong with it; empty: nothing."""
        try:
            async with asyncio.timeout(self._client.settings.timeout):
                body = await response.whole()
        except OriginError as error:
            return f"{error.error}: {error.detail}"
        except TimeoutError:
            return "the rest of a small body doesn't come"
        digest = response.headers.get("repr-digest")
        response.headers = response.headers.without("repr-digest")
        return "" if repr_digest(body) == digest else "a body that is not what its digest says"


def _but_102(on_interim: Callable[[int, Headers], None], status: int, headers: Headers) -> None:
    if status != 102:  # which says just that the peer is there
        on_interim(status, headers)


def _outcome(response: OriginResponse) -> str:
    """By the peer's member of Cache-Status."""
    last = (response.headers.get("cache-status") or "").rpartition(",")[2]
    return "hit" if "; hit" in last else "joined" if "; collapsed" in last else "miss"
