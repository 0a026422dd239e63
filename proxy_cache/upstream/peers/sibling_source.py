"""Peers as siblings: each is asked only for what it has (``only-if-cached``, RFC 9111 §5.2.1.7).

For fleets of mixed proxies: a sibling may be one of another kind, so it is told nothing that only our own understand,
and nothing proves that it answers for the key that was asked for, but that it is in the list.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from ...semantics.headers import Headers
from ...wire.responses import OriginError
from ..response import OriginResponse
from ..source import SourceRequest, Wanted
from ..stopwatch import PEER
from .body_watch import BodyWatch
from .changed import ChangedKeys
from .client import PeerClient, TooLarge
from .fleet import PeerFleet
from .health import Attempt
from .peer_source import PeerEvents
from .settings import Keeping

SIBLINGS: Final = 2
"""Peers that are asked for one fill, at most."""
HAS_IT: Final = (200, 206, 304)


class SiblingSource:
    """Asks the first in rank for a key, so that all ask the same ones."""

    def __init__(self, fleet: PeerFleet, client: PeerClient, keeping: Keeping, events: PeerEvents) -> None:
        self._fleet = fleet
        self._client = client
        self._bodies = BodyWatch(fleet, client, are_ours=False)
        self._keeping = keeping
        self._events = events
        self._changed = ChangedKeys()

    def may_have(self, wanted: Wanted) -> bool:
        return not wanted.is_personal and self._fleet.has_others and wanted.key not in self._changed

    def invalidated(self, key: str) -> None:
        """See :class:`~..source.Source`."""
        self._changed.add(key)

    async def get(self, request: SourceRequest) -> OriginResponse | None:
        others = (peer for peer in self._fleet.ranked(request.wanted.key) if not peer.is_self)
        for peer in islice(others, SIBLINGS):
            attempt = self._fleet.attempt(peer)
            if attempt is None:
                self._events.peer_asked("skipped", 0.0)
                continue
            with attempt:
                response = await self._ask(attempt, request)
            if response is not None:
                return response
        return None

    async def _ask(self, attempt: Attempt, request: SourceRequest) -> OriginResponse | None:
        with request.watch.begin(PEER, attempt.peer.url) as lap:
            headers = request.watch.carried(request.headers, lap)
            response, lap.outcome = await self._asked(attempt, request, headers)
        if lap.outcome != "skipped":
            self._events.peer_asked(lap.outcome, lap.seconds)
        return response

    async def _asked(
        self, attempt: Attempt, request: SourceRequest, headers: Headers
    ) -> tuple[OriginResponse | None, str]:
        """The response, if it has it, and the outcome."""
        peer = attempt.peer
        headers = headers.add("Cache-Control", "only-if-cached")
        try:
            response = await self._client.get((peer.scheme, peer.authority), request.target, headers, None)
        except TooLarge:
            return None, "skipped"
        except OriginError as error:
            attempt.failed(f"{error.error}: {error.detail}")
            return None, "timeout" if error.error.endswith("timeout") else "error"
        attempt.worked()
        if response.status not in HAS_IT:
            response.close()
            return None, "miss"
        response.source = "peer"
        self._bodies.watch(response, peer, request.target)
        response.may_be_kept = self._keeping.keeps(request.wanted.key)
        return response, "hit"
