"""One exchange with an origin: a GET with its retries, by a client of our own.

Connections, TLS, names and the parser are aiohttp's; the exchange itself is ours: aiohttp's session builds a request
and a response object for each, for redirects, cookies, traces and encodings that a proxy has no use for, at more than
the price of all the rest. So nothing changes on the way: no decompression, the URL as it came, header fields as bytes.

Retries follow one rule: as long as nothing of an answer was handed on, what is probably transient is tried again, up to
``retries`` times, with a growing pause that is never the same for two fills. The slot of a fill is kept through the
pauses: a failing origin is the one that needs protecting, and giving the slot back would let the queue behind it hammer
it at full rate.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
import yarl
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
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
READ_AHEAD = 128 * 1024
"""Bytes of a body that are read ahead of the fill; at twice as many the connection waits."""
WAYS_MOST = 1000
"""Origins for which it is remembered how to get there; what is forgotten is worked out again."""


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


class OriginResponse:
    """The head of an answer, and its body as an iterator that raises :class:`OriginError` when it breaks off.

    :meth:`close` it when done.
    """

    __slots__ = (
        "_connection", "_content", "content_length", "headers", "reason", "request_time", "response_time", "status",
    )  # fmt: skip

    def __init__(
        self,
        message: RawResponseMessage,
        content: aiohttp.StreamReader,
        connection: Connection,
        request_time: float,
    ) -> None:
        self.status = message.code
        self.reason = message.reason or ""
        self.headers = Headers(message.raw_headers)
        length = message.headers.get("Content-Length")
        self.content_length = int(length) if length is not None else None
        self.request_time = request_time
        self.response_time = time.time()
        self._content = content
        self._connection = connection
        protocol = connection.protocol
        if protocol is not None and not protocol.upgraded:
            content.on_eof(connection.release)  # at once if it has all arrived

    @property
    def body(self) -> AsyncIterator[bytes]:
        return self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        try:
            while chunk := await self._content.readany():
                yield chunk
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _origin_error(error, in_body=True) from error

    def close(self) -> None:
        """End the connection, unless it went back to the pool with the last byte of the response. Idempotent."""
        self._connection.close()


class OriginClient:
    """A pool of connections to origins, shared by all fills. ``on_retry(reason)`` is called before each retry."""

    def __init__(self, settings: OriginSettings, on_retry: Callable[[str], None] = lambda reason: None) -> None:
        self.settings = settings
        self._on_retry = on_retry
        self._connector: aiohttp.TCPConnector | None = None
        self._ways: dict[tuple[str, str], aiohttp.ClientRequest] = {}
        self.configure(settings)

    def configure(self, settings: OriginSettings) -> None:
        self.settings = settings
        self._ways.clear()
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.timeout, sock_read=settings.timeout)

    def _open_connector(self) -> aiohttp.TCPConnector:
        if self._connector is None:
            self._connector = aiohttp.TCPConnector(limit=0, ssl=self._tls(), ttl_dns_cache=30, keepalive_timeout=15)
        return self._connector

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.settings.trusted_ca)
        if not self.settings.verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    async def close(self) -> None:
        if self._connector is not None:
            await self._connector.close()

    async def get(
        self,
        target: Target,
        headers: Headers,
        *,
        retries: int | None = None,
        on_interim: Callable[[int, Headers], None] | None = None,
    ) -> OriginResponse:
        """GET ``target``. The last answer is given as it came, whatever its status; :class:`OriginError` if none.

        ``retries`` is an upper bound for this request. ``on_interim`` hears of 1xx responses.
        """
        most = self.settings.retries if retries is None else min(retries, self.settings.retries)
        attempt = 0
        while True:
            last = attempt >= most
            try:
                response = await self._send(target, headers, on_interim)
            except OriginError as error:
                if last or error.error not in _RETRY_ERRORS:
                    raise
                await self.pause(attempt, 0.0, error.error)
                attempt += 1
                continue
            if response.status not in RETRY_STATUSES or last:
                return response
            wait = _retry_after(response.headers.get("retry-after"))
            if wait > RETRY_AFTER_MOST:
                return response
            response.close()
            await self.pause(attempt, wait, str(response.status))
            attempt += 1

    def may_retry(self, error: OriginError, attempt: int) -> bool:
        """Whether a body that broke off is worth asking for the rest of it."""
        return attempt < self.settings.retries and error.error in _RETRY_ERRORS | {"connection_read_timeout"}

    async def pause(self, attempt: int, wait: float, reason: str) -> None:
        """Before a further try."""
        self._on_retry(reason)
        backoff = min(BACKOFF_MOST, BACKOFF_FIRST * 2**attempt)
        await asyncio.sleep(max(wait, backoff) * random.uniform(1.0, 1.5) if wait else backoff * random.uniform(0.5, 1))

    async def _send(
        self, target: Target, headers: Headers, on_interim: Callable[[int, Headers], None] | None
    ) -> OriginResponse:
        """One try."""
        request_time = time.time()
        try:
            way = self._way_to(target)
            try:
                connection = await self._open_connector().connect(way, [], self._timeout)
            except TimeoutError as error:
                raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {way.url}") from error
            try:
                head = _request_head(target, headers, way)  # which the connector may have put credentials to
                message, content = await self._exchange(connection, head, on_interim)
                return OriginResponse(message, content, connection, request_time)
            except BaseException:
                connection.close()
                raise
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            raise _origin_error(error) from error

    async def _exchange(
        self, connection: Connection, head: bytes, on_interim: Callable[[int, Headers], None] | None
    ) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None or transport.is_closing():
            raise ConnectionResetError("the connection was closed before it was used")
        protocol.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=self.settings.timeout,
            read_bufsize=READ_AHEAD,
            max_line_size=MAX_FIELD,
            max_field_size=MAX_FIELD,
        )
        transport.write(head)
        protocol.start_timeout()
        while True:
            message, content = await protocol.read()
            # 101 is final in its way (RFC 9110 §15.2.2).
            if message.code == 101 or not 100 <= message.code < 200:
                return message, content
            # 100 answers an Expect, which fills never send.
            if message.code != 100 and on_interim is not None:
                on_interim(message.code, Headers(message.raw_headers))

    def _way_to(self, target: Target) -> aiohttp.ClientRequest:
        """How to get to an origin, in the terms of aiohttp's connector: a request for its root, never sent."""
        at = target.scheme, target.authority
        way = self._ways.get(at)
        if way is not None:
            return way
        settings = self.settings
        if target.scheme not in ("http", "https"):
            raise ValueError(f"no way to {target.scheme} origins")
        fields = CIMultiDict(settings.proxy_headers) if settings.proxy else CIMultiDict[str]()
        way = aiohttp.ClientRequest(
            "GET",
            yarl.URL(f"{target.scheme}://{target.authority}/", encoded=True),
            headers=fields if target.scheme == "http" else None,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            loop=asyncio.get_running_loop(),
            proxy=yarl.URL(settings.proxy) if settings.proxy else None,
            proxy_headers=fields if settings.proxy and target.scheme == "https" else None,
        )
        if not settings.proxy:  # else the connector writes into it
            if len(self._ways) >= WAYS_MOST:
                self._ways.clear()
            self._ways[at] = way
        return way


