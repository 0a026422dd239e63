"""Header fields as received, with their order and spelling, looked up case-insensitively."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from functools import lru_cache
from typing import Final, TypeAlias

from . import credentials

Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Field lines, name and value, exactly as received."""

_OWS = " \t\r\n"  # a folded line (obs-fold) may leave CR and LF at the ends of a value
# RFC 9110 §5.5: CR, LF and NUL within a value are dangerous; a recipient rejects the message or "replace[s] each of
# those characters with SP". Applied to values that we write.
_UNSAFE = bytes.maketrans(b"\r\n\0", b"   ")


Line: TypeAlias = tuple[tuple[bytes, bytes], str, str]
"""A parsed field line: name and value as received, the lower-case name, the value as text."""


class Headers:
    """The fields of one message. Immutable: ``without``, ``set`` and ``add`` return new ones.

    Methods take lower-case names. Values are latin-1 text, which has a character for every byte: so received values can
    be forwarded unchanged.
    """

    __slots__ = ("_fields", "_index", "_lines", "_packed", "is_end_to_end")

    def __init__(self, fields: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._fields: Fields | None = tuple(fields)
        # Built by the first lookup: many Headers are only forwarded.
        self._index: dict[str, str | list[str]] | None = None
        self._lines: bytes | None = None
        self._packed: bytes | None = None
        self.is_end_to_end = False
        """Whether :func:`end_to_end` would return it unchanged, if that is known."""

    @classmethod
    def received(cls, lines: Iterable[Line]) -> tuple[Headers, dict[str, str]]:
        """The end-to-end fields of a message, and its hop-by-hop fields (RFC 9110 §7.6.1), combined."""
        fields: list[tuple[bytes, bytes]] = []
        index: dict[str, str | list[str]] = {}
        hop: dict[str, str] = {}
        further: dict[str, list[str]] = {}
        for field, key, text in lines:
            if key in HOP_BY_HOP:
                if key in hop:
                    further.setdefault(key, []).append(text)
                else:
                    hop[key] = text
                continue
            fields.append(field)
            if key in index:
                _append(index, key, text)
            else:
                index[key] = text
        for key, texts in further.items():
            hop[key] = ", ".join((hop[key], *texts))
        headers = cls(fields)
        headers._index = index
        connection = hop.get("connection")
        if connection is not None:
            headers = headers.without_any(_hop_by_hop((connection,)))
        headers.is_end_to_end = True
        return headers, hop

    @classmethod
    def of_packed(cls, packed: bytes) -> Headers:
        """The inverse of :meth:`packed`."""
        headers = cls.__new__(cls)
        headers._fields = headers._index = headers._lines = None
        headers._packed = packed
        headers.is_end_to_end = False
        return headers

    @property
    def fields(self) -> Fields:
        fields = self._fields
        if fields is None:
            fields = self._fields = _unpacked(self._packed or b"")
        return fields

    def packed(self) -> bytes:
        """All fields as one bytes object, for disk and memory."""
        if self._packed is None:
            self._packed = b"\r\n".join([b"%b:%b" % field for field in self._fields or ()])
        return self._packed

    def pack(self) -> None:
        """Keep only the packed form until the next lookup. A cache has tens of thousands of idle Headers, and Python's
        collector would visit every pair in them."""
        packed = self._packed
        if packed is None:
            packed = self.packed()
        if self._fields is not None and packed.count(b"\n") != max(len(self._fields) - 1, 0):
            return  # a value contains a line break: packing would not be reversible
        self._fields = self._index = self._lines = None

    def _lookup(self) -> dict[str, str | list[str]]:
        """Build the index. (Callers try ``_index`` first: a miss makes some forty lookups.)"""
        # A single value is not put in a list: with tens of thousands of Headers the collector would visit all the lists
        # again and again.
        index: dict[str, str | list[str]] = {}
        for name, value in self.fields:
            key = _NAMES.get(name) or _named(name)
            text = value.decode("latin-1").strip(_OWS)
            if key in index:
                _append(index, key, text)
            else:
                index[key] = text
        self._index = index
        return index

    def get(self, name: str) -> str | None:
        """The combined value: all lines in order, joined by comma and space (RFC 9110 §5.3); ``None`` if absent."""
        values = (self._index or self._lookup()).get(name)
        return values if values is None or isinstance(values, str) else ", ".join(values)

    def get_all(self, name: str) -> tuple[str, ...]:
        """The value of every line of that name."""
        values = (self._index or self._lookup()).get(name, ())
        return (values,) if isinstance(values, str) else tuple(values)

    def __contains__(self, name: object) -> bool:
        return name in (self._index or self._lookup())

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __eq__(self, other: object) -> bool:
        """The same lines: order and spelling count."""
        return self.fields == other.fields if isinstance(other, Headers) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.fields)

    def __repr__(self) -> str:
        lines = ", ".join(_shown_line(*each) for each in self.fields)
        return f"Headers({lines})"

    @property
    def lines(self) -> bytes:
        """The field lines of a request (RFC 9112 §5). Raises ``ValueError`` for a line break within one."""
        if self._lines is None:
            lines = b"".join([b"%b: %b\r\n" % field for field in self.fields])
            count = len(self.fields)
            if lines.count(b"\r") != count or lines.count(b"\n") != count or b"\0" in lines:
                # RFC 9110 §5.5: this could smuggle requests.
                raise ValueError("a line break or NUL within a header field")
            self._lines = lines
        return self._lines

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._index or self._lookup())

    def has_any(self, names: Set[str]) -> bool:
        return not names.isdisjoint(self._index or self._lookup())

    def without(self, *names: str) -> Headers:
        return self.without_any(frozenset(names))

    def without_any(self, names: frozenset[str]) -> Headers:
        index = self._index or self._lookup()
        found = names.intersection(index)
        if not found:
            return self
        rest = Headers([field for field in self.fields if (_NAMES.get(field[0]) or _named(field[0])) not in found])
        # The result is looked up at once: removing names from a copied index is cheaper than building a new one.
        rest._index = index = index.copy()
        for name in found:
            del index[name]
        return rest

    def set(self, name: str, value: str) -> Headers:
        """With a single line of that name: in place of the first one, with its spelling, or at the end."""
        if name not in self:
            return self.add(name, value)
        key = name.encode("latin-1")
        fields: list[tuple[bytes, bytes]] = []
        replaced = False
        for field in self.fields:
            if field[0].lower() != key:
                fields.append(field)
            elif not replaced:
                fields.append((field[0], _encoded(value)))
                replaced = True
        return Headers(fields)

    def add(self, name: str, value: str) -> Headers:
        return self.plus(field_line(name.encode("latin-1", "replace"), _encoded(value)))

    def plus(self, *lines: Line) -> Headers:
        """With these lines at the end."""
        more = Headers((*(self._fields or self.fields), *[line[0] for line in lines]))
        # For many lines a new index is cheaper: lists in it are shared between Headers, so each further value of a name
        # copies its list here.
        if self._index is not None and len(lines) <= 4:
            index = more._index = self._index.copy()
            for _, key, text in lines:
                values = index.get(key)
                if values is None:
                    index[key] = text
                else:
                    index[key] = [values, text] if isinstance(values, str) else [*values, text]
        return more


