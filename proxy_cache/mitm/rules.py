"""Rules of the operator, in mitmproxy's filter expressions, and the policy that they give one request.

What the rules say of a target is worked out once and remembered (see :mod:`.filters`). Only rules that look at
more than the target, such as a header, are asked again for each request, and those that look at the response (which
``cache_ttl`` alone may) when there is one.

To add a rule: a field of :class:`Policy` for what it sets; here a field of :class:`Rules`, read in :func:`parse`, named
in :attr:`Rules.specs`, sorted out in :meth:`Rules._may_match`, and passed to :func:`_first` in :meth:`Rules._settled`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeVar

from mitmproxy import exceptions, flowfilter, http

from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.policy import BY_THE_BOOK, Policy, TtlRule
from ..semantics.storing import RULED
from .filters import SOME_RESPONSE, Facts, Filter, by_its_target
from .rule_syntax import each_once, parsed, split, timed

_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
_BETWEEN = re.compile(r"[,\s]+")
_NOT_IN_PARAMETERS = re.compile(r"^\?(?!$)|[=&;|#/]")
"""Characters around a parameter's name in a URL. (Elsewhere ``?`` is any character.)"""
_METHODS = (b"GET", b"HEAD")

MAX_REMEMBERED: Final = 10_000
"""Hosts, and URLs, whose policies are remembered."""
MAX_REMEMBERED_LENGTH: Final = 1024
"""Characters of the longest URL that is: clients may make up any number of any length."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spec(Generic[T]):
    """One rule: a filter for requests, and a value for those that match."""

    filter: Filter
    value: T


class _TakesMore(Exception):
    """It takes more facts to decide."""


def _make_room(known: dict[str, Any]) -> None:
    if len(known) >= MAX_REMEMBERED:
        known.clear()


@dataclass(frozen=True)
class Rules:
    """All rules, parsed. Of each kind the first one that matches counts."""

    ttl: tuple[Spec[TtlRule], ...] = ()
    ignore_directives: tuple[Spec[bool], ...] = ()
    ignore_authorization: tuple[Spec[bool], ...] = ()
    key_ignores: tuple[Spec[tuple[str, ...]], ...] = ()
    queue: tuple[Spec[int | None], ...] = ()
    """Seconds that requests may queue."""
    base: Policy = BY_THE_BOOK
    """For requests that no rule speaks of."""
    are_none: bool = field(init=False)
    ask_clients: bool = field(init=False)
    """Whether two clients that send the same bytes may have different policies."""
    _known: dict[str, Policy] = field(init=False, repr=False, compare=False)
    """Policies of GETs, by their URLs, or by host and port where these say it all. Nothing has to be forgotten: when an
    option changes there are new rules, which know nothing yet."""
    _left: dict[str, Rules] = field(init=False, repr=False, compare=False)
    """By host and port: the rules that may match some URL there. Mostly they are few."""

    def __post_init__(self) -> None:
        filters = [spec.filter for spec in self.specs]
        for name, value in (
            ("are_none", not filters),
            ("ask_clients", any(one.asks_client for one in filters)),
            ("_known", {}),
            ("_left", {}),
        ):
            object.__setattr__(self, name, value)

    @property
    def remembered(self) -> int:
        """How many policies are remembered, at most ``MAX_REMEMBERED``."""
        return len(self._known)

    @property
    def specs(self) -> tuple[Spec[Any], ...]:
        """Of all kinds."""
        return (*self.ttl, *self.ignore_directives, *self.ignore_authorization, *self.key_ignores, *self.queue)

    def policy(self, target: Target, method: bytes, flow: Callable[[], http.HTTPFlow]) -> Policy:
        """The policy for a request for ``target``, and for its response. ``flow`` makes the flow that filters are asked
        about, if one of them needs it."""
        if self.are_none:
            return self.base
        if method != b"GET":
            return self._for_url(Facts.of(target, method), flow)[0]
        known = self._known.get(target.authority) or self._known.get(target.url)
        if known is not None:
            return known
        left = self._left.get(target.authority)
        if left is None:
            facts = Facts.of_host(target, method)
            left = self._may_match(facts)
            try:
                return self._remember(target.authority, left._settled(facts, None))
            except _TakesMore:
                if len(target.authority) <= MAX_REMEMBERED_LENGTH:
                    _make_room(self._left)
                    self._left[target.authority] = left
        policy, is_for_all = left._for_url(Facts.of(target, method), flow)
        return self._remember(target.url, policy) if is_for_all else policy

    def _for_url(self, facts: Facts, flow: Callable[[], http.HTTPFlow]) -> tuple[Policy, bool]:
        """The policy, and whether it is the same for all requests for this URL."""
        try:
            return self._settled(facts, None), True
        except _TakesMore:
            return self._settled(facts, flow()), False

    def _remember(self, by: str, policy: Policy) -> Policy:
        if len(by) <= MAX_REMEMBERED_LENGTH:
            _make_room(self._known)
            self._known[by] = policy
        return policy

    def _may_match(self, facts: Facts) -> Rules:
        """Without those that don't, whatever is asked of this host, and answered."""
        coming = facts.answered(SOME_RESPONSE)

        def some(specs: tuple[Spec[T], ...], facts: Facts = facts) -> tuple[Spec[T], ...]:
            return tuple(spec for spec in specs if spec.filter.check(facts) is not False)

        return Rules(
            some(self.ttl, coming),
            some(self.ignore_directives),
            some(self.ignore_authorization),
            some(self.key_ignores),
            some(self.queue),
            self.base,
        )

    @property
    def ignored_parameters(self) -> tuple[tuple[str, ...], ...]:
        """See :class:`~..settings.Rules`."""
        return tuple(spec.value for spec in self.key_ignores)

    def policy_for(self, flow: http.HTTPFlow, method: bytes | None = None) -> Policy:
        """The same for a flow, as if it had this ``method``. A HEAD is about what GETs store: it has their key and
        lifetime, and rules of its own for its own fields."""
        request = flow.request
        target = Target.of(request.scheme, request.host, request.port, request.path)
        return self.policy_of(target, method or request.data.method, lambda named: by_its_target(flow, target, named))

    def policy_of(self, target: Target, method: bytes, flow: Callable[[bytes], http.HTTPFlow]) -> Policy:
        """The same for a target. ``flow`` makes the flow with a method that filters are asked about."""
        policy = self.policy(target, method, lambda: flow(method))
        if method != b"HEAD" or self.are_none:
            return policy
        return replace(
            self.policy(target, b"GET", lambda: flow(b"GET")),
            ignore_directives=policy.ignore_directives,
            ignore_authorization=policy.ignore_authorization,
        )

    def _settled(self, facts: Facts, flow: http.HTTPFlow | None) -> Policy:
        """Raises :class:`_TakesMore` if it takes a ``flow`` to tell, or the URL if ``facts`` are without."""
        return Policy(
            self.base.targeted,
            _first(self.ignore_directives, facts, flow, otherwise=False),
            _first(self.ignore_authorization, facts, flow, otherwise=False),
            self._ttl(facts, flow),
            _first(self.key_ignores, facts, flow, otherwise=()),
            self.base.credentials,
            patience=_first(self.queue, facts, flow, otherwise=None),
        )

    def _ttl(self, facts: Facts, flow: http.HTTPFlow | None) -> TtlRules | None:
        coming = facts.answered(SOME_RESPONSE)
        answers = [(spec, spec.filter.check(coming)) for spec in self.ttl]
        left = tuple(spec for spec, answer in answers if answer is not False)
        for spec, answer in answers:
            takes_more = (spec.filter.needs_flow and flow is None) or (spec.filter.uses_url and facts.url is None)
            if answer is None and takes_more:
                raise _TakesMore
        return TtlRules(left, facts, flow) if left else None


