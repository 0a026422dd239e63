"""One exchange with an origin: a GET with its retries, by a client of our own.

The client is aiohttp, set up to change nothing on the way: no decompression, the URL as it came, header fields as
bytes. Retries follow one rule: as long as nothing of an answer was handed on, what is probably transient is tried
again, up to ``retries`` times, with a growing pause that is never the same for two fills. The slot of a fill is kept
through the pauses: a failing origin is the one that needs protecting, and giving the slot back would let the
queue behind it hammer it at full rate.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import aiohttp
import yarl
from multidict import CIMultiDict

from .semantics.headers import Headers
from .semantics.keys import Target
from .semantics.status_fields import PROXY_ERRORS

logger = logging.getLogger(__name__)

RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
BACKOFF_FIRST = 0.1
BACKOFF_MOST = 1.0
RETRY_AFTER_MOST = 5.0
"""Seconds of an origin's ``Retry-After`` that are waited for; a longer one goes to the client as it came."""
MAX_FIELD = 65536
"""Bytes of one line of an origin's header."""


class OriginError(Exception):
    """No usable answer. ``error`` is a proxy error type of RFC 9209 §2.3, which also gives ``status``."""

    def __init__(self, error: str, detail: str) -> None:
        super().__init__(f"{error}: {detail}")
        self.error = error
        self.detail = detail
        # 502 or 504, as gateways have always said it (RFC 9110 §15.6.3, §15.6.5), also where RFC 9209 has 503 or 500.
        self.status = 504 if PROXY_ERRORS.get(error) == 504 else 502


@dataclass(frozen=True, slots=True)
class OriginSettings:
    """How to talk to origins. ``timeout`` is seconds without a byte; ``proxy`` a parent all fills go through."""

    timeout: float = 30.0
    retries: int = 3
    proxy: str | None = None
    proxy_headers: tuple[tuple[str, str], ...] = ()
    verify_tls: bool = True
    trusted_ca: str | None = None


@dataclass(frozen=True, slots=True)
class OriginResponse:
    """The head of an answer, and its body as an iterator that raises :class:`OriginError` when it breaks off."""

    status: int
    reason: str
    headers: Headers
    body: AsyncIterator[bytes]
    content_length: int | None
    request_time: float
    response_time: float


_interim: ContextVar[Callable[[int, Headers], None] | None] = ContextVar("interim", default=None)