_NAMES: Final[dict[bytes, str]] = {}
"""Received names and their lower-case form; a few hundred are usual."""


def _named(name: bytes) -> str:
    # bytes.lower() touches A-Z only, as RFC 9110 §5.1 means it ("case-insensitive", names being ASCII).
    key = name.lower().decode("latin-1")
    if len(name) < 64:
        if len(_NAMES) >= 1024:  # a peer makes up names; the usual ones are soon back
            _NAMES.clear()
        _NAMES[name] = key
    return key


def field_line(name: bytes, value: bytes) -> Line:
    """Parse a field."""
    return (name, value), _NAMES.get(name) or _named(name), value.decode("latin-1").strip(_OWS)


def _unpacked(packed: bytes) -> Fields:
    fields = []
    for line in packed.split(b"\r\n") if packed else ():
        name, _, value = line.partition(b":")
        fields.append((name, value))
    return tuple(fields)


def _append(index: dict[str, str | list[str]], key: str, text: str) -> None:
    """Add a further line of a name to an index under construction, whose lists are not shared yet."""
    values = index[key]
    if isinstance(values, str):
        index[key] = [values, text]
    else:
        values.append(text)


def _encoded(value: str) -> bytes:
    return value.encode("latin-1", "replace").translate(_UNSAFE)


