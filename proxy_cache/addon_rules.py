"""Rules of the operator, in mitmproxy's filter expressions, and what they come to for one flow.

A rule may look at the response too (``~c 404``), which is not there before the origin has answered: so the cache gets
a function to ask, and what it asks about is a flow of its own that is made for the question.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mitmproxy import exceptions, flowfilter, http

from .addon_rule_syntax import each_once, parsed, split, timed
from .semantics.headers import Headers
from .semantics.policy import BY_THE_BOOK, Policy, TtlRule
from .semantics.storing import RULED

_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
_BETWEEN = re.compile(r"[,\s]+")


@dataclass(frozen=True, slots=True)
class TtlSpec:
    """One ``/filter/30d`` or ``/filter/30d/force``."""

    filter: flowfilter.TFilter
    rule: TtlRule
    names_status: bool
    """Whether the filter has a ``~c``: it decides about error statuses as well."""


@dataclass(frozen=True, slots=True)
class KeySpec:
    """One ``/filter/X-Amz-*``: query parameters that are left out of the key."""

    filter: flowfilter.TFilter
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """One ``/filter/2m``: how long these requests may queue, in seconds."""

    filter: flowfilter.TFilter
    seconds: int


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules, parsed."""

    ttl: tuple[TtlSpec, ...] = ()
    ignore_directives: flowfilter.TFilter | None = None
    ignore_authorization: flowfilter.TFilter | None = None
    key_ignores: tuple[KeySpec, ...] = ()
    queue: tuple[QueueSpec, ...] = ()
    base: Policy = BY_THE_BOOK
    """For requests that no rule speaks of."""

    @property
    def are_none(self) -> bool:
        return not (self.ttl or self.ignore_directives or self.ignore_authorization or self.key_ignores or self.queue)

    def policy_for(self, flow: http.HTTPFlow) -> Policy:
        """What applies to this request and to its response."""
        if self.are_none:
            return self.base
        return Policy(
            self.base.targeted,
            self.ignore_directives is not None and bool(flowfilter.match(self.ignore_directives, flow)),
            self.ignore_authorization is not None and bool(flowfilter.match(self.ignore_authorization, flow)),
            self._ttl_for(flow) if self.ttl else None,
            next((spec.patterns for spec in self.key_ignores if flowfilter.match(spec.filter, flow)), ()),
            self.base.credentials,
            patience=next((spec.seconds for spec in self.queue if flowfilter.match(spec.filter, flow)), None),
        )

    def _ttl_for(self, flow: http.HTTPFlow) -> Callable[[int, Headers], TtlRule | None]:
        def rule_for(status: int, headers: Headers) -> TtlRule | None:
            probe = http.HTTPFlow(flow.client_conn, flow.server_conn)
            probe.request = flow.request
            probe.response = http.Response(
                b"HTTP/1.1", status, b"", http.Headers(headers.fields), None, None, time.time(), None
            )
            for spec in self.ttl:
                if (spec.names_status or status in RULED) and flowfilter.match(spec.filter, probe):
                    return spec.rule
            return None

        return rule_for


def parse(options: Any) -> Rules:
    """From mitmproxy's options. Raises ``OptionsError`` with one line that names the option and the reason."""
    return Rules(
        _ttls(options.cache_ttl),
        parsed("cache_ignore_request_directives", options.cache_ignore_request_directives),
        parsed("cache_ignore_authorization", options.cache_ignore_authorization),
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


def _ttls(specs: Sequence[str]) -> tuple[TtlSpec, ...]:
    example = "use /filter/time or /filter/time/force, such as '/~d packages.example/30d'"
    specs = _there(specs)
    rules = [timed("cache_ttl", spec, example, force=True, response=True) for spec in specs]
    each_once("cache_ttl", [(rule.text, spec) for rule, spec in zip(rules, specs, strict=True)])
    return tuple(TtlSpec(rule.filter, TtlRule(rule.seconds, rule.forced), _names_status(rule.filter)) for rule in rules)


def _queue(specs: Sequence[str]) -> tuple[QueueSpec, ...]:
    example = "use /filter/time, such as '/~d packages.example/2m'"
    specs = _there(specs)
    rules = [timed("cache_queue_timeout", spec, example) for spec in specs]
    each_once("cache_queue_timeout", [(rule.text, spec) for rule, spec in zip(rules, specs, strict=True)])
    return tuple(QueueSpec(rule.filter, rule.seconds) for rule in rules)


def _keys(specs: Sequence[str]) -> tuple[KeySpec, ...]:
    specs = _there(specs)
    rules = [_key(spec) for spec in specs]
    each_once("cache_key_ignore_query", [(rule.filter.pattern, spec) for rule, spec in zip(rules, specs, strict=True)])
    return tuple(rules)


def _key(spec: str) -> KeySpec:
    option, example = "cache_key_ignore_query", "use /filter/parameters, such as '/~d objects.example/X-Amz-*'"
    separator, parts = split(option, spec, example)
    patterns = tuple(filter(None, _BETWEEN.split(parts.pop())))
    if not parts:
        raise exceptions.OptionsError(
            f"{option}: {spec!r} has no further {separator!r} before the query parameters; {example}"
        )
    if not patterns or "*" in patterns:
        raise exceptions.OptionsError(
            f"{option}: {spec!r} has to name query parameters that only sign, such as X-Amz-*, at its end"
        )
    return KeySpec(parsed(option, separator.join(parts).strip()) or flowfilter.match_all, patterns)


def _names_status(part: Any) -> bool:
    if isinstance(part, flowfilter.FCode):
        return True
    inner = getattr(part, "lst", None) or [getattr(part, "itm", None)]
    return any(_names_status(one) for one in inner if one is not None)


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
