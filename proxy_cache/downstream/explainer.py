"""What would become of a request at the door, and behind it: read-only, for operators who ask (``/api/v1/explain``).

The door (:class:`.admission.Admission`) says where a request goes, :mod:`..caching.explain` what the cache would do.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..caching.answers import Exchange
from ..caching.cache import Cache
from ..caching.explain import (
    BYPASS,
    OWN,
    REFUSED,
    TUNNEL,
    Explanation,
    explain_get,
    explain_head,
    explanation_of,
)
from ..caching.explained_entries import iso
from ..caching.limiter import OriginLimiter
from ..caching.recent_reasons import Reason
from ..caching.sentences import BYPASSED, Sentence, told
from ..semantics.directives import TOKEN
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.methods import hops_left, is_safe
from ..semantics.redaction import for_log, redacted
from ..semantics.targets import TargetError, absolute
from ..settings import Settings, is_one_of
from ..store.entry import KEY_MAX
from ..upstream.destinations import Denial
from ..wire.requests import repeatable
from .admission import Admission, Route
from .users import Users

URL_MAX: Final = KEY_MAX
"""Characters of a URL that is asked about, and of a field: what is behind longer URLs isn't stored."""
HEADERS_MAX: Final = 100
"""Fields of a request that is asked about."""
METHOD_MAX: Final = 32
"""Characters of a method."""
_TOKEN: Final = re.compile(TOKEN)
_NOT_IN_VALUE: Final = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_NOT_IN_URL: Final = re.compile(r"[\x00-\x20\x7f]")


class BadQuestion(ValueError):
    """What is asked makes no request. ``parameter``: which part of it; the text says why."""

    def __init__(self, parameter: str, why: str) -> None:
        super().__init__(f"{parameter}: {why}")
        self.parameter = parameter


class NotReady(Exception):
    """The cache is not open."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request that somebody asks about. Made by :meth:`of`."""

    method: str
    target: Target
    headers: Headers
    """As the client would send them."""

    @classmethod
    def of(cls, url: str, headers: Sequence[str] = (), method: str = "GET") -> Question:
        """``headers``: lines such as ``Accept: text/html``. Raises :class:`BadQuestion`."""
        if len(method) > METHOD_MAX or _TOKEN.fullmatch(method) is None:
            raise BadQuestion("method", "no method of HTTP")
        if len(url) > URL_MAX:
            raise BadQuestion("url", f"more than {URL_MAX} characters")
        if _NOT_IN_URL.search(url):
            raise BadQuestion("url", "a space or a control character, which no request has there")
        try:
            target = absolute(url, method)
        except TargetError as error:
            raise BadQuestion("url", f"{error}; such as http://packages.example/tool.deb") from None
        if len(headers) > HEADERS_MAX:
            raise BadQuestion("header", f"more than {HEADERS_MAX} fields")
        return cls(method, target, Headers(map(_field, headers)))

    @property
    def has_body(self) -> bool:
        """RFC 9112 §6.3."""
        headers = self.headers
        return "transfer-encoding" in headers or (headers.get("content-length") or "0").strip() != "0"


def _field(line: str) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(":")
    if not colon or _TOKEN.fullmatch(name) is None:
        raise BadQuestion("header", f"{line[:60]!r} is no field such as 'Accept: text/html'")
    if len(line) > URL_MAX or _NOT_IN_VALUE.search(value):
        raise BadQuestion("header", f"{name[:60]!r} has a value that no request can have")
    return name.encode("ascii"), value.strip(" \t").encode("latin-1")


