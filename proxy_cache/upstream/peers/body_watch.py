"""Bodies that peers send. One that stops coming may be the origin's doing, or the peer's, which was frozen meanwhile.

An origin may be silent for ``origin_timeout``, and the peer with it. A peer that says nothing to anybody is given up
much sooner: after ``cache_peer_timeout`` without a byte it is asked something that it can answer at once. A body that
breaks off may be the origin's doing, too: whoever may ask for a URL could have all peers left alone by an origin of
their own. So the peer is asked then as well, and left alone if it doesn't answer, or if it happens again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial

from ...semantics.headers import Headers
from ...semantics.keys import Target
from ...wire.responses import OriginError
from ..response import OriginResponse
from .client import PeerClient, TooLarge
from .fleet import PeerFleet
from .peer import Peer

_ASK_LITTLE = Headers().add("Cache-Control", "only-if-cached").add("Range", "bytes=0-0")


class BodyWatch:
    """Looks at the bodies of peers that have not come with their heads."""

    def __init__(self, fleet: PeerFleet, client: PeerClient, *, are_ours: bool = True) -> None:
        """``are_ours``: whether the peers are all of our own kind."""
        self._fleet = fleet
        self._client = client
        self._are_ours = are_ours
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, response: OriginResponse, peer: Peer, target: Target) -> None:
        if response.is_over:
            self._fleet.body_ended(peer, None)
        else:
            response.on_end = partial(self._ended, peer, target)
            self._run(self._watch(response, peer, target))

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ended(self, peer: Peer, target: Target, error: OriginError | None) -> None:
        if self._fleet.body_ended(peer, error) and error is not None:
            self._run(self._look_after(peer, target, error))

    async def _look_after(self, peer: Peer, target: Target, error: OriginError) -> None:
        if not await self._is_there(peer, target):
            self._fleet.stopped(peer, error)

    async def _watch(self, response: OriginResponse, peer: Peer, target: Target) -> None:
        patience = self._client.settings.timeout
        while not response.is_over:
            await asyncio.sleep(patience)
            if response.silent_for >= patience and not await self._is_there(peer, target):
                error = OriginError("connection_read_timeout", "it stopped in the middle of a body, and says nothing")
                response.on_end = None
                response.give_up(error.detail)
                self._fleet.stopped(peer, error)

    async def _is_there(self, peer: Peer, target: Target) -> bool:
        """Whether it answers anything at all."""
        headers = self._client.asking(_ASK_LITTLE, target, "", "")[0] if self._are_ours else _ASK_LITTLE
        try:
            answer = await self._client.get((peer.scheme, peer.authority), target, headers, None)
        except TooLarge:
            return True
        except OriginError:
            return False
        answer.close()
        return True
