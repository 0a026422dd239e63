"""What sampled requests and fills note of themselves, and the spans that are made of that, in the words of
OpenTelemetry's semantic conventions (docs/tracing.md).

Notes are taken on the event loop, and cost little; spans are made of them by the thread that sends them. A fill's times
are its stopwatch's. Just the ids of what carries the context on are chosen at once: of a request, a fill, and each
request to an origin or a peer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import urlsplit

from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.texts import brief
from .trace_parent import TraceParent, with_context
from .trace_sampling import new_span_id

METHODS: Final = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
"""That the conventions know; any other is ``_OTHER``."""
NO_STATUS: Final = 499
"""The access log's word for a client that has left before it was sent a status."""
GOOD_ENDS: Final = {"stored", "not_stored", "not_modified", "abandoned"}
"""Of fills. Any other is an error."""
CALLS_MAX: Final = 32
"""Requests to origins and peers that have spans of their own, of one fill: a long body may break off again and
again."""
LINKS_MAX: Final = 32
_ADDRESS: Final = re.compile(r"[0-9a-fA-F:.]+(?:%\w+)?")
_STATUS: Final = re.compile(r"[1-5][0-9]{2}")
_PORTS: Final = {"http": 80, "https": 443}

Value: TypeAlias = str | bool | int | float
Attributes: TypeAlias = dict[str, Value]
Pairs: TypeAlias = tuple[tuple[str, Value], ...]


@dataclass(slots=True)
class Span:
    """One span. Times are nanoseconds since 1970."""

    trace_id: int
    id: int
    parent: int
    """0: none."""
    name: str
    kind: str
    """``server``, ``client`` or ``internal``."""
    start: int
    end: int
    attributes: Pairs
    error: str | None = None
    """If it has failed: a few words on that, perhaps none."""
    links: tuple[tuple[int, int], ...] = ()
    """Trace and span ids."""
    state: str = ""
    is_parent_remote: bool = False


class Lap(Protocol):
    """A phase (:mod:`..upstream.stopwatch`). Times are seconds of the monotonic clock."""

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


class Notes(Protocol):
    """What spans are made of."""

    def spans(self) -> Iterator[Span]: ...


class TracedRequest:
    """The notes on one client's request."""

    __slots__ = (
        "_agent", "_end", "_links", "_method", "_offset", "_parent", "_phases", "_send", "_started", "_version",
        "context",
    )  # fmt: skip

    def __init__(
        self, send: Callable[[Notes], None], trace_id: int, parent: TraceParent | None, method: str, version: str,
        started: float, agent: str | None,
    ) -> None:  # fmt: skip
        """``send`` takes the notes when they are complete. ``started``: by the monotonic clock. ``version``: of HTTP.
        ``agent``: the client's name for itself."""
        self._send, self._parent = send, parent
        flags, state = (parent.flags, parent.state) if parent is not None else (1, "")
        self.context = TraceParent(trace_id, new_span_id(), flags, state)
        self._method, self._version, self._agent, self._started = method, version, agent, started
        self._offset = time.time_ns() - time.monotonic_ns()
        """From the monotonic clock to the other one."""
        self._links: tuple[tuple[int, int], ...] = ()
        self._phases: tuple[Lap, ...] = ()
        self._end: tuple[Any, ...] = ()

    @property
    def ids(self) -> tuple[str, str]:
        """In hex."""
        return f"{self.context.trace_id:032x}", f"{self.context.span_id:016x}"

    def fill(self, target: Target) -> TracedFill:
        """It starts a fill."""
        return TracedFill(self._send, self.context, target, self._offset)

    def shares(self, fill: TracedFill) -> None:
        """It waits for a fill that another one has started."""
        link = fill.context.trace_id, fill.context.span_id
        if link not in self._links and len(self._links) < LINKS_MAX:
            self._links = (*self._links, link)

    def phases(self, laps: Iterable[Lap]) -> None:
        """What it went through that is in no trace of a fill."""
        self._phases = tuple(laps)

    def ended(
        self, method: str, url: str, status: int, size: int, source: str, client: str, *, queued: float = 0.0,
        note: str = "", words: str = "", at: float | None = None,
    ) -> None:  # fmt: skip
        """In the words of the access log (docs/access-log.md). ``url``: redacted; ``words``: ``key=value`` pairs;
        ``at``: by the monotonic clock (now)."""
        self._end = (
            time.monotonic() if at is None else at,
            queued,
            note,
            method,
            url,
            status,
            size,
            source,
            client,
            words,
        )
        self._send(self)

    def spans(self) -> Iterator[Span]:
        context, parent, offset = self.context, self._parent, self._offset
        over, queued, note, *told = self._end
        name, attributes, is_bad = _about(*told, self._version, self._agent)
        if queued:
            attributes = (*attributes, ("cache.queued", round(queued, 6)))
        yield Span(
            context.trace_id, context.span_id, parent.span_id if parent is not None else 0, name, "server",
            int(self._started * 1e9) + offset, int(over * 1e9) + offset, attributes, brief(note) if is_bad else None,
            self._links, context.state, is_parent_remote=parent is not None,
        )  # fmt: skip
        for lap in self._phases:
            yield _phase(lap, context, offset)


