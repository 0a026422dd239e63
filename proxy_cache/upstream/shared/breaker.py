"""A store that fails is left alone for a while, and then tried by one request."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

FIRST: Final = 1.0
"""Seconds for which it is left alone after a failure; twice as long after each further one, up to"""
LONGEST: Final = 60.0
"""so many, and up to half as long again, at random: not all proxies of a fleet come back at once."""


class Breaker:
    """One for reading, one for writing. It writes a line to the log when the store fails, and one when it is back."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        """``what``: the store and what is done with it, for the log."""
        self._what = what
        self._clock = clock
        self._failures = 0
        """In a row."""
        self._until = 0.0
        self._is_probed = False
        self._succeeded = float("-inf")
        """When it has answered last."""

    @property
    def is_closed(self) -> bool:
        """Whether all is well, as far as is known."""
        return not self._failures

    @property
    def lets_pass(self) -> bool:
        """Whether the store may be asked now."""
        return not self._failures or (not self._is_probed and self._clock() >= self._until)

    @property
    def seconds_left(self) -> float:
        """Until it is tried again; 0 if that may be now."""
        return max(0.0, self._until - self._clock()) if self._failures else 0.0

    def enter(self) -> bool:
        """About to ask. ``False``: don't. Each ``True`` is followed by one of the three below."""
        if not self.lets_pass:
            return False
        self._is_probed = bool(self._failures)
        return True

    def succeeded(self) -> None:
        self._is_probed = False
        self._succeeded = self._clock()
        if self._failures:
            self._failures = 0
            logger.info("proxy-cache: %s works again", self._what)

    def failed(self, reason: str, since: float | None = None) -> None:
        """``since``: when it was asked, if others may have been answered meanwhile: then it is only slow, for some."""
        now = self._clock()
        self._is_probed = False
        if since is not None and not self._failures and self._succeeded > since:
            return
        if self._failures and now < self._until:
            return  # one of several that were asked at the same time
        pause = min(LONGEST, FIRST * 2 ** min(self._failures, 10)) * random.uniform(1.0, 1.5)
        if not self._failures:
            logger.warning("proxy-cache: %s fails, and is left alone for a while: %s", self._what, reason)
        self._failures += 1
        self._until = now + pause

    def left(self) -> None:
        """Nothing is known: whoever asked has gone."""
        self._is_probed = False
