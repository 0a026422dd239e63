"""One line per request in mitmdump's log."""

from __future__ import annotations

import logging

from .semantics.keys import redacted

logger = logging.getLogger(__name__)


def log_request(
    method: str,
    url: str,
    status: int,
    size: int,
    seconds: float,
    source: str,
    queued: float,
    client: str,
    note: str = "",
) -> None:
    """``GET http://host/path 200 1024 B 12.3 ms miss queued=250 ms [127.0.0.1]``; query secrets are left out."""
    if not logger.isEnabledFor(logging.INFO):
        return
    wait = f" queued={queued * 1000:.0f} ms" if queued >= 0.001 else ""
    tail = f" ({note})" if note else ""
    logger.info(
        "%s %s %d %d B %.1f ms %s%s [%s]%s",
        method,
        redacted(url),
        status,
        size,
        seconds * 1000,
        source,
        wait,
        client,
        tail,
    )
