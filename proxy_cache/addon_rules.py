"""Rules of the operator, in mitmproxy's filter expressions, and what they come to for one flow.

A rule may look at the response too (``~c 404``), which is not there before the origin has answered: so the cache gets
a function to ask, and what it asks about is a flow of its own that is made for the question.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mitmproxy import exceptions, flowfilter, http

from .semantics.directives import MAX_DELTA
from .semantics.headers import Headers
from .semantics.policy import BY_THE_BOOK, Policy, TtlRule
from .semantics.storing import RULED

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_DURATION = re.compile(r"([0-9]{1,10})([smhdwy]?)")
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
class Rules:
    """All rules, parsed."""

    ttl: tuple[TtlSpec, ...] = ()
    ignore_directives: flowfilter.TFilter | None = None
    ignore_authorization: flowfilter.TFilter | None = None
    key_ignores: tuple[KeySpec, ...] = ()
    base: Policy = BY_THE_BOOK
    """For requests that no rule speaks of."""

    @property
    def are_none(self) -> bool:
        return not (self.ttl or self.ignore_directives or self.ignore_authorization or self.key_ignores)

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
        tuple(_ttl(spec) for spec in options.cache_ttl if spec.strip()),
        _filter("cache_ignore_request_directives", options.cache_ignore_request_directives),
        _filter("cache_ignore_authorization", options.cache_ignore_authorization),
        tuple(_key(spec) for spec in options.cache_key_ignore_query if spec.strip()),
        Policy(
            targeted=tuple(_targeted_fields(options.cache_targeted_fields)),
            credentials=frozenset(
                _field_names("cache_credential_fields", options.cache_credential_fields, "a field such as X-Key")
            ),
        ),
    )


def _ttl(spec: str) -> TtlSpec:
    example = "use /filter/time or /filter/time/force, such as '/~d packages.example/30d'"
    separator, parts = _split("cache_ttl", spec, example)
    force = len(parts) > 1 and parts[-1].strip() == "force"
    if force:
        parts.pop()
    match = _DURATION.fullmatch(parts.pop().strip())
    if match is None:
        raise exceptions.OptionsError(
            f"cache_ttl: {spec!r} has no time such as 90, 10m, 12h, 30d at its end; {example}"
        )
    seconds = min(int(match[1]) * UNITS[match[2] or "s"], MAX_DELTA)
    text = separator.join(parts).strip()
    parsed = flowfilter.match_all if not text else _filter("cache_ttl", text)
    assert parsed is not None
    return TtlSpec(parsed, TtlRule(seconds, force), _names_status(parsed))


def _key(spec: str) -> KeySpec:
    separator, parts = _split(
        "cache_key_ignore_query", spec, "use /filter/parameters, such as '/~d objects.example/X-Amz-*'"
    )
    patterns = tuple(filter(None, _BETWEEN.split(parts.pop())))
    if not patterns or not parts or "*" in patterns:
        raise exceptions.OptionsError(
            f"cache_key_ignore_query: {spec!r} has to name query parameters that only sign, such as X-Amz-*, at its end"
        )
    parsed = _filter("cache_key_ignore_query", separator.join(parts)) or flowfilter.match_all
    return KeySpec(parsed, patterns)


def _split(option: str, spec: str, example: str) -> tuple[str, list[str]]:
    """The first character separates, whatever it is. The end is what counts, so that a filter may have it in a path."""
    if len(spec) < 2 or spec[0].isalnum() or spec[0].isspace():
        raise exceptions.OptionsError(f"{option}: {spec!r} is no rule; {example}")
    return spec[0], spec[1:].split(spec[0])


def _filter(name: str, text: str) -> flowfilter.TFilter | None:
    if not text.strip():
        return None
    try:
        return flowfilter.parse(text)
    except ValueError as error:
        raise exceptions.OptionsError(f"{name}: {text!r} is no filter expression: {error}") from error


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
