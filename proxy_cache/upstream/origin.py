"""One exchange with an origin: a GET with its retries, by a client of our own.

:mod:`.dial` opens connections, :mod:`.pool` keeps them, and what goes over them is for :mod:`.connection`. Nothing
changes on the way: no decompression, the URL as it came, header fields as bytes.

Retries follow one rule: as long as nothing of an answer was handed on, what is probably transient is tried again, up to
``retries`` times, with a growing pause that is never the same for two fills. The slot of a fill is kept through the
pauses: a failing origin is the one that needs protecting, and giving the slot back would let the queue behind it hammer
it at full rate.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from ..runtime.batches import CallBatch
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from ..wire.outgoing import authority_of, path_of, request_head
from ..wire.responses import OriginError
from .connection import ConnectionExpired, OnAnswer, OriginConnection, Outcome
from .dial import Dialler, Parent
from .pool import Pool
from .response import OriginResponse
from .stopwatch import BACKOFF, CONNECT, FIRST_BYTE, Stopwatch
from .trace_context import Recipients, is_told, without_context
from .trust import SYSTEM, Contexts, Trust

logger = logging.getLogger(__name__)

RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
BACKOFF_FIRST = 0.1
BACKOFF_MAX = 1.0
RETRY_AFTER_MAX = 5.0
"""Seconds of an origin's ``Retry-After`` that are waited for; a longer one goes to the client as it came."""


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
    trace_context_to: Recipients = "private"


