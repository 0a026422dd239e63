"""One exchange with an origin: a GET with its retries, by a client of our own.

aiohttp opens connections (names, addresses, TLS, parent proxies); what goes over them is ours (see
:mod:`.connection`): its session builds objects for redirects, cookies, traces and encodings that a proxy has no
use for, at more than the price of all the rest. So nothing changes on the way: no decompression, the URL as it came,
header fields as bytes.

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
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
import yarl
from multidict import CIMultiDict

from ..runtime.batches import Stage
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from ..wire.outgoing import authority_of, path_of, request_head
from ..wire.responses import OriginError
from .connection import OnAnswer, OriginConnection, Outcome, Stale
from .names import NameTimeout
from .response import OriginResponse
from .trust import SYSTEM, Trust

logger = logging.getLogger(__name__)

RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
BACKOFF_FIRST = 0.1
BACKOFF_MOST = 1.0
RETRY_AFTER_MOST = 5.0
"""Seconds of an origin's ``Retry-After`` that are waited for; a longer one goes to the client as it came."""
KEPT_FOR = 15.0
"""Seconds for which an idle connection stays open."""
NAMES_KEPT_FOR = 25
"""Seconds for which the addresses of a name are used in turn. With those of :data:`.names.KEPT_FOR`: half a minute."""
NAMES_FIRST = 0.5
"""Seconds by which a try to connect is given longer than its name: who gives up then can say what it waited for."""


@dataclass(frozen=True, slots=True)
class OriginSettings:
    """How to talk to origins. ``timeout`` is seconds without a byte; ``proxy`` a parent all fills go through."""

    timeout: float = 30.0
    min_pace: int = 0
    """Bytes a second of a body, over any ``timeout`` seconds in which it is read; 0: any pace will do."""
    retries: int = 3
    proxy: str | None = None
    proxy_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    trust: Trust = SYSTEM
    head_limits: HeadLimits = DEFAULT_HEAD_LIMITS


