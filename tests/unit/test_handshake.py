"""The beginning of TLS on a client's connection, as far as it can be told without one."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest

from proxy_cache.downstream.handshake import RECEIVED_MAX, Handshake


class Ends:
    """Of a connection: the transport below, and the owner above."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.is_aborted = False

    def hello_arrived(self, hello: Any) -> None:
        self.told.append("hello")

    def failed(self, reason: str, *, by_client: bool) -> None:
        self.told.append(reason)

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted


def test_who_waits_for_a_certificate_can_fill_no_memory() -> None:
    """It may take a while until there is one, and a client has nothing to say meanwhile."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="a.example").do_handshake()
    hello = outgoing.read()

    async def run() -> None:
        ends: Any = Ends()
        handshake = Handshake(ends, ends)
        for at in range(0, len(hello), 10):
            handshake.data_received(hello[at : at + 10])
        assert ends.told == ["hello"]
        while not ends.is_aborted:
            handshake.data_received(bytes(10_000))
            assert len(handshake._received) <= RECEIVED_MAX + 10_000
        assert ends.told == ["hello", "more than a ClientHello"]
        handshake.data_received(bytes(10_000))
        handshake.answer(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        assert len(ends.told) == 2

    asyncio.run(run())