class _Response(aiohttp.ClientResponse):
    """One that tells of the 1xx responses before the final one, which aiohttp reads and drops."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        tell = _interim.get()
        if tell is None:
            return await super().start(connection)
        protocol = connection.protocol
        read = protocol.read

        async def read_and_tell() -> Any:
            message, payload = await read()
            # 100 answers an Expect, which fills never send; 101 is final in its way.
            if 101 < message.code < 200:
                tell(message.code, Headers(message.raw_headers))
            return message, payload

        protocol.read = read_and_tell
        try:
            return await super().start(connection)
        finally:
            del protocol.read


class OriginClient:
    """A pool of connections to origins, shared by all fills. ``on_retry(reason)`` is called before each retry."""

    def __init__(self, settings: OriginSettings, on_retry: Callable[[str], None] = lambda reason: None) -> None:
        self.settings = settings
        self._on_retry = on_retry
        self._session: aiohttp.ClientSession | None = None

    def configure(self, settings: OriginSettings) -> None:
        self.settings = settings

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls(), ttl_dns_cache=30, keepalive_timeout=15),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                max_line_size=MAX_FIELD,
                max_field_size=MAX_FIELD,
                read_bufsize=128 * 1024,
                response_class=_Response,
            )
            # aiohttp would repeat a GET on its own when a connection breaks, beside our count of tries.
            session._retry_connection = False
        return self._session

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.settings.trusted_ca)
        if not self.settings.verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def get(
        self,
        target: Target,
        headers: Headers,
        *,
        retries: int | None = None,
        on_interim: Callable[[int, Headers], None] | None = None,
    ) -> AsyncIterator[OriginResponse]:
        """GET ``target``. The last answer is given as it came, whatever its status; :class:`OriginError` if none.

        ``retries`` is an upper bound for this request. ``on_interim`` hears of 1xx responses.
        """
        most = self.settings.retries if retries is None else min(retries, self.settings.retries)
        attempt = 0
        _interim.set(on_interim)
        while True:
            last = attempt >= most
            request_time = time.time()
            try:
                response = await self._send(target, headers)
            except OriginError as error:
                if last or error.error not in _RETRY_ERRORS:
                    raise
                await self.pause(attempt, 0.0, error.error)
                attempt += 1
                continue
            wait = _retry_after(response.headers.get("Retry-After"))
            if response.status in RETRY_STATUSES and not last and wait <= RETRY_AFTER_MOST:
                response.close()
                await self.pause(attempt, wait, str(response.status))
                attempt += 1
                continue
            break
        try:
            yield OriginResponse(
                status=response.status,
                reason=response.reason or "",
                headers=Headers(response.raw_headers),
                body=_body(response),
                content_length=response.content_length,
                request_time=request_time,
                response_time=time.time(),
            )
        finally:
            response.close()  # a connection whose response was read to its end has gone back to the pool already

    def may_retry(self, error: OriginError, attempt: int) -> bool:
        """Whether a body that broke off is worth asking for the rest of it."""
        return attempt < self.settings.retries and error.error in _RETRY_ERRORS | {"connection_read_timeout"}

    async def pause(self, attempt: int, wait: float, reason: str) -> None:
        """Before a further try."""
        self._on_retry(reason)
        backoff = min(BACKOFF_MOST, BACKOFF_FIRST * 2**attempt)
        await asyncio.sleep(max(wait, backoff) * random.uniform(1.0, 1.5) if wait else backoff * random.uniform(0.5, 1))

    async def _send(self, target: Target, headers: Headers) -> aiohttp.ClientResponse:
        settings = self.settings
        fields = CIMultiDict((name.decode("latin-1"), _text(value)) for name, value in headers.fields)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.timeout, sock_read=settings.timeout)
        if settings.proxy and target.scheme == "http":
            fields.extend(settings.proxy_headers)
        try:
            return await self._open_session().get(
                yarl.URL(target.url, encoded=True),
                headers=fields,
                timeout=timeout,
                allow_redirects=False,
                proxy=settings.proxy,
                proxy_headers=dict(settings.proxy_headers) if target.scheme == "https" else None,
            )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _origin_error(error) from error


_RETRY_ERRORS = frozenset(
    {
        "connection_refused",
        "connection_terminated",
        "connection_timeout",
        "connection_read_timeout",
        "http_response_timeout",
        "http_response_incomplete",
        "destination_unavailable",
        "dns_timeout",
    }
)


async def _body(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        while chunk := await response.content.readany():
            yield chunk
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise _origin_error(error, in_body=True) from error


def _origin_error(error: Exception, *, in_body: bool = False) -> OriginError:
    """The proxy error type (RFC 9209 §2.3) of what aiohttp raised."""
    detail = str(error) or type(error).__name__
    match error:
        case aiohttp.ConnectionTimeoutError():
            kind = "connection_timeout"
        case TimeoutError():
            kind = "connection_read_timeout" if in_body else "http_response_timeout"
        case aiohttp.ClientConnectorCertificateError():
            kind = "tls_certificate_error"
        case aiohttp.ClientConnectorDNSError():
            kind = "dns_error"
        case aiohttp.ClientSSLError():
            kind = "tls_protocol_error"
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ConnectionRefusedError):
            kind = "connection_refused"
        case aiohttp.ClientConnectorError():
            kind = "destination_unavailable"
        case aiohttp.ClientPayloadError():
            kind = "http_response_incomplete"
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            kind = "connection_terminated"
        case aiohttp.ClientResponseError():
            kind = "http_protocol_error"
        case OSError():
            kind = "connection_terminated"
        case _:
            kind = "http_request_error"
    return OriginError(kind, detail)


def _retry_after(value: str | None) -> float:
    """Seconds an origin asks to wait. A date, or nonsense, counts as longer than we wait (RFC 9110 §10.2.3)."""
    if value is None:
        return 0.0
    return float(value) if value.strip().isascii() and value.strip().isdigit() else RETRY_AFTER_MOST + 1


def _text(value: bytes) -> str:
    # aiohttp sends text as UTF-8; bytes that are not are rare, and are passed as the characters they are in latin-1.
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
