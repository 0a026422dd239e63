"""Names and format of the objects in the shared store. docs/shared-store.md tells operators the same.

An object is a line, a head in JSON, and the body as it is. The line has the length of the head and its SHA-256, the
head the SHA-256 of the body and of each of its blocks: so any range of it can be verified before a byte is used.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ...semantics.headers import HOP_BY_HOP, Headers
from ...semantics.policy import Policy

VERSION: Final = "v1"
"""The first part of each name. Another format gets another one, so that proxies of both versions can share a bucket."""
LINE_MAX: Final = 128
HEAD_MAX: Final = 1024 * 1024
"""Bytes of a head, at most."""
BLOCK_MIN: Final = 256 * 1024
"""Bytes of a block, unless there would be more than :data:`BLOCKS_MAX`; then twice as many, and so on."""
BLOCKS_MAX: Final = 2048

_LINE: Final = re.compile(rb"proxy-cache-shared/1 ([0-9]{1,7}) ([0-9a-f]{64})\n")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_NUMBER_MAX: Final = 1 << 53
Selecting = tuple[tuple[str, str | None], ...]


class Damaged(Exception):
    """An object that is not what was written."""


@dataclass(frozen=True, slots=True)
class StoredHead:
    """The head of an object. Times are unix seconds, ages seconds, lengths bytes."""

    key: str
    """The SHA-256 of the cache key (and its scope), which the name has, too."""
    generation: str
    """Any text that is new with each object: it is part of the names of its variants."""
    status: int
    headers: Headers
    request_time: float
    response_time: float
    initial_age: int
    vary: Selecting
    """The selecting fields and their values (RFC 9111 §4.1)."""
    length: int
    sha256: str
    block: int
    """The length of a block; the last one may be shorter."""
    sums: bytes
    """The SHA-256 of each block, 32 bytes each."""

    def sum_of(self, number: int) -> bytes:
        return self.sums[32 * number : 32 * number + 32]


def scope_of(policy: Policy) -> str:
    """The rules by which an operator has widened what a key stands for; empty: there are none.

    Behind them are responses to users who had logged in, or whose URL was signed. A proxy without the same rules must
    not serve them to others, so its names are different ones.
    """
    if not policy.ignore_authorization and not policy.key_ignores:
        return ""
    return "\n".join((str(policy.ignore_authorization), *sorted(policy.key_ignores)))


def scopes_of(ignored_parameters: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """All that rules with these sets of ignored parameters may give."""
    for ignored in ((), *ignored_parameters):
        yield scope_of(Policy(key_ignores=ignored))
        yield scope_of(Policy(ignore_authorization=True, key_ignores=ignored))


def digest_of_key(key: str, scope: str = "") -> str:
    return hashlib.sha256((f"{key}\n{scope}" if scope else key).encode("utf-8", "surrogatepass")).hexdigest()


def name_of(key: str, scope: str = "") -> str:
    """Where the response for a key is, or the one of its variants that came first. ``scope``: from :func:`scope_of`."""
    digest = digest_of_key(key, scope)
    return f"{VERSION}/{digest[:2]}/{digest}"


def variant_of(name: str, generation: str, selecting: Selecting) -> str:
    """Where a further variant is. ``selecting``: its request's values of the fields that the first one names.

    With the first one's ``generation``: once that is replaced or deleted, none of its variants is found any more.
    """
    values = json.dumps(selecting, separators=(",", ":")).encode()
    return f"{name}.{generation}.{hashlib.sha256(values).hexdigest()[:32]}"


def block_size(length: int) -> int:
    size = BLOCK_MIN
    while length > size * BLOCKS_MAX:
        size *= 2
    return size


def encode(head: StoredHead) -> bytes:
    """The line and the head."""
    text = json.dumps(
        {
            "key": head.key,
            "generation": head.generation,
            "status": head.status,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in head.headers.fields],
            "request_time": head.request_time,
            "response_time": head.response_time,
            "initial_age": head.initial_age,
            "vary": head.vary,
            "length": head.length,
            "sha256": head.sha256,
            "block": head.block,
            "sums": base64.b64encode(head.sums).decode(),
        },
        separators=(",", ":"),
    ).encode()
    return b"proxy-cache-shared/1 %d %b\n" % (len(text), hashlib.sha256(text).hexdigest().encode()) + text


def decode(data: bytes) -> tuple[StoredHead, int] | int:
    """The head at the start of ``data``, and where the body begins; or the number of bytes that are needed to tell.

    Raises :class:`Damaged`.
    """
    line = _LINE.match(data[:LINE_MAX])
    if line is None:
        if len(data) >= LINE_MAX or b"\n" in data or not b"proxy-cache-shared/1 ".startswith(data[:21]):
            raise Damaged("no head")
        return LINE_MAX
    stop = line.end() + int(line[1])
    if stop - line.end() > HEAD_MAX:
        raise Damaged("a head of more than a megabyte")
    if len(data) < stop:
        return stop
    text = data[line.end() : stop]
    if hashlib.sha256(text).hexdigest().encode() != line[2]:
        raise Damaged("the head is not what was written")
    try:
        return _head_of(json.loads(text)), stop
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"the head makes no sense: {error}") from error


def _head_of(told: dict[str, object]) -> StoredHead:
    head = StoredHead(
        key=_text(told["key"]),
        generation=_text(told["generation"]),
        status=_number(told["status"]),
        headers=Headers(
            [(_text(name).encode("latin-1"), _text(value).encode("latin-1")) for name, value in _pairs(told["headers"])]
        ),
        request_time=_time(told["request_time"]),
        response_time=_time(told["response_time"]),
        initial_age=_number(told["initial_age"]),
        vary=tuple((_text(name), None if value is None else _text(value)) for name, value in _pairs(told["vary"])),
        length=_number(told["length"]),
        sha256=_text(told["sha256"]),
        block=_number(told["block"]),
        sums=base64.b64decode(_text(told["sums"]), validate=True),
    )
    if head.block < 1 or len(head.sums) != 32 * -(-head.length // head.block):
        raise ValueError("not one checksum for each block")
    if not 200 <= head.status <= 599 or head.status in (204, 205, 206, 304):
        raise ValueError("a status that has no body, or is of a part")
    if not all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in head.headers.fields):
        raise ValueError("a field that is none")
    if not HOP_BY_HOP.isdisjoint(head.headers.names) or head.headers.get("content-length") not in (
        None,
        str(head.length),
    ):
        raise ValueError("a field that says where the body ends, and is wrong")
    return head


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _NUMBER_MAX:
        raise TypeError("not a number")
    return value


def _time(value: object) -> float:
    if not isinstance(value, (int, float)) or not 0 <= value <= _NUMBER_MAX:
        raise TypeError("not a time")
    return float(value)


def _pairs(value: object) -> list[tuple[object, object]]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return [(name, other) for name, other in value]
