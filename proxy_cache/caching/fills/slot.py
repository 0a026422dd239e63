"""A fill's claim to a slot of the limiter, from the first waiter in the queue to the origin's last byte."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Protocol

from ...upstream.stopwatch import QUEUE, Stopwatch
from ..limiter import OriginLimiter, Overloaded, Place, Ticket, TicketState


class Queuer(Protocol):
    """A :class:`~.fill.Waiter`, as long as it waits for the slot."""

    @property
    def client(self) -> str: ...

    @property
    def patience(self) -> float | None: ...

    place: Place | None

    def overloaded(self, overloaded: Overloaded) -> None: ...

    def admitted(self) -> None: ...


class OriginSlot:
    """Taken when the origin's turn has come (see :class:`~...upstream.source.OriginSource`), on behalf of all who wait
    by then; who joins later gets a place of their own in the queue. Given back as soon as the origin has no part in
    what is left to do: the slot is the origin's and not the disk's.
    """

    __slots__ = ("_host", "_limiter", "_ticket", "_watch", "asked", "first_byte")

    def __init__(self, limiter: OriginLimiter, host: str, watch: Stopwatch) -> None:
        self._limiter = limiter
        self._host = host
        self._watch = watch
        self._ticket: Ticket | None = None
        self.asked: float | None = None
        """When the origin was asked first, by the monotonic clock; ``None``: not yet."""
        self.first_byte: float | None = None
        """Seconds from then to the head of the response."""

    @property
    def is_wanted(self) -> bool:
        """Whether the fill queues for it, or holds it."""
        return self._ticket is not None

    @property
    def is_held(self) -> bool:
        """Whether it has been granted, and not been given back."""
        return self._ticket is not None and self._ticket.state is TicketState.ACTIVE

    @property
    def is_waited_for(self) -> bool:
        """Whether a queued fill could run if this one gave its slot back."""
        return self._ticket is not None and self._limiter.is_waited_for(self._ticket)

    def enter(self, waiter: Queuer) -> None:
        """A place in the queue for one waiter, unless the slot is free or held. Raises :class:`Overloaded`."""
        ticket = self._ticket
        if ticket is not None:
            waiter.place = ticket.join(waiter.client, waiter.overloaded, waiter.patience)
            return
        self._ticket, waiter.place = self._limiter.enter(self._host, waiter.client, waiter.overloaded, waiter.patience)

    async def granted(self, waiters: Collection[Queuer]) -> None:
        """Wait for it on behalf of ``waiters``, as they come and go. Ends with ``CancelledError`` if there will be
        none, or :class:`Overloaded` if no waiter has a place in the queue (each has been told)."""
        if self._ticket is None:
            self._enter_all(waiters)
        ticket = self._ticket
        assert ticket is not None
        if ticket.state is not TicketState.ACTIVE:
            with self._watch.begin(QUEUE, at=ticket.since):
                await ticket.admission()
            for waiter in waiters:
                waiter.admitted()
        if self.asked is None:
            self.asked = time.monotonic()

    def _enter_all(self, waiters: Collection[Queuer]) -> None:
        refused: Overloaded | None = None
        for waiter in list(waiters):
            try:
                self.enter(waiter)
            except Overloaded as error:
                refused = error
                waiter.overloaded(error)
        if self._ticket is None:
            raise refused or Overloaded("canceled", 1)

    def answered(self) -> None:
        """The head of the response is here."""
        if self.first_byte is None and self.asked is not None:
            self.first_byte = time.monotonic() - self.asked

    def give_back(self, outcome: str) -> None:
        """The origin has no part in what is left to do, unless that fails: then the slot is queued for again."""
        self.end(outcome)
        self._ticket = None

    def end(self, outcome: str) -> None:
        """Give it back, or the places in the queue. Idempotent. ``outcome``: as ``origin_fetches_total`` names it."""
        if self._ticket is not None:
            self._ticket.end(outcome, self.first_byte)
