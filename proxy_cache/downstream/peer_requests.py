"""Requests that peers send on behalf of their clients: recognised here, and answered so that the peer knows by whom.

While the answer to one takes waiting (in the queue, or for the origin), a 102 is sent now and then (RFC 2518 §10.1): a
peer that hears nothing for ``cache_peer_timeout`` takes us for dead, and goes on without us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ..caching.answers import Answer, Exchange, MemoryReader
from ..semantics.headers import Headers
from ..semantics.peer_fields import DIGEST_MAX, WITH_DIGEST, answer_to, is_proof, repr_digest, taken_off

STILL_HERE_EVERY: Final = 0.4
"""Seconds from one 102 to the next. ``cache_peer_timeout`` is a second at least."""
_NO_FIELDS: Final = Headers()


class PeerRequests:
    """Recognises the requests of peers."""

    def __init__(self) -> None:
        self.is_on = False
        self.token = ""
        """The fleet's secret; empty: peers are known by their addresses."""
        self.is_peer: Callable[[str], bool] = lambda address: False
        self._waiting: set[_PeerWaits] = set()
        self._ticker: asyncio.TimerHandle | None = None

    def recognise(self, exchange: Exchange, proof: str, address: str) -> None:
        """``proof``: of the request's Cache-Peer; ``address``: its sender's."""
        if not self.is_on or not (self.token or self.is_peer(address)):
            return
        headers, element, client = taken_off(exchange.headers)
        if not is_proof(proof, exchange.target.url, element, self.token):
            return
        exchange.headers, exchange.client = headers, client or address
        exchange.peer = waits = _PeerWaits(exchange, proof, self.token, self._waiting.discard)
        self._waiting.add(waits)
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(STILL_HERE_EVERY, self._tick)

    def _tick(self) -> None:
        """One timer for all: most are answered long before."""
        self._ticker = None
        for waits in list(self._waiting):
            waits.tell()
        if self._waiting:
            self._ticker = asyncio.get_running_loop().call_later(STILL_HERE_EVERY, self._tick)


class _PeerWaits:
    """Tells a peer that it is being answered, and that it has been."""

    __slots__ = ("_answer_to", "_exchange", "_is_over")

    def __init__(self, exchange: Exchange, proof: str, token: str, is_over: Callable[[_PeerWaits], None]) -> None:
        self._exchange = exchange
        self._answer_to = answer_to(proof, exchange.key, token)
        self._is_over = is_over

    def answered(self, answer: Answer) -> None:
        self._is_over(self)
        value, headers = self._answer_to, answer.headers
        if (
            isinstance(answer.body, MemoryReader)
            and answer.status == 200
            and answer.length == len(answer.body.content) <= DIGEST_MAX
            and "repr-digest" not in headers
        ):
            headers = headers.add("Repr-Digest", repr_digest(answer.body.content))
            value += WITH_DIGEST
        answer.headers = headers.add("Cache-Peer", value)

    def tell(self) -> None:
        """It is still waited for, unless the peer has left."""
        exchange = self._exchange
        if exchange.is_over:
            self._is_over(self)
        elif exchange.on_interim is not None:
            exchange.on_interim(102, _NO_FIELDS)
