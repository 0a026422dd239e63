"""``X-Request-Id``: a name for one request, in the logs of all that it passes. No standard has it, most proxies do."""

from __future__ import annotations

import functools
import itertools
import re
import secrets
from collections.abc import Iterator, Sequence
from typing import Final

FIELD: Final = "X-Request-Id"
_SANE: Final = re.compile(r"[!-~]{1,128}")


def taken_or_made(values: Sequence[str]) -> str:
    """The client's own, if it has sent just one, of at most 128 visible ASCII characters; else a new one. What it has
    sent goes into logs and heads."""
    return taken(values) or made()


def taken(values: Sequence[str]) -> str:
    """The client's own, or an empty text."""
    return values[0] if len(values) == 1 and _SANE.fullmatch(values[0]) is not None else ""


def made() -> str:
    """A new one: 16 random digits, which are those of this process, and 16 that count. (No secret: a client knows its
    own. A random one each time would be a system call for every hit.)"""
    process, numbers = _of_this_process()
    return f"{process}{next(numbers):016x}"


@functools.cache
def _of_this_process() -> tuple[str, Iterator[int]]:
    return secrets.token_hex(8), itertools.count(secrets.randbits(62))