def _request_head(target: Target, headers: Headers, way: aiohttp.ClientRequest) -> bytes:
    """The header section of a request: what the way there needs (Host, and what a parent proxy is to know), and then
    the fields as they came. :class:`ValueError` if it can't be sent as one."""
    if not target.path.startswith("/"):
        raise ValueError("not a path")
    form = target.url if way.proxy is not None and target.scheme == "http" else target.path
    lines = [f"GET {form} HTTP/1.1".encode()]
    lines += [f"{name}: {value}".encode() for name, value in way.headers.items()]
    lines += [b"%b: %b" % field for field in headers.fields]
    head = b"\r\n".join(lines)
    if head.count(b"\r") >= len(lines) or head.count(b"\n") >= len(lines) or b"\0" in head:
        raise ValueError("a line break or NUL within a line")  # RFC 9110 §5.5: a way to smuggle requests
    return head + b"\r\n\r\n"


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


def _origin_error(error: Exception, *, in_body: bool = False) -> OriginError:
    """The proxy error type (RFC 9209 §2.3) of what aiohttp raised."""
    detail = str(error) or type(error).__name__
    if isinstance(error, HttpProcessingError):
        detail = f"{error.code}, message={error.message!r}"  # on one line
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
        case aiohttp.ClientResponseError() | HttpProcessingError():
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
