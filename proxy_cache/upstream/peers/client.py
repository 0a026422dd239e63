"""One exchange with a peer: an ordinary request to a proxy, of its own connections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ...semantics.headers import Headers
from ...semantics.keys import Target
from ...semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from ...semantics.peer_fields import answer_to, forwarded_for, proof
from ...wire.outgoing import authority_of, path_of, request_head
from ...wire.responses import OriginError
from ..connection import ConnectionExpired, OriginConnection
from ..dial import Dialler
from ..pool import Pool
from ..response import OriginResponse
from ..trust import SYSTEM, Contexts, Trust
from .peer import as_address, is_private

CONNECT_TIMEOUT: Final = 0.2
"""Seconds in which a peer has to accept a connection. It is near, or it isn't there: addresses of containers are given
to others."""
INTERIMS_MAX: Final = 20_000
"""102 responses to one request. At the pace at which a home sends them that is more than two hours."""


class TooLarge(Exception):
    """With what a peer has to be told the request's head would be larger than a proxy with our limits takes."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """How to talk to peers."""

    timeout: float = 2.0
    """Seconds to the head of a response, or to the next 102 that says that it is being worked on."""
    body_timeout: float = 30.0
    """Seconds without a byte of a body."""
    tokens: tuple[str, ...] = field(default=(), repr=False)
    """The fleet's secrets: proofs are made with the first one, each is accepted. Empty: none."""
    trust: Trust = SYSTEM
    head_limits: HeadLimits = DEFAULT_HEAD_LIMITS
    longest: float = 660.0
    """Seconds to the head of a response, whatever 102 say: as long as a home may need that does what it should."""
    greeting: bytes = field(default=b"", repr=False)
    """What a connection to a peer begins with, before its first request."""

    @property
    def token(self) -> str:
        """What is proven to peers; empty: nothing."""
        return self.tokens[0] if self.tokens else ""

    @property
    def response_limits(self) -> HeadLimits:
        """What an origin may send, and what the peer adds to it."""
        limits = self.head_limits
        return HeadLimits(limits.total + 8192, limits.fields + 16, limits.line + 4096)


class PeerClient:
    """Asks peers, for all fills."""

    def __init__(self, settings: PeerSettings, dialler: Dialler) -> None:
        self.settings = settings
        self._dialler = dialler
        self._pool = Pool()
        self._tls = Contexts(settings.trust)

    def configure(self, settings: PeerSettings) -> None:
        if settings != self.settings:
            self.settings = settings
            self._tls.use(settings.trust)
            self._pool.generation += 1

    def renew_trust(self) -> None:
        """Read the certificates again, and open every connection anew."""
        self._tls.renew()
        self._pool.generation += 1

    def close(self) -> None:
        self._pool.close()

    async def get(
        self,
        peer: tuple[str, str],
        target: Target,
        headers: Headers,
        on_interim: Callable[[int, Headers], None] | None,
    ) -> OriginResponse:
        """GET ``target`` by way of ``peer`` (scheme and authority). Raises :class:`OriginError`, :class:`TooLarge`."""
        try:
            authority = authority_of(target)
            form = target.scheme.encode("ascii") + b"://" + authority + path_of(target)
            lines = b"Host: %b\r\n%b" % (authority, headers.lines)
            head = request_head(b"GET", form, authority, lines, 1 + len(headers.fields))
        except ValueError as error:
            raise OriginError("http_request_error", str(error)) from error
        if len(head) > self.settings.head_limits.short:
            fields = ((b"host", authority), *headers.fields)
            why = self.settings.head_limits.why_too_large(fields, head.index(b"\n") + 1)
            if why is not None:
                raise TooLarge(why)
        while True:
            connection = self._pool.reuse_idle(*peer)
            try:
                if connection is None:
                    connection = await self._connect(peer)
                return await connection.exchange(head, on_interim)
            except ConnectionExpired:
                continue

    def asking(self, headers: Headers, target: Target, client: str, key: str) -> tuple[Headers, str]:
        """The request to a peer of our own kind, for ``client``, and what that has to answer, if it is for ``key``."""
        element, token = forwarded_for(client), self.settings.token
        proves = proof(target.url, element, token)
        # The last element is ours. (Values are latin-1, and nothing else.)
        return headers.add("Forwarded", element).add("Cache-Peer", proves), answer_to(proves, key, token)

    async def _connect(self, peer: tuple[str, str]) -> OriginConnection:
        pool, settings = self._pool, self.settings
        generation = pool.generation
        transport = await self._dialler.open(
            *peer, timeout=settings.timeout, accepted_within=CONNECT_TIMEOUT, tls=self._tls.of,
            limits=settings.head_limits,
        )  # fmt: skip
        if pool.is_closed:
            transport.abort()
            raise OriginError("connection_terminated", "the proxy is being stopped")
        peername = transport.get_extra_info("peername")  # none, if it was reset at once
        address = as_address(str(peername[0]).partition("%")[0]) if peername else None
        if not settings.token and (peer[0] != "http" or address is None or not is_private(address)):
            transport.abort()
            raise OriginError("connection_refused", "not a private address, and no cache_peer_token_file")
        if settings.greeting:
            transport.write(settings.greeting)
        connection = OriginConnection(
            transport, peer, b"", absolute=True, generation=generation, timeout=settings.timeout,
            body_timeout=settings.body_timeout, interim_for=float("inf"), interims_max=INTERIMS_MAX,
            limits=settings.response_limits, on_idle=pool.put_back, on_lost=pool.remove,
        )  # fmt: skip
        pool.add(connection)
        return connection