class OriginClient:
    """A pool of connections to origins, shared by all fills. ``on_retry(reason)`` is called before each retry."""

    def __init__(self, settings: OriginSettings, on_retry: Callable[[str], None] = lambda reason: None) -> None:
        self.settings = settings
        self._on_retry = on_retry
        self._connector: aiohttp.TCPConnector | None = None
        self._tls: ssl.SSLContext | None = None
        """Made of the settings with the first origin that needs it."""
        self._idle: dict[tuple[str, str], list[OriginConnection]] = {}
        self._open: set[OriginConnection] = set()
        self._asks = Stage()
        self._sweeper: asyncio.TimerHandle | None = None
        self._generation = 0
        """Connections that were opened under other settings are not used again."""
        self.configure(settings)

    def configure(self, settings: OriginSettings) -> None:
        self.settings = settings
        self.renew_trust()
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.timeout, sock_read=settings.timeout)

    def renew_trust(self) -> None:
        """Read the certificates again, and open every connection anew."""
        self._tls = None
        self._generation += 1

    def _open_connector(self) -> aiohttp.TCPConnector:
        if self._connector is None:
            self._connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=NAMES_KEPT_FOR)
        return self._connector

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = self.settings.trust.context()
        return self._tls

    @property
    def connections(self) -> int:
        """How many are open to origins, in use or idle."""
        return len(self._open)

    @property
    def idle(self) -> int:
        """How many of the open connections wait for the next request."""
        return sum(map(len, self._idle.values()))

    async def close(self) -> None:
        for connection in list(self._open):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._connector is not None:
            await self._connector.close()

    async def get(
        self,
        target: Target,
        headers: Headers,
        *,
        retries: int | None = None,
        on_interim: Callable[[int, Headers], None] | None = None,
        answer: Outcome | None = None,
    ) -> OriginResponse:
        """GET ``target``. The last answer is given as it came, whatever its status; :class:`OriginError` if none.

        ``retries`` is an upper bound for this request. ``on_interim`` hears of 1xx responses. ``answer``: what
        :meth:`ask_now` has told of the first try.
        """
        most = self.settings.retries if retries is None else min(retries, self.settings.retries)
        attempt = 0
        while True:
            last = attempt >= most
            first, answer = answer, None
            try:
                if isinstance(first, OriginError):
                    raise first
                if isinstance(first, OriginResponse):
                    response = first
                else:
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

    def ask_now(
        self,
        target: Target,
        headers: Headers,
        on_interim: Callable[[int, Headers], None],
        on_answer: OnAnswer,
    ) -> OriginConnection | None:
        """Ask over a connection that is open, if there is one: without a task, and together with others (see
        :meth:`OriginConnection.ask`). What is not good enough for an answer is for :meth:`get` to see to.
        """
        connection = self._take_idle(target.scheme, target.authority)
        if connection is not None:
            try:
                head = _request_head(target, headers, connection)
            except ValueError:
                self._is_idle(connection)
                return None
            self._asks.add(connection.ask, head, on_interim, on_answer)
        return connection

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
        """One try. A connection that turns out to have ended while it was idle doesn't count as one."""
        while True:
            connection = self._take_idle(target.scheme, target.authority)
            try:
                if connection is None:
                    connection = await self._connect(target)
                return await connection.exchange(_request_head(target, headers, connection), on_interim)
            except Stale:
                continue
            except ValueError as error:
                if connection is not None:
                    connection.abort()
                raise OriginError("http_request_error", str(error)) from error

    # -- connections --------------------------------------------------------------------------------------------

    def _take_idle(self, scheme: str, authority: str) -> OriginConnection | None:
        """The connection that was used last: it is the one most likely to be open still."""
        idle = self._idle.get((scheme, authority))
        while idle:
            connection = idle.pop()
            if connection.is_open and connection.generation == self._generation:
                return connection
            connection.close()
        return None

    async def _connect(self, target: Target) -> OriginConnection:
        generation = self._generation  # before the wait: other settings may come meanwhile
        try:
            way, authority = self._way_to(target), authority_of(target)
            try:
                async with asyncio.timeout(self.settings.timeout + NAMES_FIRST):
                    opened = await self._open_connector().connect(way, [], self._timeout)
            except TimeoutError as error:
                raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {way.url}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _origin_error(error) from error
        at = target.scheme, target.authority
        through_proxy = way.proxy is not None and target.scheme == "http"
        # The connector may have put credentials for the proxy to the way's fields. Its Host is without a final dot.
        others = [(name, value) for name, value in way.headers.items() if name.lower() != "host"]
        prefix = b"Host: %b\r\n" % authority + b"".join(f"{name}: {value}\r\n".encode() for name, value in others)
        try:
            connection = OriginConnection(
                opened, at, prefix, absolute=through_proxy, generation=generation, timeout=self.settings.timeout,
                min_pace=self.settings.min_pace, limits=self.settings.head_limits,
                on_idle=self._is_idle, on_lost=self._is_lost,
            )  # fmt: skip
        except ConnectionError as error:
            opened.close()
            raise _origin_error(error) from error
        self._open.add(connection)
        return connection

    def _is_idle(self, connection: OriginConnection) -> None:
        self._idle.setdefault(connection.at, []).append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(KEPT_FOR, self._sweep)

    def _is_lost(self, connection: OriginConnection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.at)
        if idle is not None and connection in idle:
            idle.remove(connection)

    def _sweep(self) -> None:
        """Close what has been idle for long."""
        self._sweeper = None
        before = time.monotonic() - KEPT_FOR
        for at, idle in list(self._idle.items()):
            for connection in [one for one in idle if one.idle_since <= before]:
                connection.close()
            if not self._idle[at]:
                del self._idle[at]
        if self._idle:
            self._sweeper = asyncio.get_running_loop().call_later(KEPT_FOR / 2, self._sweep)

    def _way_to(self, target: Target) -> aiohttp.ClientRequest:
        """How to get to an origin, in the terms of aiohttp's connector: a request for its root, never sent."""
        settings = self.settings
        if target.scheme not in ("http", "https"):
            raise ValueError(f"no way to {target.scheme} origins")
        fields = CIMultiDict(settings.proxy_headers) if settings.proxy else CIMultiDict[str]()
        secure = target.scheme == "https" or (settings.proxy or "").startswith("https:")
        return aiohttp.ClientRequest(
            "GET",
            yarl.URL(f"{target.scheme}://{authority_of(target).decode()}/", encoded=True),
            headers=fields if target.scheme == "http" else None,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            loop=asyncio.get_running_loop(),
            ssl=self._tls_context() if secure else True,
            proxy=yarl.URL(settings.proxy) if settings.proxy else None,
            proxy_headers=fields if settings.proxy and target.scheme == "https" else None,
        )


def _request_head(target: Target, headers: Headers, connection: OriginConnection) -> bytes:
    """The header section of a request: what the way there needs (Host, and what a parent proxy is to know), and then
    the fields as they came. :class:`ValueError` if it can't be sent as one."""
    if not target.path.startswith("/"):
        raise ValueError("not a path")
    authority, form = authority_of(target), path_of(target)
    if connection.absolute:
        form = b"http://" + authority + form
    count = connection.prefix_count + len(headers.fields)
    return request_head(b"GET", form, authority, connection.prefix + headers.lines, count)


_RETRY_ERRORS = frozenset(
    {
        "connection_refused",
        "connection_terminated",
        "connection_timeout",
        "connection_read_timeout",
        "http_response_timeout",
        "http_response_incomplete",
        "destination_unavailable",
        # Not dns_timeout: a second try would wait for the same look-up.
    }
)


def _origin_error(error: Exception) -> OriginError:
    """The proxy error type (RFC 9209 §2.3) of why there is no connection."""
    detail = str(error) or type(error).__name__
    match error:
        case aiohttp.ConnectionTimeoutError() | TimeoutError():
            kind = "connection_timeout"
        case aiohttp.ClientConnectorCertificateError():
            kind = "tls_certificate_error"
        case aiohttp.ClientConnectorDNSError() if isinstance(error.os_error, NameTimeout):
            return OriginError("dns_timeout", error.os_error.why)
        case aiohttp.ClientConnectorDNSError():
            kind = "dns_error"
        case aiohttp.ClientSSLError():
            kind = "tls_alert_received" if "ALERT" in detail else "tls_protocol_error"
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ConnectionRefusedError):
            kind = "connection_refused"
        case aiohttp.ClientConnectorError():
            kind = "destination_unavailable"
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
