"""Repairs field lines of responses where RFC 9110 and 9112 require it of a proxy; used for all responses.

The standard has no rule for lines that are not fields: without a colon, without a name, or with a name that is not a
token (``HTTP 1/1 302``, ``Secured by: x``). Clients skip such lines, and so does this module: a build that works
without the proxy works with it. As the sender may have meant something by the line, its connection is not reused. If
the line is about the length of the body it is an error: the end of the body is then unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++)[ \t]*+:(.*+)", re.DOTALL)
# RFC 9110 §5.5: "a recipient of CR, LF, or NUL within a field value MUST either reject the message or replace each of
# those characters with SP".
_LENGTH: Final = re.compile(rb"content-length|transfer-encoding", re.IGNORECASE)
_AS_SPACE: Final = bytes.maketrans(b"\r\n\0", b"   ")


class UnclearLength(ValueError):
    """A line that is not a field mentions the length of the body."""


def mended(lines: Iterable[bytes]) -> tuple[list[tuple[bytes, bytes]], int]:
    """The fields in lines (without line breaks), and the number of skipped lines.

    RFC 9112 §5.1: "A proxy MUST remove any such whitespace" before a colon "from a response message before forwarding
    the message downstream". §5.2: obs-fold is replaced by SP. §2.2: lines with white space in front before the first
    field may be ignored. Raises :class:`UnclearLength`.
    """
    unfolded: list[list[bytes]] = []
    skipped = 0
    is_field = False
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if is_field:
                unfolded[-1].append(line.strip(b" \t"))
                continue
            found = None
        else:
            found = _FIELD.fullmatch(line)
            is_field = found is not None
        if found is not None:
            unfolded.append([found[1], found[2].strip(b" \t")])
        elif _LENGTH.search(line) is None:
            skipped += 1
        else:
            raise UnclearLength("a line about the length of the body that is not a field")
    fields = [(name, b" ".join(parts).translate(_AS_SPACE).strip(b" ")) for name, *parts in unfolded]
    return fields, skipped
