"""Requests that peers send on behalf of their clients: recognised here, and answered so that the peer knows by whom.

While the answer to one takes waiting (in the queue, or for the origin), a 102 is sent now and then (RFC 2518 §10.1): a
peer that hears nothing for ``cache_peer_timeout`` takes us for dead, and goes on without us.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from ..caching.answers import Answer, Exchange, MemoryReader
from ..caching.cache import Cache
from ..caching.prepared import Hit
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.peer_fields import DIGEST_MAX, WITH_DIGEST, answer_to, proven, repr_digest, taken_off
from ..wire.requests import Request, with_line

STILL_HERE_EVERY: Final = 0.4
"""Seconds from one 102 to the next. ``cache_peer_timeout`` is a second at least."""
_NO_FIELDS: Final = Headers()


class PeerRequests:
    """Recognises the requests of peers."""

    def __init__(self) -> None:
        self.is_on = False
        self.tokens: tuple[str, ...] = ()
        """The fleet's secrets: more than one while they are changed. Empty: peers are known by their addresses."""
        self.is_peer: Callable[[str], bool] = lambda address: False
        self._waiting: set[_PeerWaits] = set()
        self._ticker: asyncio.TimerHandle | None = None

    def recognise(self, exchange: Exchange, proof: str, address: str) -> None:
        """``proof``: of the request's Cache-Peer; ``address``: its sender's."""
        if not self.is_on:
            return
        headers, element, client = taken_off(exchange.headers)
        token = self._proven(proof, exchange.target, element, address)
        if token is None:
            return
        exchange.headers, exchange.client = headers, client or address
        exchange.peer = waits = _PeerWaits(exchange, proof, token, self._waiting.discard)
        self._waiting.add(waits)
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(STILL_HERE_EVERY, self._tick)

    def _proven(self, proof: str, target: Target, element: str, address: str) -> str | None:
        """The secret that it was proven by, which is empty in a fleet that has none; ``None``: it is no peer.
        ``element``: the last one of Forwarded."""
        if not (self.tokens or self.is_peer(address)):
            return None
        return proven(proof, target.url, element, self.tokens)

    def proves(self, proof: str, element: str, target: Target, address: str) -> bool:
        """Whether a request for ``target`` is a peer's. ``element``: the last one of its Forwarded."""
        return self.is_on and self._proven(proof, target, element, address) is not None

    def ready(self, request: Request, target: Target, key: str, address: str, cache: Cache) -> Hit | None:
        """A prepared hit for a peer at ``address`` whose request is plain, but for that."""
        proof = request.peer
        if request.range is not None or proof is None or not self.is_on:
            return None
        # A response may vary by what the peer's client has sent, but not by what the peer adds.
        headers, element, _ = request.fields.for_peer()
        if (token := self._proven(proof, target, element, address)) is None:
            return None
        found = cache.ready_with_digest(key, headers, time.time(), _digest)
        if found is None:
            return None
        (head, body, file, status), digest = found
        value = answer_to(proof, key, token)
        lines = f"Repr-Digest: {digest}\r\nCache-Peer: {value}{WITH_DIGEST}" if digest else f"Cache-Peer: {value}"
        return with_line(head, lines.encode("ascii") + b"\r\n"), body, file, status

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
        value, headers, body = self._answer_to, answer.headers, answer.body
        if isinstance(body, MemoryReader) and answer.length == len(body.content):
            digest = _digest(answer.status, headers, body.content)
            if digest:
                headers, value = headers.add("Repr-Digest", digest), value + WITH_DIGEST
        answer.headers = headers.add("Cache-Peer", value)

    def tell(self) -> None:
        """It is still waited for, unless the peer has left."""
        exchange = self._exchange
        if exchange.is_over:
            self._is_over(self)
        elif exchange.on_interim is not None:
            exchange.on_interim(102, _NO_FIELDS)


def _digest(status: int, headers: Headers, body: bytes | bytearray | memoryview) -> str:
    """That goes with a response; empty if none does. The origin's own goes on as it is."""
    return repr_digest(body) if status == 200 and len(body) <= DIGEST_MAX and "repr-digest" not in headers else ""
