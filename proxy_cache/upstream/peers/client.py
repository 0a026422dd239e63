"""One exchange with a peer: an ordinary request to a proxy, of its own connections."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ...semantics.headers import Headers
from ...semantics.keys import Target
from ...semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from ...semantics.peer_fields import ASKS, forwarded_for
from ...wire.outgoing import authority_of, path_of, request_head
from ...wire.responses import OriginError
from ..connection import ConnectionExpired, OriginConnection
from ..dial import Dialler
from ..pool import Pool
from ..response import OriginResponse
from ..trust import SYSTEM, Trust
from .peer import as_address, is_private

CONNECT_TIMEOUT: Final = 0.2
"""Seconds in which a peer has to accept a connection. It is near, or it isn't there: addresses of containers are given
to others."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """How to talk to peers."""

    timeout: float = 2.0
    """Seconds to the head of a response, or to the next 102 that says that it is being worked on."""
    body_timeout: float = 30.0
    """Seconds without a byte of a body."""
    tokens: tuple[str, ...] = field(default=(), repr=False)
    """The fleet's secrets: the first one is shown, each is accepted. Empty: none."""
    trust: Trust = SYSTEM
    head_limits: HeadLimits = DEFAULT_HEAD_LIMITS

    @property
    def token(self) -> str:
        """What is shown to peers; empty: nothing."""
        return self.tokens[0] if self.tokens else ""


class PeerClient:
    """Asks peers, for all fills."""

    def __init__(self, settings: PeerSettings, dialler: Dialler) -> None:
        self.settings = settings
        self._dialler = dialler
        self._pool = Pool()
        self._tls: ssl.SSLContext | None = None

    def configure(self, settings: PeerSettings) -> None:
        if settings != self.settings:
            self.settings = settings
            self.renew_trust()

    def renew_trust(self) -> None:
        """Read the certificates again, and open every connection anew."""
        self._tls = None
        self._pool.generation += 1

    def close(self) -> None:
        self._pool.close()

    async def get(
        self,
        peer: tuple[str, str],
        target: Target,
        headers: Headers,
        client: str | None,
        on_interim: Callable[[int, Headers], None] | None,
    ) -> OriginResponse:
        """GET ``target`` by way of ``peer`` (scheme and authority), for ``client``. ``None``: it isn't told that a peer
        asks, since it may be a proxy of another kind. Raises :class:`OriginError`."""
        try:
            authority = authority_of(target)
            form = target.scheme.encode("ascii") + b"://" + authority + path_of(target)
            if client is not None:
                # The last element is ours. (Values are latin-1, and nothing else.)
                headers = headers.add("Forwarded", forwarded_for(client)).add("Cache-Peer", self.settings.token or ASKS)
            lines = b"Host: %b\r\n%b" % (authority, headers.lines)
            head = request_head(b"GET", form, authority, lines, 1 + len(headers.fields))
        except ValueError as error:
            raise OriginError("http_request_error", str(error)) from error
        while True:
            connection = self._pool.reuse_idle(*peer)
            try:
                if connection is None:
                    connection = await self._connect(peer)
                return await connection.exchange(head, on_interim)
            except ConnectionExpired:
                continue

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            try:
                self._tls = self.settings.trust.context()
            except OSError as error:
                raise OriginError("connection_terminated", str(error)) from error
        return self._tls

    async def _connect(self, peer: tuple[str, str]) -> OriginConnection:
        pool, settings = self._pool, self.settings
        generation = pool.generation
        transport = await self._dialler.open(
            *peer, timeout=settings.timeout, accepted_within=CONNECT_TIMEOUT, tls=self._tls_context,
            limits=settings.head_limits,
        )  # fmt: skip
        if pool.is_closed:
            transport.abort()
            raise OriginError("connection_terminated", "the proxy is being stopped")
        address = as_address(str(transport.get_extra_info("peername")[0]).partition("%")[0])
        if not settings.token and (peer[0] != "http" or address is None or not is_private(address)):
            transport.abort()
            raise OriginError("connection_refused", "not a private address, and no cache_peer_token_file")
        connection = OriginConnection(
            transport, peer, b"", absolute=True, generation=generation, timeout=settings.timeout,
            body_timeout=settings.body_timeout, interim_for=float("inf"), limits=settings.head_limits,
            on_idle=pool.put_back, on_lost=pool.remove,
        )  # fmt: skip
        pool.add(connection)
        return connection
