"""The start of the parent, for the command line: little is imported before SIGHUP is caught."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence

from ..runtime import hangup


def run(count: int, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run so many workers, each with this command, until they are told to stop. Returns an exit status."""
    hangup.catch()
    from .parent import Parent, log_like_mitmproxy

    log_like_mitmproxy()
    try:
        parent = Parent(count, command, environment)
    except OSError as error:
        print(f"proxy-cache run: no folder for sockets can be made: {error}", file=sys.stderr)
        return 1
    return asyncio.run(parent.run())
