"""Which peers are left alone for a while, since they could not be reached or were slow to answer.

A peer that failed is left alone for a second, then for two, four, up to a minute. When that time is over, exactly one
request probes it, and all others go on as if it were away until that one has its answer.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from .peer import Peer

logger = logging.getLogger(__name__)

ALONE_FIRST: Final = 1.0
"""Seconds after the first failure."""
ALONE_MAX: Final = 60.0
"""Seconds."""
JITTER: Final = 0.25
"""The times are shorter by up to this share, so that the nodes of a fleet don't come back to a peer at once."""
BREAKS: Final = 3
"""Bodies of a peer that have broken off one after the other, although it goes on answering: one or two may be their
origin's doing, which the peer passes on."""
_REASON_MAX: Final = 200
"""Characters."""


@dataclass(frozen=True, slots=True)
class PeerState:
    """For the status page."""

    url: str
    is_self: bool
    state: str
    """``up`` or ``left alone``."""
    failures: int
    """In a row."""
    next_probe_in: float | None
    """Seconds until a request may try it, 0 if the next one that comes does or one is trying; ``None`` if it is up."""
    reason: str
    """Why it is left alone."""


class _Record:
    """What is known of one peer."""

    __slots__ = (
        "alone_for", "back_at", "breaks", "failures", "is_probed", "level", "reason", "since", "times_back", "until",
    )  # fmt: skip

    def __init__(self) -> None:
        self.failures = 0
        """In a row."""
        self.level = 0
        """The same, but one that comes back and fails again at once has not recovered: the times go on growing."""
        self.until: float | None = None
        """When it may be probed; ``None`` if it is up."""
        self.breaks = 0
        """Bodies that broke off, since one came whole."""
        self.since = 0.0
        """When it was first left alone."""
        self.alone_for = 0.0
        """Seconds, the last time."""
        self.back_at = 0.0
        self.times_back = 0
        self.is_probed = False
        self.reason = ""


class Attempt:
    """One request to a peer, as a context: tell how it went by :meth:`worked` or :meth:`failed`, once. If it ends
    untold, because its task was cancelled, that says nothing about the peer, and the next request may probe it."""

    __slots__ = ("_has_worked", "_health", "_is_told", "_record", "is_probe", "peer", "times_back")

    def __init__(self, health: Health, peer: Peer, record: _Record, is_probe: bool) -> None:
        self._health = health
        self.peer = peer
        self._record = record
        self.is_probe = is_probe
        self.times_back = record.times_back
        self._is_told = self._has_worked = False

    @property
    def has_failed(self) -> bool:
        return self._is_told and not self._has_worked

    def worked(self) -> None:
        """It has answered."""
        if not self._is_told:
            self._is_told = self._has_worked = True
            self._health.worked(self, self._record)

    def failed(self, reason: str) -> None:
        """It could not be reached, or did not answer in time."""
        if not self._is_told:
            self._is_told = True
            self._health.failed(self, self._record, reason)

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_probe and not self._is_told:
            self._record.is_probed = False
        self._is_told = True


class Health:
    """All on the event loop. ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: dict[str, _Record] = {}
        """By URL."""

    def is_up(self, peer: Peer) -> bool:
        """Whether a request may go to it now: it is up, or may be probed. Changes nothing."""
        record = self._records.get(peer.url)
        return record is None or record.until is None or (not record.is_probed and self._clock() >= record.until)

    def attempt(self, peer: Peer) -> Attempt | None:
        """A request is to go to it. ``None``: it is left alone, go on to the next in rank. Of many requests that come
        when it may be probed, one gets an attempt."""
        record = self._records.get(peer.url)
        if record is None:
            record = self._records[peer.url] = _Record()
        if record.until is None:
            return Attempt(self, peer, record, is_probe=False)
        if record.is_probed or self._clock() < record.until:
            return None
        record.is_probed = True
        return Attempt(self, peer, record, is_probe=True)

    def body_ended(self, peer: Peer, reason: str) -> bool:
        """A body of its was whole (no ``reason``), or broke off. Whether it is worth asking whether it is there: if it
        is not, it has :meth:`stopped`."""
        record = self._records.get(peer.url)
        if record is None or not reason:
            if record is not None:
                record.breaks = 0
            return False
        record.breaks += 1
        if record.breaks >= BREAKS:
            self.stopped(peer, reason)
            return False
        return record.until is None

    def stopped(self, peer: Peer, reason: str) -> None:
        """It is not there any more, which no request was told."""
        record = self._records.get(peer.url)
        if record is not None and record.until is None:
            self.failed(Attempt(self, peer, record, is_probe=False), record, reason)

    def keep(self, peers: Iterable[Peer]) -> None:
        """Forget all peers but these: the list has changed."""
        urls = {peer.url for peer in peers}
        for url in self._records.keys() - urls:
            del self._records[url]

    def states(self, peers: Iterable[Peer]) -> list[PeerState]:
        return [self._state(peer) for peer in peers]

    def _state(self, peer: Peer) -> PeerState:
        record = self._records.get(peer.url) or _Record()
        if record.until is None:
            return PeerState(peer.url, peer.is_self, "up", record.failures, None, "")
        seconds = 0.0 if record.is_probed else max(0.0, record.until - self._clock())
        return PeerState(peer.url, peer.is_self, "left alone", record.failures, seconds, record.reason)

    # -- what attempts tell -------------------------------------------------------------------------------------------

    def worked(self, attempt: Attempt, record: _Record) -> None:
        # Fifty requests were under way when the first one failed, and this one was answered nevertheless: if it is no
        # probe, wait for that, or the log would tell of a peer that comes and goes.
        if record.until is not None and attempt.is_probe:
            record.until, record.is_probed = None, False
            record.failures, record.back_at = 0, self._clock()
            record.times_back += 1
            logger.info("proxy-cache: peer %s is back, after %.0f s", attempt.peer, record.back_at - record.since)

    def failed(self, attempt: Attempt, record: _Record, reason: str) -> None:
        now = self._clock()
        was_up = record.until is None
        if not attempt.is_probe and not (was_up and attempt.times_back == record.times_back):
            return  # one of those fifty: the same trouble once more, perhaps after the peer has come back
        if was_up:
            record.since = now
            if now - record.back_at >= record.alone_for:
                record.level = 0  # it has been well for as long as it was left alone
        record.failures += 1
        record.level += 1
        alone_for = min(ALONE_MAX, ALONE_FIRST * 2.0 ** min(record.level - 1, 16))
        record.alone_for = alone_for * random.uniform(1 - JITTER, 1)
        record.until, record.is_probed = now + record.alone_for, False
        record.reason = " ".join(reason.split())[:_REASON_MAX] or "unknown"
        if was_up:
            logger.warning("proxy-cache: peer %s is left alone for a while: %s", attempt.peer, record.reason)