HOP_BY_HOP: Final = frozenset(
    {
        # RFC 9110 §7.6.1: to be removed before forwarding, listed in Connection or not.
        "connection",
        "proxy-connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # RFC 9111 §3.1: "header fields that are specific to the proxy that a cache uses […] MUST NOT be stored".
        "proxy-authorization",
        "proxy-authenticate",
        "proxy-authentication-info",
        # What peers of a fleet say to each other, see peer_fields.py.
        "cache-peer",
    }
)

# RFC 9110 §7.6.1: "A sender MUST NOT send a connection option corresponding to a field that is intended for all
# recipients of the content. For example, Cache-Control is never appropriate as a connection option." Such options are
# ignored: `Connection: cache-control` would make a private response storable, `vary` would merge variants,
# `authorization` would remove the credentials, `content-length` would change the framing, `via` would hide a loop.
# Unlisted fields follow the general rule.
END_TO_END: Final = frozenset(
    {
        # caching (RFC 9111 §5)
        "age", "cache-control", "expires", "pragma", "vary", "warning", "date",
        # validators and conditions (RFC 9110 §8.8, §13.1)
        "etag", "last-modified", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range",
        # representation, framing and ranges (RFC 9110 §8, §14)
        "content-type", "content-encoding", "content-language", "content-location", "content-length", "content-range",
        "accept-ranges", "range",
        # negotiation, routing and control (RFC 9110 §7.2, §10, §12.5)
        "accept", "accept-charset", "accept-encoding", "accept-language", "host", "expect", "location", "retry-after",
        "user-agent", "max-forwards",
        # identity (RFC 9110 §11, RFC 6265)
        "authorization", "www-authenticate", "authentication-info", "cookie", "set-cookie",
        # the way of the message (RFC 9110 §7.6.3, RFC 7239, RFC 9209, RFC 9211)
        "via", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "cache-status", "proxy-status",
    }
)  # fmt: skip


def end_to_end(headers: Headers) -> Headers:
    """Without hop-by-hop fields and those that Connection names (RFC 9110 §7.6.1): for forwarding or storing.

    Fields in :data:`END_TO_END` stay even if Connection names them.
    """
    if headers.is_end_to_end:
        return headers
    options = headers.get_all("connection")
    return headers.without_any(_hop_by_hop(options) if options else HOP_BY_HOP)


def connection_options(values: Iterable[str]) -> set[str]:
    """The options in a Connection header, in lower case (RFC 9110 §7.6.1)."""
    return {option.strip(_OWS).lower() for value in values for option in value.split(",")}


def _hop_by_hop(options: tuple[str, ...]) -> frozenset[str]:
    # Mostly "close" or "keep-alive".
    return _remembered(options) if sum(map(len, options)) <= 64 else _named_by(options)


def _named_by(options: tuple[str, ...]) -> frozenset[str]:
    return HOP_BY_HOP | (connection_options(options) - END_TO_END)


_remembered = lru_cache(maxsize=64)(_named_by)


def _shown_line(name: bytes, value: bytes) -> str:
    """For a log, without credentials."""
    shown = value if credentials.is_shown(name.lower().decode("latin-1")) else b"***"
    return repr((name + b": " + shown).decode("latin-1"))
