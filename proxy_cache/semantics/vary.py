"""Vary: which stored response a request selects (RFC 9111 §4.1)."""

from __future__ import annotations

from collections.abc import Iterable

from .headers import Headers


def vary_names(response: Headers) -> tuple[str, ...] | None:
    """The names that Vary lists, lower-case and sorted; ``None`` for ``*``, which matches no request."""
    text = response.get("vary")
    if text is None:
        return ()
    names = {name.strip().lower() for name in text.split(",")} - {""}
    return None if "*" in names else tuple(sorted(names))


def selecting_values(names: Iterable[str], request: Headers) -> tuple[tuple[str, str | None], ...]:
    """The request's values of these fields: lines joined, white space around commas and doubled spaces removed."""
    return tuple((name, _normalised(request.get(name))) for name in names)


def matches(vary: tuple[tuple[str, str | None], ...], request: Headers) -> bool:
    """Whether a request selects a response that was stored for these values."""
    return all(_normalised(request.get(name)) == value for name, value in vary)


def _normalised(value: str | None) -> str | None:
    if value is None:
        return None
    return ",".join(" ".join(part.split()) for part in value.split(","))
