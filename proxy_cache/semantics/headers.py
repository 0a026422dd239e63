"""Header fields, as bytes in the order they came, looked up without regard to case (RFC 9110 §5.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]

HOP_BY_HOP = frozenset(
    {
        "connection",
        "proxy-connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "proxy-authorization",
        "proxy-authenticate",
        "proxy-authentication-info",
    }
)
"""Fields that are for the next hop only (RFC 9110 §7.6.1, §11.7)."""

_NEVER_OPTIONS = frozenset(
    {
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "date",
        "etag",
        "expires",
        "host",
        "location",
        "pragma",
        "range",
        "set-cookie",
        "vary",
        "via",
    }
)
"""Fields meant for all recipients, which Connection must not name (RFC 9110 §7.6.1); if it does, it is not heeded."""


class Headers:
    """An immutable list of header fields. Names are given in lower case."""

    __slots__ = ("_index", "fields")

    def __init__(self, fields: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.fields: Fields = tuple(fields)
        self._index: dict[str, list[str]] | None = None

    def _by_name(self) -> dict[str, list[str]]:
        index = self._index
        if index is None:
            index = {}
            for name, value in self.fields:
                index.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").strip(" \t"))
            self._index = index
        return index

    def get(self, name: str) -> str | None:
        """All values of a field as one, joined with commas (RFC 9110 §5.2); ``None`` if there is none."""
        values = self._by_name().get(name)
        if values is None:
            return None
        return values[0] if len(values) == 1 else ", ".join(values)

    def get_all(self, name: str) -> tuple[str, ...]:
        """The values of a field's lines."""
        return tuple(self._by_name().get(name, ()))

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._by_name())

    def without(self, *names: str) -> Headers:
        """A copy that lacks these fields."""
        if not any(name in self for name in names):
            return self
        drop = frozenset(name.encode("latin-1") for name in names)
        return Headers(field for field in self.fields if field[0].lower() not in drop)

    def set(self, name: str, value: str) -> Headers:
        """A copy with one line of this field: in the place of the first it had, or at the end."""
        if name not in self:
            return self.add(name, value)
        wanted = name.encode("latin-1")
        fields: list[tuple[bytes, bytes]] = []
        placed = False
        for field in self.fields:
            if field[0].lower() != wanted:
                fields.append(field)
            elif not placed:
                placed = True
                fields.append((field[0], value.encode("latin-1", "replace")))
        return Headers(fields)

    def add(self, name: str, value: str) -> Headers:
        """A copy with one more line."""
        return Headers((*self.fields, (name.title().encode("latin-1"), value.encode("latin-1", "replace"))))

    def __contains__(self, name: object) -> bool:
        return name in self._by_name()

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.fields)

    def __repr__(self) -> str:
        return f"Headers({list(self.fields)!r})"


def end_to_end(headers: Headers) -> Headers:
    """What goes on to the next recipient: without hop-by-hop fields and those that Connection names."""
    named = {option.strip().lower() for value in headers.get_all("connection") for option in value.split(",")}
    return headers.without(*HOP_BY_HOP, *(named - _NEVER_OPTIONS - {""}))
