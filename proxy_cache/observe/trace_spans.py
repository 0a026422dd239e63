"""The spans of a request and of a fill, in the words of OpenTelemetry's semantic conventions (docs/tracing.md).

Both are made for sampled requests alone. The times of what happens within a fill are its stopwatch's, and most of its
spans are made of them when it is over. Only what others have to be told of at once has its span from the beginning: a
request, a fill, and each request to an origin or a peer that carries the context on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Final, Protocol, TypeAlias
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.texts import brief

W3C: Final = TraceContextTextMapPropagator()
METHODS: Final = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
"""That the conventions know; any other is ``_OTHER``."""
NO_STATUS: Final = 499
"""The access log's word for a client that has left before it was sent a status."""
GOOD_ENDS: Final = {"stored", "not_stored", "not_modified", "abandoned"}
"""Of fills. Any other is an error."""
CALLS_MAX: Final = 32
"""Requests to origins and peers that have spans of their own, of one fill: a long body may break off again and
again."""
_ADDRESS: Final = re.compile(r"[0-9a-fA-F:.]+(?:%\w+)?")
_STATUS: Final = re.compile(r"[1-5][0-9]{2}")
_PORTS: Final = {"http": 80, "https": 443}

Attributes: TypeAlias = dict[str, AttributeValue]