class Explainer:
    """One per proxy. ``cache()``: the cache, if it is open; ``home(key)``: the peer that is the home of a key, if that
    is another one."""

    def __init__(
        self, via: str, admission: Admission, limiter: OriginLimiter, users: Users, cache: Callable[[], Cache | None],
        home: Callable[[str], str | None],
    ) -> None:  # fmt: skip
        self._via = via
        self._admission = admission
        self._limiter = limiter
        self._users = users
        self._cache = cache
        self._home = home
        self.flow_for: Callable[[Target, bytes, Headers], Any] = lambda target, method, headers: None
        """Makes what filters of rules are asked about, where the target doesn't decide."""

    async def explain(self, question: Question) -> dict[str, Any]:
        """The answer, as JSON. Raises :class:`NotReady`."""
        cache, settings = self._cache(), self._admission.settings
        if cache is None or settings is None:
            raise NotReady
        exchange = self._exchange(question, settings)
        if not cache.store.is_loaded(exchange.key):
            await cache.store.load(exchange.key)
        return _as_json(question, exchange, self._explanation(question, exchange, cache, settings))

    def _exchange(self, question: Question, settings: Settings) -> Exchange:
        """As it would be made of the request. Only a GET and a HEAD have rules of their own."""
        method = b"HEAD" if question.method == "HEAD" else b"GET"
        policy = settings.rules.policy_of(
            question.target, method, lambda named: self.flow_for(question.target, named, question.headers)
        )
        headers = repeatable(question.headers).add("Via", f"1.1 {self._via}")
        return Exchange(question.target, headers, "explain", policy)

    def _explanation(self, question: Question, exchange: Exchange, cache: Cache, settings: Settings) -> Explanation:
        target, headers = question.target, question.headers
        before: list[Sentence] = [_USERS] if self._users.is_on else []
        if question.method == "CONNECT" or self._is_in_a_tunnel(target, settings):
            if (tunnel := self._connect(question, exchange, cache, settings)) is not None:
                tunnel.sentences[:0] = before
                return tunnel
            before.append(
                Sentence("The host is one of intercept_hosts: TLS ends in this proxy, and what is inside is cached.")
            )
        route = self._admission.route(
            question.method, target, headers.get_all("via"), plain="upgrade" not in headers and not question.has_body,
            hops=hops_left(question.method, headers.get("max-forwards") or ""),
        )  # fmt: skip
        match route:
            case Route.CACHE:
                found = explain_get(cache, self._limiter, exchange, self._home)
            case Route.CACHED_HEAD:
                found = explain_head(cache, exchange)
            case _:
                found = explanation_of(cache, exchange, time.time())
                found.verdict, found.fwd = REFUSED, "bypass"
                self._not_for_the_cache(found, question, route)
        found.sentences[:0] = before
        return found

    @staticmethod
    def _is_in_a_tunnel(target: Target, settings: Settings) -> bool:
        """Whether clients can only ask for it by a CONNECT: an https URL, unless this proxy stands in for the
        origin (reverse mode)."""
        return target.scheme == "https" and (target.host, target.port) not in settings.destinations.origins

    def _connect(self, question: Question, exchange: Exchange, cache: Cache, settings: Settings) -> Explanation | None:
        """What becomes of the CONNECT; ``None`` if it is intercepted, and the request within is to be looked at."""
        target = question.target
        route = self._admission.route_connect(target.host, target.port)
        is_intercepted = is_one_of(settings.intercept.hosts, target.host.removesuffix("."), target.port)
        if route is Route.TUNNEL and is_intercepted and question.method != "CONNECT":
            return None
        found = explanation_of(cache, exchange, time.time())
        found.verdict, found.fwd = TUNNEL, "method"
        if route is Route.DENIED:
            denial = self._admission.access.refuses_connect(target.host, target.port)
            found.verdict, found.status, found.fwd = REFUSED, 403, "bypass"
            found.sentences.append(_denied(denial))
        elif route is not Route.TUNNEL:
            found.verdict, found.status, found.fwd = REFUSED, 503, "bypass"
            found.sentences.append(_UNAVAILABLE)
        elif is_intercepted:
            found.sentences.append(
                Sentence("The CONNECT is answered here, and TLS ends in this proxy: intercept_hosts has the host.")
            )
        else:
            found.sentences.append(
                Sentence(
                    "The CONNECT is a tunnel: what is inside is seen by nobody, and not cached. (intercept_hosts would "
                    "end TLS here.)",
                    "RFC 9110 §9.3.6",
                )
            )
        return found

    def _not_for_the_cache(self, found: Explanation, question: Question, route: Route) -> None:
        target, method = question.target, question.method
        match route:
            case Route.FORWARD:
                found.verdict = BYPASS
                why = self._admission.why_forwarded(method, target)
                found.fwd = "method" if why == "method" else "bypass"
                found.sentences.append(BYPASSED[why].of(method=method))
                if why == "method" and not is_safe(method):
                    found.sentences.append(
                        Sentence("If it succeeds (2xx, 3xx) what is stored for the URL is dropped.", "RFC 9111 §4.4")
                    )
            case Route.NO_FURTHER:
                found.verdict, found.status, found.fwd = OWN, 200, ""
                found.sentences.append(Sentence("Max-Forwards is 0: it is answered here.", "RFC 9110 §7.6.2"))
            case Route.PURGE:
                found.verdict, found.fwd = OWN, ""
                found.sentences.append(
                    Sentence("PURGE is answered here: it drops what is stored, with a token of admin_token_file.")
                )
            case Route.LOOP:
                found.status = 502
                found.sentences.append(
                    Sentence("Via says that it has been here before: 502, it would go round.", "RFC 9110 §7.6.3")
                )
            case Route.DENIED:
                found.status = 403
                found.sentences.append(_denied(self._admission.access.refuses(target)))
            case Route.UNAVAILABLE:
                found.status = 503
                found.sentences.append(_UNAVAILABLE)


_USERS: Final = Sentence("Clients have to say who they are (proxyauth): 407 otherwise.", "RFC 9110 §15.5.8")
_UNAVAILABLE: Final = Sentence("The proxy is starting, or stopping: 503.", "RFC 9110 §15.6.4")


def _denied(denial: Denial | None) -> Sentence:
    """For the operator, who may know the rule and the address."""
    found = denial or Denial("rule", "http_request_denied", "by rules of a moment ago")
    return Sentence(f"403: {found.detail} ({found.why}).", "RFC 9209 §2.3")


def _as_json(question: Question, exchange: Exchange, found: Explanation) -> dict[str, Any]:
    now = time.time()
    not_stored = found.not_stored
    return {
        "url": redacted(question.target.url),
        "key": redacted(exchange.key),
        "method": question.method,
        "verdict": found.verdict,
        "status": found.status,
        "fwd": found.fwd or None,
        "sentences": [sentence.to_json() for sentence in found.sentences],
        "stored": [entry.to_json(now) for entry in found.stored],
        "not_stored": _reason(not_stored) if not_stored is not None else None,
        "recent": [_reason(reason) for reason in found.recent],
    }


def _reason(reason: Reason) -> dict[str, Any]:
    return {
        "kind": reason.kind,
        "reason": reason.word,
        **told(reason).to_json(),
        "status": reason.status,
        "detail": for_log(reason.detail) or None,
        "at": iso(reason.at),
        "times": reason.times,
    }
