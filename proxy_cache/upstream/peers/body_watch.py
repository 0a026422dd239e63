"""Bodies that peers send. One that stops coming may be the origin's doing, or the peer's, which was frozen meanwhile.

An origin may be silent for ``origin_timeout``, and the peer with it. A peer that says nothing to anybody is given up
much sooner: after ``cache_peer_timeout`` without a byte it is asked something that it can answer at once.
"""

from __future__ import annotations

import asyncio

from ...semantics.headers import Headers
from ...semantics.keys import Target
from ...wire.responses import OriginError
from ..response import OriginResponse
from .client import PeerClient
from .peer import Peer

_ASK_LITTLE = Headers().add("Cache-Control", "only-if-cached").add("Range", "bytes=0-0")


class BodyWatch:
    """Looks at the bodies of peers that have not come with their heads."""

    def __init__(self, client: PeerClient) -> None:
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, response: OriginResponse, peer: Peer, target: Target) -> None:
        if not response.is_over:
            task = asyncio.get_running_loop().create_task(self._watch(response, peer, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _watch(self, response: OriginResponse, peer: Peer, target: Target) -> None:
        patience = self._client.settings.timeout
        while not response.is_over:
            await asyncio.sleep(patience)
            if response.silent_for >= patience and not await self._is_there(peer, target):
                response.give_up("the peer has stopped in the middle of it, and says nothing")

    async def _is_there(self, peer: Peer, target: Target) -> bool:
        """Whether it answers anything at all."""
        try:
            answer = await self._client.get((peer.scheme, peer.authority), target, _ASK_LITTLE, "", None)
        except OriginError:
            return False
        answer.close()
        return True

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
