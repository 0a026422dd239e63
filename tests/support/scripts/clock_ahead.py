"""A mitmproxy script, to come before the cache: the wall clock is ahead by the seconds in ``$CLOCK_AHEAD``, a file."""

from __future__ import annotations

import os
import time

_time = time.time
_seen = [0, 0.0]


def ahead() -> float:
    try:
        changed = os.stat(os.environ["CLOCK_AHEAD"]).st_mtime_ns
        if changed != _seen[0]:
            with open(os.environ["CLOCK_AHEAD"]) as file:
                _seen[:] = changed, float(file.read())
    except (OSError, ValueError):
        pass
    return _seen[1]


time.time = lambda: _time() + ahead()
