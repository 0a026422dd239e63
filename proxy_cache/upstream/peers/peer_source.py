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
import contextlib
import hmac
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final, Protocol

from ...semantics.headers import Headers
from ...semantics.peer_fields import WITH_DIGEST, repr_digest
from ...wire.responses import OriginError
from ..response import OriginResponse
from ..source import SourceRequest, Wanted
from ..stopwatch import PEER
from .body_watch import BodyWatch
from .changed import ChangedKeys
from .client import PeerClient, TooLarge
from .fleet import PeerFleet
from .health import Attempt
from .peer import Peer
from .settings import Keeping

TRIES: Final = 2
"""Homes that are asked for one fill, at most, and peers that may fail, each of which takes ``cache_peer_timeout``."""
LOOKS: Final = 3
"""Peers that are asked whether they have it, after a change of the list: of three new nodes, say, none can."""
NOT_OUR_ANSWERS: Final = ("error=proxy_internal_error", "error=proxy_loop_detected")
"""In Proxy-Status: the home itself is in trouble, and another may not be."""
NOT_OUR_RULES: Final = ("error=destination_ip_prohibited", "error=http_request_denied")
"""Of a 403: the home may not go there. Whether we may is for our own rules to say, which this client has passed."""


class PeerEvents(Protocol):
    """Events for the metrics."""

    def peer_asked(self, outcome: str, seconds: float) -> None:
        """``outcome``: ``hit``, ``joined``, ``miss``, ``timeout``, ``error`` or ``skipped``."""


