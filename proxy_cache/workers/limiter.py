"""A worker's end of the machine's origin limiter (:mod:`.slots`).

As long as no limit is set nothing is asked. Else each ticket waits for the parent's word, which takes a fraction of a
millisecond if there is a slot; that time alone is no wait in the metrics.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple
from itertools import count
from typing import Any

from ..caching.limiter import Limits, OriginLimiter, Overloaded, Place, Ticket, TicketState


class WorkerLimiter(OriginLimiter):
    """``send`` sends the parent a message."""

    def __init__(self, observe: Callable[[str, float], None], send: Callable[..., None]) -> None:
        super().__init__(observe=observe)
        self._send = send
        self._numbers = count(1)
        self._tickets: dict[int, Ticket] = {}
        """Those that the parent knows, by their numbers (:attr:`Ticket.seq`)."""
        self._waiting: set[Ticket] = set()
        """Those that the parent has queued."""
        self._places: dict[int, Place] = {}
        self._place_numbers: dict[Place, int] = {}
        self._has_queue = self._is_saturated = self._is_full = False
        self._hosts: frozenset[str] = frozenset()
        self.messages: dict[str, Callable[..., None]] = {
            "admit": self._admitted, "queued": self._queued, "over": self._place_is_over, "queue": self._told,
        }  # fmt: skip

    @property
    def _is_limited(self) -> bool:
        return bool(self.limits.max_in_flight or self.limits.max_in_flight_per_host)

    # -- what the rest of the cache asks ----------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Of this worker."""
        return len(self._waiting)

    @property
    def has_queue(self) -> bool:
        return self._has_queue

    @property
    def is_full(self) -> bool:
        return self._is_full

    def is_waited_for(self, ticket: Ticket) -> bool:
        if ticket.state is not TicketState.ACTIVE or not self._has_queue:
            return False
        return self._is_saturated or ticket.host in self._hosts

    def configure(self, limits: Limits) -> None:
        was_limited, self.limits = self._is_limited, limits
        self._send("limits", *astuple(limits))
        if self._is_limited and not was_limited:
            for ticket in self._active:
                self._tickets[ticket.seq] = ticket
                self._send("hold", ticket.seq, ticket.host)

    def enter(
        self, host: str, client: str, on_end: Callable[[Overloaded], None], patience: float | None = None
    ) -> tuple[Ticket, Place | None]:
        if not self._is_limited:
            return super().enter(host, client, on_end, patience)
        self._seq += 1
        ticket = Ticket(self, host, self._seq, time.monotonic())
        self._tickets[ticket.seq] = ticket
        place, number = self._take_place(ticket, client, on_end, patience)
        self._send("enter", ticket.seq, number, host, client, patience)
        return ticket, place

    def join_ticket(
        self, ticket: Ticket, client: str, on_end: Callable[[Overloaded], None], patience: float | None
    ) -> Place:
        place, number = self._take_place(ticket, client, on_end, patience)
        self._send("join", ticket.seq, number, ticket.host, client, patience)
        return place

    def leave_place(self, place: Place, outcome: str) -> None:
        ticket = place.ticket
        if place not in ticket.places:
            return
        self._send("leave", self._forget(place))
        if not ticket.places:
            self._has_ended(ticket, outcome)
            # The parent may have given it a slot just now: then it has no places there any more, and would keep that.
            self._send("end", ticket.seq)

    def end_ticket(self, ticket: Ticket, outcome: str, first_byte: float | None) -> None:
        if ticket.state is TicketState.ENDED:
            return
        is_known = ticket.seq in self._tickets
        if ticket.state is TicketState.ACTIVE:
            self._tickets.pop(ticket.seq, None)
            super().end_ticket(ticket, outcome, first_byte)
        else:
            for place in list(ticket.places):
                self._forget(place)
            self._has_ended(ticket, "canceled")
        if is_known:
            self._send("end", ticket.seq)

    def forecast(self, host: str, client: str, patience: float | None = None) -> str:
        if not self._is_limited or not (self._is_saturated or host in self._hosts):
            return "admitted"
        if self._is_full:
            return "rejected"
        return "queued" if (self.limits.queue_timeout if patience is None else patience) > 0 else "timeout"

    def snapshot(self) -> dict[str, Any]:
        """The limits are the machine's, and what is counted is this worker's."""
        now = time.monotonic()
        clients = (place.client for place in self._places.values() if place.ticket in self._waiting)
        return {
            **super().snapshot(),
            "queued": len(self._waiting),
            "queued_per_client": dict(Counter(clients)),
            "oldest_wait_seconds": round(max((now - ticket.since for ticket in self._waiting), default=0.0), 3),
        }

    # -- what the parent says ---------------------------------------------------------------------------------------

    def _admitted(self, number: int) -> None:
        ticket = self._tickets.get(number)
        if ticket is None:
            return  # it has ended, which the parent is just hearing
        has_queued = ticket in self._waiting
        for place in list(ticket.places):
            self._forget(place)
            if not has_queued:
                place.since = time.monotonic()  # it has waited for an answer, and not in a queue
        if has_queued:
            self._waiting.discard(ticket)
            self._observe("admitted", time.monotonic() - ticket.since)
        self._admit(ticket)

    def _queued(self, number: int) -> None:
        ticket = self._tickets.get(number)
        if ticket is not None:
            self._waiting.add(ticket)

    def _place_is_over(self, number: int, outcome: str, retry_after: int, waited: float) -> None:
        place = self._places.get(number)
        if place is None:
            return  # it has left
        self._forget(place)
        if not place.ticket.places:
            self._waiting.add(place.ticket)  # (one that was turned away is counted, too)
            self._has_ended(place.ticket, outcome)
            self._send("end", place.ticket.seq)  # it may have got a slot just now, on behalf of one that has left
        place.on_end(Overloaded(outcome, retry_after, waited))

    def _told(self, has_queue: bool, is_saturated: bool, is_full: bool, hosts: list[str]) -> None:
        """How the machine's queue is."""
        self._has_queue, self._is_saturated, self._is_full = has_queue, is_saturated, is_full
        self._hosts = frozenset(hosts)
        if has_queue:
            self.on_queued()

    # -- places -----------------------------------------------------------------------------------------------------

    def _take_place(
        self, ticket: Ticket, client: str, on_end: Callable[[Overloaded], None], patience: float | None
    ) -> tuple[Place, int]:
        place, number = Place(ticket, client, time.monotonic(), on_end, patience), next(self._numbers)
        ticket.places.add(place)
        self._places[number], self._place_numbers[place] = place, number
        return place, number

    def _forget(self, place: Place) -> int:
        """Returns its number."""
        place.ticket.places.discard(place)
        number = self._place_numbers.pop(place)
        del self._places[number]
        return number

    def _has_ended(self, ticket: Ticket, outcome: str) -> None:
        """A queued ticket gets no slot."""
        self._tickets.pop(ticket.seq, None)
        ticket.state = TicketState.ENDED
        if ticket in self._waiting:
            self._waiting.discard(ticket)
            self._observe(outcome, time.monotonic() - ticket.since)
        if ticket._admitted is not None:
            ticket._admitted.cancel()