class Lap(Protocol):
    """A phase (:mod:`..upstream.stopwatch`)."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def started(self) -> float: ...

    @property
    def ended(self) -> float: ...

    @property
    def outcome(self) -> str: ...

    @property
    def size(self) -> int: ...


class Times:
    """Turns the monotonic clock's seconds into the spans' nanoseconds since 1970, all by one look at both clocks."""

    __slots__ = ("_offset",)

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def at(self, monotonic: float) -> int:
        return int(monotonic * 1e9) + self._offset

    def now(self) -> int:
        return time.monotonic_ns() + self._offset


class FillSpans:
    """The trace of one fill."""

    __slots__ = ("_calls", "_context", "_target", "_times", "_tracer", "_tries", "span")

    def __init__(self, tracer: Tracer, parent: Context, target: Target, times: Times) -> None:
        self._tracer, self._times, self._target = tracer, times, target
        self.span = tracer.start_span("fill", parent, attributes={"url.full": target.shown}, start_time=times.now())
        self._context = set_span_in_context(self.span, Context())
        self._calls: list[tuple[Lap, Span]] = []
        """The requests to origins and peers, as they began."""
        self._tries = 0

    def carried(self, headers: Headers, lap: Lap) -> Headers:
        """The header of a request to an origin or a peer, with the context of the span that is made for it."""
        if len(self._calls) >= CALLS_MAX:
            return with_context(headers, self._context)
        span = self._call(lap)
        self._calls.append((lap, span))
        return with_context(headers, set_span_in_context(span, Context()))

    def _call(self, lap: Lap) -> Span:
        target = self._target
        attributes: Attributes = {
            "http.request.method": "GET",
            "url.full": target.shown,
            "server.address": target.host,
            "server.port": target.port,
            "cache.source": "origin",
        }
        if lap.name == "peer":
            attributes |= {"cache.source": "peer", **_server(lap.source)}
        else:
            if self._tries:
                attributes["http.request.resend_count"] = self._tries
            self._tries += 1
        start = self._times.at(lap.started)
        return self._tracer.start_span("GET", self._context, SpanKind.CLIENT, attributes, start_time=start)

    def ended(self, outcome: str, laps: Iterable[Lap]) -> None:
        """``outcome``: as ``origin_fetches_total`` names it; empty if no source was asked."""
        source, size = "", 0
        calls, self._calls = self._calls, []
        for lap, span in calls:
            _end_call(span, lap, self._times)
        called = {id(lap) for lap, _ in calls}
        for lap in laps:
            if id(lap) not in called:
                phase(self._tracer, self._context, lap, self._times)
            if lap.name == "body":
                source, size = lap.source, size + lap.size
        self.span.set_attribute("cache.fill.outcome", outcome or "canceled")
        if source:
            self.span.set_attributes({"cache.source": source, "http.response.body.size": size})
        if outcome and outcome not in GOOD_ENDS:
            self.span.set_attribute("error.type", outcome)
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end(self._times.now())


def phase(tracer: Tracer, parent: Context, lap: Lap, times: Times) -> None:
    """A span for a phase that carries no context on."""
    attributes: Attributes = {}
    if lap.source and lap.name in ("body", "first_byte"):
        attributes["cache.source"] = lap.source
    if lap.outcome:
        attributes["cache.outcome"] = lap.outcome
    if lap.size:
        attributes["http.response.body.size"] = lap.size
    kind = SpanKind.CLIENT if lap.name == "shared" else SpanKind.INTERNAL
    span = tracer.start_span(lap.name, parent, kind, attributes, start_time=times.at(lap.started))
    span.end(times.at(max(lap.started, lap.ended)))


def _end_call(span: Span, lap: Lap, times: Times) -> None:
    outcome = lap.outcome
    if _STATUS.fullmatch(outcome):
        span.set_attribute("http.response.status_code", int(outcome))
        failed = outcome >= "400"
    elif lap.name == "peer":
        span.set_attribute("cache.peer.outcome", outcome)
        failed = outcome in ("error", "timeout")
    else:
        failed = bool(outcome)
    if failed:
        span.set_attribute("error.type", outcome)
        span.set_status(Status(StatusCode.ERROR))
    span.end(times.at(max(lap.started, lap.ended)))


class RequestSpans:
    """The trace of one client's request."""

    __slots__ = ("_context", "_linked", "_method", "_span", "_times", "_tracer", "_version")

    def __init__(
        self, tracer: Tracer, parent: Context, method: str, version: str, started: float, agent: str | None
    ) -> None:
        """``started``: by the monotonic clock. ``version``: of HTTP. ``agent``: the client's name for itself."""
        self._tracer, self._times, self._version = tracer, Times(), version
        self._method = method if method in METHODS else ""
        # Names of spans are few: the method, or HTTP where that is not a known one.
        name, start = self._method or "HTTP", self._times.at(started)
        attributes: Attributes = {"user_agent.original": brief(agent)} if agent else {}
        self._span = tracer.start_span(name, parent, SpanKind.SERVER, attributes, start_time=start)
        self._context = set_span_in_context(self._span, Context())
        self._linked: set[int] = set()

    def fill(self, target: Target) -> FillSpans:
        """It starts a fill."""
        return FillSpans(self._tracer, self._context, target, self._times)

    def shares(self, fill: FillSpans) -> None:
        """It waits for a fill that another one has started."""
        context = fill.span.get_span_context()
        if context.span_id not in self._linked:
            self._linked.add(context.span_id)
            self._span.add_link(context, {"cache.link": "fill"})

    def phases(self, laps: Iterable[Lap]) -> None:
        """What it went through that is in no span of a fill."""
        for lap in laps:
            phase(self._tracer, self._context, lap, self._times)

    def ended(
        self, method: str, url: str, status: int, size: int, source: str, client: str, *, queued: float = 0.0,
        note: str = "", words: str = "",
    ) -> None:  # fmt: skip
        """In the words of the access log (docs/access-log.md). ``url``: redacted; ``words``: ``key=value`` pairs."""
        said = dict(word.split("=", 1) for word in words.split())
        error, span = said.pop("error", ""), self._span
        attributes: Attributes = {
            "http.request.method": self._method or "_OTHER",
            "network.protocol.name": "http",
            "network.protocol.version": self._version,
            "http.response.body.size": size,
            "cache.served_from": source,
            "cache.hit": source == "hit",
            **_url(url, is_tunnel=method == "CONNECT"),
            **{f"cache.{key}": value for key, value in said.items()},
        }
        if not self._method:
            attributes["http.request.method_original"] = brief(method, 32)
        if client and client != "-":
            attributes["client.address" if _ADDRESS.fullmatch(client) else "user.name"] = client
        if queued:
            attributes["cache.queued"] = round(queued, 6)
        if status != NO_STATUS:
            attributes["http.response.status_code"] = status
        elif not error:
            error = "client_disconnected"
        is_bad = status >= 500 or said.get("cut") in ("origin", "proxy")
        if error or is_bad:
            attributes["error.type"] = error or (str(status) if status >= 500 else "cut")
        if is_bad:
            span.set_status(Status(StatusCode.ERROR, brief(note) or None))
        span.set_attributes(attributes)
        span.end(self._times.now())


def with_context(headers: Headers, context: Context) -> Headers:
    """``headers`` with this context in place of the one that they may have (W3C Trace Context §3)."""
    carrier: dict[str, str] = {}
    W3C.inject(carrier, context)
    headers = headers.without("traceparent", "tracestate")
    for name, value in carrier.items():
        headers = headers.add(name, value)
    return headers


def _server(url: str) -> Attributes:
    """Host and port of a URL, as far as it has them."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return {}
    if not host:
        return {}
    return {"server.address": host, "server.port": port} if port else {"server.address": host}


def _url(url: str, *, is_tunnel: bool) -> Attributes:
    """``url``: redacted; of a tunnel, host and port."""
    if is_tunnel:
        return _server(f"//{url}")
    try:
        parts = urlsplit(url)
    except ValueError:
        return {}
    if not parts.scheme:
        return {}
    attributes: Attributes = {"url.full": url, "url.scheme": parts.scheme, "url.path": parts.path, **_server(url)}
    if parts.query:
        attributes["url.query"] = parts.query
    return attributes