class PeerSource:
    """Asks the home of a key."""

    def __init__(self, fleet: PeerFleet, client: PeerClient, keeping: Keeping, events: PeerEvents) -> None:
        self._fleet = fleet
        self._client = client
        self._bodies = BodyWatch(fleet, client)
        self._keeping = keeping
        self._events = events
        self._changed = ChangedKeys()

    def invalidated(self, key: str) -> None:
        """See :class:`~..source.Source`."""
        self._changed.add(key)

    def may_have(self, wanted: Wanted) -> bool:
        fleet = self._fleet
        if wanted.is_personal or not fleet.has_others:
            return False
        return fleet.has_changed or not fleet.is_home(wanted.key)

    async def get(self, request: SourceRequest) -> OriginResponse | None:
        wanted, fleet = request.wanted, self._fleet
        asked: set[Peer] = set()
        failed = 0
        for peer in fleet.ranked(wanted.key):
            if peer.is_self or wanted.from_peer or len(asked) == TRIES:
                break
            with self._attempt(peer) as attempt:
                if attempt is not None:
                    asked.add(peer)
                    response = await self._ask_home(attempt, request)
                    if response is not None:
                        return response
                    failed += attempt.has_failed
        if wanted.key in self._changed:
            return None
        # We are the home, or stand in for it. Before the list changed, or while the home was away, it was another.
        if fleet.has_changed or not fleet.is_home(wanted.key):
            others = (peer for peer in fleet.ranked(wanted.key) if not peer.is_self and peer not in asked)
            for peer in islice(others, LOOKS):
                if failed >= TRIES:
                    break
                with self._attempt(peer) as attempt:
                    if attempt is not None and (response := await self._look(attempt, request)) is not None:
                        return response
                    failed += attempt is not None and attempt.has_failed
        return None

    async def _ask_home(self, attempt: Attempt, request: SourceRequest) -> OriginResponse | None:
        headers, key = request.headers, request.wanted.key
        if key in self._changed:
            headers = headers.add("Cache-Control", "no-cache")  # the home has to ask the origin, and is up to date then
        request.slot.asks_peer(True)
        try:
            response = await self._ask(attempt, request, headers, request.on_interim)
        finally:
            request.slot.asks_peer(False)
        if response is not None and response.status < 500 and headers is not request.headers:
            self._changed.forget(key)
        return response

    async def _look(self, attempt: Attempt, request: SourceRequest) -> OriginResponse | None:
        """What it has stored. It waits for nothing, so that a peer may join this fill meanwhile."""
        # It may be the one that asks us: without Via that is no loop, since this goes no further.
        headers = request.headers.without("via").add("Cache-Control", "only-if-cached")
        response = await self._ask(attempt, request, headers, None)
        if response is not None and response.status == 504:
            response.close()
            return None
        return response

    def _attempt(self, peer: Peer) -> contextlib.AbstractContextManager[Attempt | None]:
        attempt = self._fleet.attempt(peer)
        if attempt is None:
            self._events.peer_asked("skipped", 0.0)
            return contextlib.nullcontext()
        return attempt

    async def _ask(
        self,
        attempt: Attempt,
        request: SourceRequest,
        headers: Headers,
        on_interim: Callable[[int, Headers], None] | None,
    ) -> OriginResponse | None:
        with request.watch.begin(PEER, attempt.peer.url) as lap:
            headers = request.watch.carried(headers, lap)
            response, lap.outcome = await self._asked(attempt, request, headers, on_interim)
        self._events.peer_asked(lap.outcome, lap.seconds)
        return response

    async def _asked(
        self,
        attempt: Attempt,
        request: SourceRequest,
        headers: Headers,
        on_interim: Callable[[int, Headers], None] | None,
    ) -> tuple[OriginResponse | None, str]:
        """The response, if it is taken, and the outcome."""
        peer, wanted = attempt.peer, request.wanted
        longest = self._client.settings.longest + (wanted.policy.patience or 0)
        headers, expected = self._client.asking(headers, request.target, wanted.client, wanted.key)
        try:
            async with asyncio.timeout(longest):
                response = await self._client.get(
                    (peer.scheme, peer.authority), request.target, headers,
                    partial(_but_102, on_interim) if on_interim is not None else None,
                )  # fmt: skip
        except TooLarge:
            return None, "skipped"
        except (OriginError, TimeoutError) as error:
            why = f"{error.error}: {error.detail}" if isinstance(error, OriginError) else f"no head in {longest:g} s"
            attempt.failed(why)
            outcome = "error" if isinstance(error, OriginError) and not error.error.endswith("timeout") else "timeout"
            return None, outcome
        try:
            problem = await self._problem_with(response, expected)
        except BaseException:
            response.close()
            raise
        if problem:
            response.close()
            attempt.failed(problem)
            return None, "error"
        attempt.worked()
        if _is_about_the_peer(response):
            response.close()
            return None, "error"
        response.source = "peer"
        self._bodies.watch(response, peer, request.target)
        self.decide_on_keeping(response, wanted.key)
        return response, _outcome(response)

    def decide_on_keeping(self, response: OriginResponse, key: str) -> None:
        """Whether what a peer has sent is stored here, too."""
        response.may_be_kept = self._keeping.keeps(key)

    async def _problem_with(self, response: OriginResponse, expected: str) -> str:
        """Why a response is not taken; empty if it is. ``expected``: what proves that it is a peer's, and for this."""
        answer = (response.peer or "").removesuffix(WITH_DIGEST)
        if not hmac.compare_digest(answer.encode("utf-8", "replace"), expected.encode()):
            return "what answers there is no peer of ours, or answers another key"
        if answer == response.peer:
            return ""
        # The body is small: it is compared with its digest before anybody gets any of it.
        try:
            if not response.is_whole:
                async with asyncio.timeout(self._client.settings.timeout):
                    await response.arrival()
        except OriginError as error:
            return f"{error.error}: {error.detail}"
        except TimeoutError:
            return "the rest of a small body doesn't come"
        digest = response.headers.get("repr-digest")
        response.headers = response.headers.without("repr-digest")
        return "" if repr_digest(response.held()) == digest else "a body that is not what its digest says"


def _is_about_the_peer(response: OriginResponse) -> bool:
    """Whether a response is none for the key, but says something of the peer that has been asked."""
    if response.status < 500 and response.status != 403:
        return False
    errors = NOT_OUR_RULES if response.status == 403 else NOT_OUR_ANSWERS
    status = response.headers.get("proxy-status") or ""
    return any(error in status for error in errors)


def _but_102(on_interim: Callable[[int, Headers], None], status: int, headers: Headers) -> None:
    if status != 102:  # which says just that the peer is there
        on_interim(status, headers)


def _outcome(response: OriginResponse) -> str:
    """By the peer's member of Cache-Status."""
    last = (response.headers.get("cache-status") or "").rpartition(",")[2]
    return "hit" if "; hit" in last else "joined" if "; collapsed" in last else "miss"
