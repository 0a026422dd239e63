"""The start of the parent, for the command line: little is imported before SIGHUP is caught."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from ..runtime import hangup


def run(count: int, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run so many workers, each with this command, until they are told to stop. Returns an exit status."""
    hangup.catch()
    from .parent import Parent, log_like_mitmproxy

    log_like_mitmproxy()
    return asyncio.run(Parent(count, command, environment).run())
