"""One log line when something begins to fail, and one when it is well again."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

_REASON_MAX = 300
"""Characters."""


class Trouble:
    """That of one place where peers are listed, ``where``."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.reason = ""
        """Why it fails now; empty if it is well."""

    def begins(self, reason: str, kept: str) -> None:
        """``kept``: what goes on meanwhile."""
        reason = " ".join(reason.split())[:_REASON_MAX] or "unknown"
        if not self.reason:
            logger.warning("proxy-cache: peers of %s: %s; %s", self.where, reason, kept)
        self.reason = reason

    def is_over(self) -> None:
        if self.reason:
            logger.info("proxy-cache: peers of %s: well again", self.where)
        self.reason = ""
