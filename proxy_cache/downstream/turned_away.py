"""Clients that are not served: each gets a 403 to its first request, and the end of its connection.

They never come as far as a lane or mitmproxy. A closed connection would do, but whoever has to find out why a build
fails has a message this way.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ..caching.headers import Heads
from ..upstream.access import Access
from ..upstream.destinations import CLIENT
from ..wire.requests import CLOSE, response_head, with_line
from .account import Accounts
from .respond import framed

PATIENCE: Final = 5.0
"""Seconds for a request to come, and for its rest to be dropped."""
HEAD_MAX: Final = 64 * 1024
"""Bytes of a request that are read before it is answered, whole or not."""
_TLS: Final = 0x16
"""The first byte of a TLS handshake (RFC 8446 §5.1): an answer in plain text means nothing there."""


class TurnedAway(asyncio.Protocol):
    """The protocol of such a client's connection."""

    def __init__(self, transport: Any, client: str, heads: Heads, accounts: Accounts, access: Access) -> None:
        self._transport, self._client = transport, client
        self._heads, self._accounts, self._access = heads, accounts, access
        self._received = b""
        self._is_answered = False
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._is_answered:
            return
        self._received += data
        if self._received[0] == _TLS:
            self._refused()
            self._transport.abort()
        elif b"\r\n\r\n" in self._received or b"\n\n" in self._received or len(self._received) > HEAD_MAX:
            self._answer()

    def _refused(self) -> None:
        self._is_answered = True
        self._received = b""
        self._access.client_denied(self._client)

    def _answer(self) -> None:
        self._refused()
        answer = self._heads.error(403, CLIENT.error, "bypass", detail=CLIENT.detail)
        headers, _, _ = framed(answer, http11=True)
        body = answer.content() or b""
        head = with_line(response_head(answer.status, answer.reason_phrase, headers), CLOSE)
        # With an end and no reset, so that what is still being sent does not cost the client the answer: whoever goes
        # on is read until the time is over.
        self._transport.write(head + body)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._accounts.ended_early("-", "-", self._client, answer.status, len(body), headers)

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
