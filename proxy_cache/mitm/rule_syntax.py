"""The syntax of an operator's rules: ``/filter/end``, where the first character separates.

A rule that can never apply is as wrong as one that can't be parsed, and harder to notice: a filter that looks at what
isn't there when the rule is asked (the response of a request that has not been sent), a host with a path, the words of
the end in the wrong order. Each of these is refused with one line. So is a rule that applies everywhere without saying
so: in ``~d a|~u /x/`` the first ``|`` belongs to the word before it, and ``a|`` matches everything.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from mitmproxy import exceptions, flowfilter

from ..semantics.directives import MAX_DELTA
from ..semantics.storing import is_never_stored
from .compat import FILTERS
from .compat import NODES as nodes

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
TIMES = "90, 10m, 12h, 30d"
_DURATION = re.compile(r"([0-9]{1,10})([smhdwy]?)")
_BEGINS_A_FILTER = frozenset("~(\"'\\.^$[]*?+{}<>")
"""A rule that begins with one of these has no separator: its filter is where the separator should be."""
_ENDS_IN_FORCE = re.compile(r"(?:^|[/|!:;,#@+=%&])\s*force\s*$")
_HOST_AND_PORT = re.compile(r"[^:\]g-z_.-]*+[g-z_.-][^:\]]*+:[0-9]+\$?", re.IGNORECASE)
_GLUED = re.compile(r"\A[&|]|(?<!\\)(?:[&|]!*|!)\Z")
"""The ends of a word where a space is missing: mitmproxy ends it at white space, brackets and quotes."""
_GLUED_WITHIN = re.compile(r"[^\s()'\"&|!][&|]!*[~(]")
_OUTSIDE_OF_HOSTS = re.compile(r"[&,;!=@\s]")
_REGEX_SYNTAX = re.compile(r"\{\d*,\d*\}|\(\?<?[!=]")
_EVERYTHING = frozenset({".*", "^.*", ".*$", "^.*$"})
"""Nobody writes these by mistake."""
_WHOLE_HOST = re.compile(r"[\w-]++(?:\.[\w-]++)++")

_OPERATORS = frozenset({"&", "&&", "|", "||", "!", "and", "or", "not"})
_OF_RESPONSES = (
    nodes.FCode,
    nodes.FResp,
    nodes.FHeadResponse,
    nodes.FContentTypeResponse,
    nodes.FAsset,
)
_OF_NOTHING_HERE = (
    nodes.FBod,
    nodes.FBodRequest,
    nodes.FBodResponse,
    nodes.FErr,
    nodes.FTCP,
    nodes.FUDP,
    nodes.FDNS,
    nodes.FWebSocket,
)


def split(option: str, spec: str, example: str) -> tuple[str, list[str]]:
    """The separator and what it separates, two parts at least. The end is what counts, so that a filter may have the
    separator in it."""
    first = spec[:1]
    if not first or first.isalnum() or first.isspace() or first in _BEGINS_A_FILTER:
        raise exceptions.OptionsError(
            f"{option}: {spec!r} is no rule: it has to begin with its separator, as in '/{spec.strip()}'; {example}"
        )
    parts = spec[1:].split(first)
    if not any(part.strip() for part in parts):
        raise exceptions.OptionsError(f"{option}: {spec!r} is empty; {example}")
    return first, parts


def duration(text: str) -> int | None:
    """Seconds, of ``90``, ``10m``, ``12h``, ``30d``; ``None`` if it is no time."""
    match = _DURATION.fullmatch(text.strip())
    return None if match is None else min(int(match[1]) * UNITS[match[2] or "s"], MAX_DELTA)


def timed(option: str, spec: str, example: str, *, force: bool = False, response: bool = False) -> TimedRule:
    """``/filter/time`` or, with ``force``, ``/filter/time/force``. Raises ``OptionsError``."""
    separator, parts = split(option, spec, example)
    forced = force and len(parts) > 1 and parts[-1].strip() == "force"
    if forced:
        parts.pop()
    seconds = duration(parts[-1])
    if seconds is None:
        end = parts[-1].strip()
        what = f"{end!r} is no time" if len(parts) > 1 else f"no further {separator!r} sets a time apart"
        if force and end.startswith("force"):
            what += "; force comes after the time"
        raise exceptions.OptionsError(f"{option}: {spec!r} has no time such as {TIMES} at its end ({what}); {example}")
    filters = parts[:-1]
    text = separator.join(filters).strip()
    if force and _ENDS_IN_FORCE.search(text):
        raise exceptions.OptionsError(
            f"{option}: {spec!r} has 'force' before its time, or another separator there than {separator!r}; {example}"
        )
    if len(filters) > 1 and not filters[-1].strip().isdigit() and duration(filters[-1]) is not None:
        raise exceptions.OptionsError(
            f"{option}: {spec!r} has two times; if {filters[-1].strip()!r} is part of the filter, choose another "
            "separator"
        )
    return TimedRule(parsed(option, text, response=response) or flowfilter.match_all, text, seconds, forced)


class TimedRule:
    """A filter and a time in seconds."""

    __slots__ = ("filter", "forced", "seconds", "text")

    def __init__(self, of: flowfilter.TFilter, text: str, seconds: int, forced: bool) -> None:
        self.filter = of
        self.text = text
        self.seconds = seconds
        self.forced = forced


def parsed(
    option: str, text: str, *, response: bool = False, methods: tuple[bytes, ...] = (b"GET",)
) -> flowfilter.TFilter | None:
    """A filter expression; ``None`` if there is none. ``response``: whether it is asked when there is a response;
    ``methods``: of the requests that it is asked about."""
    if not text.strip():
        return None
    try:
        found = flowfilter.parse(text)
    except ValueError as error:
        raise exceptions.OptionsError(f"{option}: {text!r} is no filter expression: {_why(text, error)}") from error
    if (why := _why_wrong(found, response, methods)) is not None:
        raise exceptions.OptionsError(f"{option}: {text!r} makes no sense: {why}")
    return found


def each_once(option: str, rules: list[tuple[str, str]]) -> None:
    """Of rules with the same filter (``(filter, rule)``) only the first would count."""
    seen: dict[str, str] = {}
    for text, rule in rules:
        if text in seen:
            raise exceptions.OptionsError(
                f"{option}: {rule!r} would never count: {seen[text]!r} before it has the same filter"
            )
        seen[text] = rule


def _why(text: str, error: ValueError) -> str:
    cause = error.__cause__
    place = getattr(cause, "loc", None)
    if not isinstance(place, int):
        return " ".join(str(cause or error).split())
    why = f"it makes no sense from {text[place:][:40]!r} on" if place < len(text) else "it ends too early"
    return f"{why}; &, | and ! need a space before them" if _GLUED_WITHIN.search(text) else why


def _why_wrong(part: Any, response: bool, methods: tuple[bytes, ...], negated: bool = False) -> str | None:
    """Why nothing that is asked about here would match, or everything, if some part of the filter is of that kind."""
    if not FILTERS.is_on:
        return None
    if isinstance(part, _OF_NOTHING_HERE):
        return f"~{part.code} looks at what a rule has no sight of ({part.help.lower()})"
    if isinstance(part, nodes.FReq) and response:
        return "~q is for requests without a response, and there is one"
    if isinstance(part, _OF_RESPONSES) and not response:
        return f"~{part.code} looks at the response ({part.help.lower()}), and this is decided before there is one"
    if isinstance(part, nodes.FCode):
        if not 100 <= part.num <= 999:
            return f"{part.num} is no status"
        if is_never_stored(part.num) and not negated:
            return f"a response of status {part.num} is never stored"
    if isinstance(part, nodes.FUrl) and part.expr.lower() in _OPERATORS:
        # mitmproxy takes any word that is nothing else for a part of the URL.
        return f"{part.expr!r} stands where a part of the URL would; and, or, not are &, |, ! between two filters"
    if isinstance(part, nodes._Rex) and (why := _why_not_meant(part)) is not None:
        return why
    if isinstance(part, nodes.FDomain) and (why := _why_no_host(part.expr)) is not None:
        return why
    if isinstance(part, nodes.FMethod) and not negated and not any(map(part.re.search, methods)):
        asked = " and ".join(method.decode() for method in methods)
        return f"~m {part.expr} matches none of the requests that this is about ({asked})"
    if isinstance(part, nodes.FAnd) and not negated and (why := _why_not_both(part.lst)) is not None:
        return why
    if isinstance(part, nodes.FNot):
        return _why_wrong(part.itm, response, methods, not negated)
    inner = getattr(part, "lst", ())
    return next((why for one in inner if (why := _why_wrong(one, response, methods, negated)) is not None), None)


def _why_not_meant(part: Any) -> str | None:
    """Why a regular expression is not what somebody wanted to write."""
    text: str = part.expr
    if _GLUED.search(text) is not None:
        return f"{text!r} is one word to mitmproxy: &, | and ! need a space before them (the characters: [&], [|], [!])"
    if text not in _EVERYTHING and part.re.search(b"" if isinstance(part.re.pattern, bytes) else ""):
        return f"~{part.code} {text!r} matches even an empty text, and so everything; who means that writes .* or ~all"
    return None


def _why_no_host(text: str) -> str | None:
    """Why no host matches the expression of a ``~d``."""
    if "/" in text:
        return f"~d looks at the host alone, and no host has a slash ({text!r}); ~u looks at the URL"
    if _HOST_AND_PORT.fullmatch(text):
        return f"~d looks at the host without its port ({text!r}); ~u looks at the URL"
    if found := _OUTSIDE_OF_HOSTS.search(_REGEX_SYNTAX.sub("", text)):
        return f"no host has a {found[0]!r} ({text!r}); between two filters stands ' & ' or ' | ', with spaces"
    return None


def _why_not_both(parts: list[Any]) -> str | None:
    """Why what is joined by "and", which is also what mitmproxy reads where there is no operator, is never true."""
    codes = sorted({part.num for part in parts if isinstance(part, nodes.FCode)})
    if len(codes) > 1:
        return f"no response has the statuses {codes[0]} and {codes[1]}; | stands for 'or'"
    hosts = [part.expr.strip("^$").replace("\\.", ".").lower() for part in parts if isinstance(part, nodes.FDomain)]
    hosts = [host for host in hosts if _WHOLE_HOST.fullmatch(host)]
    for one, other in itertools.combinations(hosts, 2):
        if one not in other and other not in one:
            return f"no host is both {one} and {other}; | is 'or' (nothing between two filters is 'and')"
    return None