class OriginClient:
    """Asks origins, for all fills. ``on_retry(reason)`` is called before each retry."""

    def __init__(
        self,
        settings: OriginSettings,
        on_retry: Callable[[str], None] = lambda reason: None,
        dialler: Dialler | None = None,
    ) -> None:
        self.settings = settings
        self._on_retry = on_retry
        self._dialler = dialler or Dialler()
        self._pool = Pool()
        self.tls = Contexts(settings.trust)
        self._asks = CallBatch()
        self.configure(settings)

    def configure(self, settings: OriginSettings) -> None:
        self.settings = settings
        self._parent = Parent.from_url(settings.proxy, settings.proxy_headers) if settings.proxy else None
        self.tls.use(settings.trust)
        self.renew_connections()

    def renew_trust(self) -> None:
        """Read the certificates again, and open every connection anew."""
        self.tls.renew()
        self.renew_connections()

    def renew_connections(self) -> None:
        """Use none again that is open now."""
        self._pool.generation += 1

    @property
    def connections(self) -> int:
        """How many are open to origins, in use or idle."""
        return self._pool.connections

    @property
    def idle(self) -> int:
        """How many of the open connections wait for the next request."""
        return self._pool.idle

    async def close(self) -> None:
        self._pool.close()

    async def get(
        self,
        target: Target,
        headers: Headers,
        *,
        retries: int | None = None,
        on_interim: Callable[[int, Headers], None] | None = None,
        answer: Outcome | None = None,
        watch: Stopwatch | None = None,
    ) -> OriginResponse:
        """GET ``target``. The last answer is given as it came, whatever its status; :class:`OriginError` if none.

        ``retries`` is an upper bound for this request. ``on_interim`` hears of 1xx responses. ``answer``: what
        :meth:`ask_now` has told of the first try. ``watch``: told of the phases of each try.
        """
        watch = watch or Stopwatch()
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
                    response = await self._send(target, headers, on_interim, watch)
            except OriginError as error:
                if last or error.error not in _RETRY_ERRORS:
                    raise
                await self.pause(attempt, 0.0, error.error, watch)
                attempt += 1
                continue
            if response.status not in RETRY_STATUSES or last:
                return response
            wait = _retry_after(response.headers.get("retry-after"))
            if wait > RETRY_AFTER_MAX:
                return response
            response.close()
            await self.pause(attempt, wait, str(response.status), watch)
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
        connection = self._pool.reuse_idle(target.scheme, target.authority)
        if connection is not None:
            try:
                head = _request_head(target, headers, connection)
            except ValueError:
                self._pool.put_back(connection)
                return None
            self._asks.add(connection.ask, head, on_interim, on_answer)
        return connection

    def may_retry(self, error: OriginError, attempt: int) -> bool:
        """Whether a body that broke off is worth asking for the rest of it."""
        return attempt < self.settings.retries and error.error in _RETRY_ERRORS | {"connection_read_timeout"}

    async def pause(self, attempt: int, wait: float, reason: str, watch: Stopwatch) -> None:
        """Before a further try."""
        self._on_retry(reason)
        backoff = min(BACKOFF_MAX, BACKOFF_FIRST * 2**attempt)
        seconds = max(wait, backoff) * random.uniform(1.0, 1.5) if wait else backoff * random.uniform(0.5, 1)
        with watch.begin(BACKOFF):
            await asyncio.sleep(seconds)

    async def _send(
        self, target: Target, headers: Headers, on_interim: Callable[[int, Headers], None] | None, watch: Stopwatch
    ) -> OriginResponse:
        """One try. A connection that turns out to have ended while it was idle doesn't count as one."""
        while True:
            connection = self._pool.reuse_idle(target.scheme, target.authority)
            try:
                if connection is None:
                    with watch.begin(CONNECT):
                        connection = await self._connect(target)
                with watch.begin(FIRST_BYTE) as lap:
                    head = _request_head(target, watch.carried(headers, lap), connection)
                    response = await connection.exchange(head, on_interim)
                    lap.outcome = str(response.status)
                return response
            except ConnectionExpired:
                continue
            except ValueError as error:
                if connection is not None:
                    connection.abort()
                raise OriginError("http_request_error", str(error)) from error

    async def _connect(self, target: Target) -> OriginConnection:
        pool, parent = self._pool, self._parent
        generation = pool.generation  # before the wait: other settings may come meanwhile
        settings = self.settings
        if target.scheme not in ("http", "https"):
            raise ValueError(f"no way to {target.scheme} origins")
        authority = authority_of(target)
        transport = await self._dialler.open(
            target.scheme, authority.decode(), timeout=settings.timeout, tls=self.tls.of, parent=parent,
            limits=settings.head_limits,
        )  # fmt: skip
        if pool.is_closed:
            transport.abort()
            raise OriginError("connection_terminated", "the proxy is being stopped")
        through_proxy = parent is not None and target.scheme == "http"
        connection = OriginConnection(
            transport, (target.scheme, target.authority),
            b"Host: %b\r\n" % authority + (parent.lines if parent is not None and through_proxy else b""),
            absolute=through_proxy, generation=generation, timeout=settings.timeout, min_pace=settings.min_pace,
            limits=settings.head_limits, on_idle=pool.put_back, on_lost=pool.remove,
        )  # fmt: skip
        connection.is_told_traces = is_told(
            settings.trace_context_to, target.host, transport.get_extra_info("peername"),
            through_parent=parent is not None,
        )  # fmt: skip
        pool.add(connection)
        return connection


def _request_head(target: Target, headers: Headers, connection: OriginConnection) -> bytes:
    """The header section of a request: what the way there needs (Host, and what a parent proxy is to know), and then
    the fields as they came. :class:`ValueError` if it can't be sent as one."""
    if not target.path.startswith("/"):
        raise ValueError("not a path")
    authority, form = authority_of(target), path_of(target)
    if connection.absolute:
        form = b"http://" + authority + form
    if not connection.is_told_traces:
        headers = without_context(headers)
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


def _retry_after(value: str | None) -> float:
    """Seconds an origin asks to wait. A date, or nonsense, counts as longer than we wait (RFC 9110 §10.2.3)."""
    if value is None:
        return 0.0
    return float(value) if value.strip().isascii() and value.strip().isdigit() else RETRY_AFTER_MAX + 1