def _first(specs: tuple[Spec[T], ...], facts: Facts, flow: http.HTTPFlow | None, *, otherwise: T) -> T:
    """The value of the first rule that matches this request."""
    for spec in specs:
        answer = spec.filter.check(facts)
        if answer is None:
            if flow is None:
                raise _TakesMore
            answer = spec.filter.matches(flow)
        if answer:
            return spec.value
    return otherwise


@dataclass(slots=True, eq=False)
class TtlRules:
    """Those of ``cache_ttl`` that may match the response to one request, whatever it will be. ``flow``: of the request,
    if one of them has to see it."""

    specs: tuple[Spec[TtlRule], ...]
    facts: Facts
    flow: http.HTTPFlow | None

    def __call__(self, status: int, headers: Headers) -> TtlRule | None:
        facts = self.facts.answered(status)
        answered: http.HTTPFlow | None = None
        for spec in self.specs:
            if not spec.filter.names_status and status not in RULED:
                continue  # a rule is about errors only if it says so
            answer = spec.filter.check(facts)
            if answer is None:
                answered = answered or self._answered(status, headers)
                answer = spec.filter.matches(answered)
            if answer:
                return spec.value
        return None

    def _answered(self, status: int, headers: Headers) -> http.HTTPFlow:
        """The request with this response: it goes to filters, and nowhere else."""
        asked = self.flow
        assert asked is not None
        flow = http.HTTPFlow(asked.client_conn, asked.server_conn)
        flow.request, flow.metadata = asked.request, asked.metadata
        flow.marked, flow.comment, flow.is_replay = asked.marked, asked.comment, asked.is_replay
        flow.response = http.Response(
            b"HTTP/1.1", status, b"", http.Headers(headers.fields), None, None, time.time(), None
        )
        return flow


