"""Which URLs somebody means: of one host, or like a pattern. Cache keys are URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

PATTERN_MAX: Final = 8192
"""Characters of a pattern."""
STARS_MAX: Final = 32
_PORT: Final = re.compile(r":[0-9]++$")
_DEFAULT_PORTS: Final = {"http:": 80, "https:": 443}
_STARS: Final = re.compile(r"\*++")
_HOST: Final = re.compile(r"(?:\*\.)?(?:\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,255})(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class HostPattern:
    """A host (``packages.example.com``, ``[::1]``), with a port only on that port; ``*.example.com``: all hosts that
    end so. Raises ``ValueError`` for anything else."""

    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", self.text.strip().lower())
        if _HOST.fullmatch(self.text) is None:
            raise ValueError("not a host such as packages.example.com, *.example.com or packages.example.com:8080")

    def matches(self, url: str) -> bool:
        scheme, _, authority, *_ = url.split("/", 3)
        if _PORT.search(self.text):
            name = authority if _PORT.search(authority) else f"{authority}:{_DEFAULT_PORTS[scheme]}"
        else:
            name = authority.rpartition(":")[0] if _PORT.search(authority) else authority
        return name.endswith(self.text[1:]) if self.text.startswith("*") else name == self.text


@dataclass(frozen=True, slots=True)
class UrlPattern:
    """A whole URL, in which each ``*`` stands for any characters, also none and also slashes; everything else for
    itself, a ``?`` too. Without ``://`` it is meant for http and https. Raises ``ValueError``."""

    text: str
    _parts: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text = self.text if "://" in self.text else f"http*://{self.text}"
        if not self.text.strip() or len(text) > PATTERN_MAX:
            raise ValueError(f"must have from 1 to {PATTERN_MAX} characters")
        parts = _STARS.split(text)
        if len(parts) > STARS_MAX:
            raise ValueError(f"must not have more than {STARS_MAX - 2} stars")
        object.__setattr__(self, "_parts", tuple(parts))

    def matches(self, url: str) -> bool:
        first, *rest = self._parts
        if not rest:
            return url == first
        *between, last = rest
        if not url.startswith(first):
            return False
        at, end = len(first), len(url) - len(last)
        for part in between:
            at = url.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return at <= end and url.endswith(last)
