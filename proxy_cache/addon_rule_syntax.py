"""What the rules of an operator look like: ``/filter/end``, where the first character separates.

A rule that can never apply is as wrong as one that can't be parsed, and harder to notice: a filter that looks at what
isn't there when the rule is asked (the response of a request that has not been sent), a host with a path, the words of
the end in the wrong order. Each of these is refused with one line.
"""

from __future__ import annotations

import re
from typing import Any

from mitmproxy import exceptions, flowfilter

from .semantics.directives import MAX_DELTA

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
TIMES = "90, 10m, 12h, 30d"
_DURATION = re.compile(r"([0-9]{1,10})([smhdwy]?)")
_BEGINS_A_FILTER = frozenset("~(\"'\\.^$[]*?+{}<>")
"""A rule that begins with one of these has no separator: its filter is where the separator should be."""
_ENDS_IN_FORCE = re.compile(r"(?:^|[/|!:;,#@+=%&])\s*force\s*$")
_HOST_AND_PORT = re.compile(r"[^:\]g-z_.-]*+[g-z_.-][^:\]]*+:[0-9]+\$?", re.IGNORECASE)

_OPERATORS = frozenset({"&", "&&", "|", "||", "!", "and", "or", "not"})
_OF_RESPONSES = (
    flowfilter.FCode,
    flowfilter.FResp,
    flowfilter.FHeadResponse,
    flowfilter.FContentTypeResponse,
    flowfilter.FAsset,
)
_OF_NOTHING_HERE = (
    flowfilter.FBod,
    flowfilter.FBodRequest,
    flowfilter.FBodResponse,
    flowfilter.FErr,
    flowfilter.FTCP,
    flowfilter.FUDP,
    flowfilter.FDNS,
    flowfilter.FWebSocket,
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


def parsed(option: str, text: str, *, response: bool = False) -> flowfilter.TFilter | None:
    """A filter expression; ``None`` if there is none. ``response``: whether it is asked when there is a response."""
    if not text.strip():
        return None
    try:
        found = flowfilter.parse(text)
    except ValueError as error:
        raise exceptions.OptionsError(f"{option}: {text!r} is no filter expression: {_why(text, error)}") from error
    if (why := _why_never(found, response)) is not None:
        raise exceptions.OptionsError(f"{option}: {text!r} decides nothing: {why}")
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
    return f"it makes no sense from {text[place:][:40]!r} on" if place < len(text) else "it ends too early"


def _why_never(part: Any, response: bool) -> str | None:
    """Why nothing that is asked about here would match, if some part of the filter is of that kind."""
    if isinstance(part, _OF_NOTHING_HERE):
        return f"~{part.code} looks at what a rule has no sight of ({part.help.lower()})"
    if isinstance(part, flowfilter.FReq) and response:
        return "~q is for requests without a response, and there is one"
    if isinstance(part, _OF_RESPONSES) and not response:
        return f"~{part.code} looks at the response ({part.help.lower()}), and this is decided before there is one"
    if isinstance(part, flowfilter.FCode) and not 100 <= part.num <= 999:
        return f"{part.num} is no status"
    if isinstance(part, flowfilter.FUrl) and part.expr.lower() in _OPERATORS:
        # mitmproxy takes any word that is nothing else for a part of the URL.
        return f"{part.expr!r} stands where a part of the URL would; and, or, not are &, |, ! between two filters"
    if isinstance(part, flowfilter.FDomain):
        if "/" in part.expr:
            return f"~d looks at the host alone, and no host has a slash ({part.expr!r}); ~u looks at the URL"
        if _HOST_AND_PORT.fullmatch(part.expr):
            return f"~d looks at the host without its port ({part.expr!r}); ~u looks at the URL"
    inner = getattr(part, "lst", None) or [getattr(part, "itm", None)]
    return next((why for one in inner if one is not None and (why := _why_never(one, response)) is not None), None)