def parse(options: Any) -> Rules:
    """From mitmproxy's options. Raises ``OptionsError`` with one line that names the option and the reason."""
    return Rules(
        _ttls(options.cache_ttl),
        _flag("cache_ignore_request_directives", options.cache_ignore_request_directives),
        _flag("cache_ignore_authorization", options.cache_ignore_authorization),
        _keys(options.cache_key_ignore_query),
        _queue(options.cache_queue_timeout),
        Policy(
            targeted=tuple(_targeted_fields(options.cache_targeted_fields)),
            credentials=frozenset(
                _field_names("cache_credential_fields", options.cache_credential_fields, "a field such as X-Key")
            ),
        ),
    )


def _there(specs: Sequence[str]) -> list[str]:
    """``--set cache_ttl=`` means that there are none."""
    return [spec for spec in specs if spec.strip()]


def _ttls(specs: Sequence[str]) -> tuple[Spec[TtlRule], ...]:
    example = "use /filter/time or /filter/time/force, such as '/~d packages.example/30d'"
    specs = _there(specs)
    rules = [timed("cache_ttl", spec, example, force=True, response=True) for spec in specs]
    each_once("cache_ttl", [(rule.text, spec) for rule, spec in zip(rules, specs, strict=True)])
    return tuple(Spec(Filter.of(rule.filter), TtlRule(rule.seconds, rule.forced)) for rule in rules)


def _queue(specs: Sequence[str]) -> tuple[Spec[int | None], ...]:
    example = "use /filter/time, such as '/~d packages.example/2m'"
    specs = _there(specs)
    rules = [timed("cache_queue_timeout", spec, example) for spec in specs]
    each_once("cache_queue_timeout", [(rule.text, spec) for rule, spec in zip(rules, specs, strict=True)])
    return tuple(Spec(Filter.of(rule.filter), rule.seconds) for rule in rules)


def _keys(specs: Sequence[str]) -> tuple[Spec[tuple[str, ...]], ...]:
    specs = _there(specs)
    rules = [_key(spec) for spec in specs]
    each_once(
        "cache_key_ignore_query",
        [(rule.filter.expression.pattern, spec) for rule, spec in zip(rules, specs, strict=True)],
    )
    return tuple(rules)


def _key(spec: str) -> Spec[tuple[str, ...]]:
    option, example = "cache_key_ignore_query", "use /filter/parameters, such as '/~d objects.example/X-Amz-*'"
    separator, parts = split(option, spec, example)
    patterns = tuple(filter(None, _BETWEEN.split(parts.pop())))
    if not parts:
        raise exceptions.OptionsError(
            f"{option}: {spec!r} has no further {separator!r} before the query parameters; {example}"
        )
    for pattern in patterns:
        if odd := _NOT_IN_PARAMETERS.search(pattern):
            raise exceptions.OptionsError(
                f"{option}: {spec!r} has a {odd[0]!r} that is no part of a query parameter's name; {example}"
            )
    if not patterns or not all(pattern.strip("*?") for pattern in patterns):
        raise exceptions.OptionsError(
            f"{option}: {spec!r} has to name query parameters that only sign, such as X-Amz-*, at its end"
        )
    found = parsed(option, separator.join(parts).strip()) or flowfilter.match_all
    return Spec(Filter.of(found), patterns)


def _flag(option: str, text: str) -> tuple[Spec[bool], ...]:
    """Of an option that is nothing but a filter; an empty one matches nothing."""
    found = parsed(option, text, methods=_METHODS)
    return (Spec(Filter.of(found), True),) if found is not None else ()


def _targeted_fields(values: Iterable[str]) -> Iterable[str]:
    option, what = "cache_targeted_fields", "a targeted field such as CDN-Cache-Control"
    for name in _field_names(option, values, what):
        if name == "cache-control":
            raise exceptions.OptionsError(
                f"{option}: {name!r} is no name of a targeted field such as CDN-Cache-Control"
            )
        yield name


def _field_names(option: str, values: Iterable[str], what: str) -> Iterable[str]:
    for value in values:
        for name in filter(None, _BETWEEN.split(value)):
            if _FIELD_NAME.fullmatch(name) is None:
                raise exceptions.OptionsError(f"{option}: {name!r} is no name of {what}")
            yield name.lower()
