"""Heads of requests to an origin or a parent proxy, of fills and of forwarded requests.

This is the last check of each: one request line, one Host, equal to the target's, no line break within a line, at most
one length. The recipient must not see a different request, or two of them (RFC 9112 §11.2). Pure functions of bytes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from ..semantics.keys import Target

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_METHOD: Final = re.compile(_TOKEN)
_FORM: Final = re.compile(rb"[\x21-\x7e\x80-\xff]++")
_FIELDS: Final = re.compile(rb"(?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n)++")
_REMEMBER_LENGTH: Final = 2048
"""Bytes of field lines whose check is cached: an agent mostly sends the same ones to a host."""


class Mismatch(ValueError):
    """The head isn't that of the intended request: a bug here, or in another addon."""


def request_head(method: bytes, form: bytes, authority: bytes, lines: bytes, fields: int) -> bytes:
    """The bytes of a head. ``form``: the request target in the form for this recipient (RFC 9112 §3.2); ``authority``:
    the expected Host; ``lines``: all field lines, with Host; ``fields``: their expected number. Raises
    :class:`Mismatch`."""
    if (method != b"GET" and _METHOD.fullmatch(method) is None) or _FORM.fullmatch(form) is None:
        raise Mismatch("a request line that is none")
    host, count = (_remembered if len(lines) <= _REMEMBER_LENGTH else _checked)(lines)
    if host != authority:
        raise Mismatch("a Host that is not the target's")
    if count != fields:
        raise Mismatch("a field that is more than one")
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, form, lines)


def _checked(lines: bytes) -> tuple[bytes, int]:
    """The Host value and the number of lines."""
    if _FIELDS.fullmatch(lines) is None:
        raise Mismatch("a line that is not a field")
    hosts: list[bytes] = []
    lengths = count = 0
    for line in lines[:-2].split(b"\r\n"):
        count += 1
        name, _, value = line.partition(b":")
        name = name.lower()
        if name == b"host":
            hosts.append(value.strip(b" \t"))
        elif name in (b"content-length", b"transfer-encoding"):
            lengths += 1
    if len(hosts) != 1:
        raise Mismatch("not just one Host")
    if lengths > 1:
        raise Mismatch("more than one length")
    return hosts[0], count


_remembered = lru_cache(maxsize=1024)(_checked)


def authority_of(target: Target) -> bytes:
    """Host and port of a target as bytes. (ASCII from clients, but another addon may have set any name.) Raises
    :class:`Mismatch`."""
    try:
        return _encoded(target.authority)
    except UnicodeError as error:
        raise Mismatch(f"no name of a host: {error}") from error


@lru_cache(maxsize=1024)
def _encoded(authority: str) -> bytes:
    return authority.encode("ascii" if authority.isascii() else "idna")


def path_of(target: Target) -> bytes:
    """Path and query, exactly as received."""
    return target.path.encode("utf-8", "surrogateescape")
