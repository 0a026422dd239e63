"""The clock: all freshness goes by it. Files of the past can tell when it stands before them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from .finding import OK, WARNING, Finding

TOLERANCE: Final = 300
"""Seconds that the clock of another machine, from which a file has come, may be ahead."""


def check(cache_dir: Path, now: float | None = None) -> Iterator[Finding]:
    now = time.time() if now is None else now
    latest, of = max(_times(cache_dir), default=(0.0, ""))
    shown = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ}"
    if latest > now + TOLERANCE:
        then = f"{datetime.fromtimestamp(latest, UTC):%Y-%m-%dT%H:%M:%SZ}"
        yield Finding("clock", WARNING, f"{shown} is before {of} was written ({then})")
    else:
        yield Finding("clock", OK, shown)


def _times(cache_dir: Path) -> Iterator[tuple[float, str]]:
    for path, name in ((Path(__file__), "the proxy's own code"), (cache_dir / "index.sqlite", "the cache's index")):
        try:
            yield path.stat().st_mtime, name
        except OSError:
            continue
