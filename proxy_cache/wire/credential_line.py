"""Proxy-Authorization (RFC 9110 §11.7.2): taken off a request's head before anything is made of that.

What is made of a head is remembered, compared with others and passed on, and credentials are of no use in any of that.
"""

from __future__ import annotations

import re
from typing import Final

from ..semantics.limits import HeadLimits

_LINE: Final = re.compile(
    rb"\nProxy-Authorization:[\t ]*+([\x21-\x7e]++(?:[\t ]++[\x21-\x7e]++)*+)[\t ]*+\r(?=\n)", re.IGNORECASE
)
VALUE_MAX: Final = 4096
"""Bytes of a value. A longer one stays where it is, for mitmproxy to refuse."""


def take_credential(data: bytes, limits: HeadLimits) -> tuple[bytes, str]:
    """``data`` without the line, and its value. ``data`` as it is, and no value, where the head at its beginning is not
    complete, has no such line or more than one, or is of a size that somebody has to look at."""
    end = data.find(b"\r\n\r\n")
    if end < 0 or (end + 4 > limits.short and _is_near(data[: end + 4], limits)):
        return data, ""
    found = _LINE.search(data, 0, end + 2)
    if found is None or len(found[1]) > VALUE_MAX or _LINE.search(data, found.end(), end + 2) is not None:
        return data, ""
    return data[: found.start()] + data[found.end() :], found[1].decode("ascii")


def _is_near(head: bytes, limits: HeadLimits) -> bool:
    """Whether it may exceed a limit with the line, and none without."""
    return len(head) > limits.total or head.count(b"\n") > limits.fields or len(head) - VALUE_MAX > limits.line