@lru_cache(maxsize=1024)
def _about(
    method: str, url: str, status: int, size: int, source: str, client: str, words: str, version: str,
    agent: str | None,
) -> tuple[str, Pairs, bool]:  # fmt: skip
    """The name of a request's span, its attributes, and whether it has failed. (Most hits are like others.)"""
    known = method if method in METHODS else ""
    said = dict(word.split("=", 1) for word in words.split())
    error = said.pop("error", "")
    attributes: Attributes = {
        "http.request.method": known or "_OTHER",
        "network.protocol.name": "http",
        "network.protocol.version": version,
        "http.response.body.size": size,
        "cache.served_from": source,
        "cache.hit": source == "hit",
        **(_server(f"//{url}") if method == "CONNECT" else _url(url)),
        **{f"cache.{key}": value for key, value in said.items()},
    }
    if not known:
        attributes["http.request.method_original"] = brief(method, 32)
    if client and client != "-":
        attributes["client.address" if _ADDRESS.fullmatch(client) else "user.name"] = client
    if agent:
        attributes["user_agent.original"] = brief(agent)
    if status != NO_STATUS:
        attributes["http.response.status_code"] = status
    elif not error:
        error = "client_disconnected"
    is_bad = status >= 500 or said.get("cut") in ("origin", "proxy")
    if error or is_bad:
        attributes["error.type"] = error or (str(status) if status >= 500 else "cut")
    # Names of spans are few: the method, or HTTP where that is not a known one.
    return known or "HTTP", tuple(attributes.items()), is_bad


class TracedFill:
    """The notes on one fill."""

    __slots__ = (
        "_calls",
        "_laps",
        "_offset",
        "_outcome",
        "_over",
        "_parent",
        "_send",
        "_started",
        "_target",
        "context",
    )

    def __init__(self, send: Callable[[Notes], None], parent: TraceParent, target: Target, offset: int) -> None:
        self._send, self._parent, self._target, self._offset = send, parent, target, offset
        self.context = parent._replace(span_id=new_span_id())
        self._started = time.monotonic()
        self._calls: list[tuple[Lap, int]] = []
        """The requests to origins and peers, as they began, and the ids of their spans."""
        self._laps: tuple[Lap, ...] = ()
        self._outcome, self._over = "", 0.0

    def carried(self, headers: Headers, lap: Lap) -> Headers:
        """The header of a request to an origin or a peer, with the context of the span that is made for it."""
        trace_id, span_id, flags, state = self.context
        if len(self._calls) < CALLS_MAX:
            span_id = new_span_id()
            self._calls.append((lap, span_id))
        return with_context(headers, trace_id, span_id, flags, state)

    def ended(self, outcome: str, laps: Iterable[Lap]) -> None:
        """``outcome``: as ``origin_fetches_total`` names it; empty if no source was asked."""
        self._outcome, self._laps, self._over = outcome, tuple(laps), time.monotonic()
        self._send(self)

    def spans(self) -> Iterator[Span]:
        context, offset, outcome = self.context, self._offset, self._outcome
        attributes: Attributes = {"url.full": self._target.shown, "cache.fill.outcome": outcome or "canceled"}
        called = {id(lap) for lap, _ in self._calls}
        size = 0
        for lap in self._laps:
            if id(lap) not in called:
                yield _phase(lap, context, offset)
            if lap.name == "body":
                size += lap.size
                attributes |= {"cache.source": lap.source, "http.response.body.size": size}
        tries = 0
        for lap, span_id in self._calls:
            yield self._call(lap, span_id, tries)
            tries += lap.name != "peer"
        is_bad = bool(outcome) and outcome not in GOOD_ENDS
        if is_bad:
            attributes["error.type"] = outcome
        yield Span(
            context.trace_id, context.span_id, self._parent.span_id, "fill", "internal",
            int(self._started * 1e9) + offset, int(self._over * 1e9) + offset, tuple(attributes.items()),
            "" if is_bad else None,
            state=context.state,
        )  # fmt: skip

    def _call(self, lap: Lap, span_id: int, tries: int) -> Span:
        """A request to an origin or a peer. ``tries``: how often the origin was asked before."""
        target, context, outcome = self._target, self.context, lap.outcome
        attributes: Attributes = {
            "http.request.method": "GET",
            "url.full": target.shown,
            "server.address": target.host,
            "server.port": target.port,
            "cache.source": "origin",
        }
        if lap.name == "peer":
            attributes |= {"cache.source": "peer", "cache.peer.outcome": outcome, **_server(lap.source)}
            is_bad = outcome in ("error", "timeout")
        elif _STATUS.fullmatch(outcome):
            attributes["http.response.status_code"] = int(outcome)
            is_bad = outcome >= "400"
        else:
            is_bad = bool(outcome)
        if lap.name != "peer" and tries:
            attributes["http.request.resend_count"] = tries
        if is_bad:
            attributes["error.type"] = outcome
        return Span(
            context.trace_id, span_id, context.span_id, "GET", "client", *_stretch(lap, self._offset),
            tuple(attributes.items()), "" if is_bad else None, state=context.state,
        )  # fmt: skip


def _phase(lap: Lap, parent: TraceParent, offset: int) -> Span:
    """A phase that carries no context on."""
    attributes: Attributes = {}
    if lap.source and lap.name in ("body", "first_byte"):
        attributes["cache.source"] = lap.source
    if lap.outcome:
        attributes["cache.outcome"] = lap.outcome
    if lap.size:
        attributes["http.response.body.size"] = lap.size
    kind = "client" if lap.name == "shared" else "internal"
    start, end = _stretch(lap, offset)
    return Span(
        parent.trace_id,
        new_span_id(),
        parent.span_id,
        lap.name,
        kind,
        start,
        end,
        tuple(attributes.items()),
        state=parent.state,
    )


def _stretch(lap: Lap, offset: int) -> tuple[int, int]:
    return int(lap.started * 1e9) + offset, int(max(lap.started, lap.ended) * 1e9) + offset


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


def _url(url: str) -> Attributes:
    """``url``: redacted."""
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
