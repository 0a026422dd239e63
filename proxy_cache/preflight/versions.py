"""Python and mitmproxy: whether they are among those that are tested, and what of mitmproxy is not as it is known."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Final

from ..mitm import compat
from .finding import FAULT, OK, WARNING, Finding

PYTHON: Final = (3, 11)
MITMPROXY: Final = ((11, 0, 2), (13,))
"""From, and up to but without."""

_NUMBER: Final = re.compile(r"\d+")


def check() -> Iterator[Finding]:
    python = platform.python_version()
    is_known = sys.version_info[:2] >= PYTHON
    needed = ".".join(map(str, PYTHON))
    yield Finding("python", OK if is_known else FAULT, python if is_known else f"{python}: {needed} is needed")
    try:
        mitmproxy = metadata.version("mitmproxy")
    except metadata.PackageNotFoundError:
        mitmproxy = "unknown"
    first, beyond = MITMPROXY
    found = tuple(int(digits) for digits in _NUMBER.findall(mitmproxy)[:3])
    if first <= found < beyond:
        yield Finding("mitmproxy", OK, mitmproxy)
    else:
        text = f"{mitmproxy}: tested with {'.'.join(map(str, first))} up to, and without, {beyond[0]}"
        yield Finding("mitmproxy", FAULT if found < first else WARNING, text)
    for part in compat.FEATURES:
        if not part.is_on:
            yield Finding("mitmproxy", WARNING, f"{part.title} off: {part.effect} ({', '.join(part.problems)})")
