"""The origin limiter: at most so many fills run at once; the others queue, fairly between clients.

A fill asks for a slot with one :class:`Ticket`. Every flow that waits for this fill takes a :class:`Place` in the
queue of its own client, so a ticket stands in as many clients' queues as want it, and is admitted when the first of
them has its turn: joining a fill that a greedy client queued 300 places back costs a modest client nothing.

Turns go round robin over the clients; within a client, first in, first out. The length of the queue is shared in the
same way: when it is full, a client with a short queue takes the newest place of the client with the longest one. A
place ends by itself when it has waited ``queue_timeout``, or as long as a rule lets its request wait; a ticket without
a place left ends too.

Nothing here does I/O: an admission resolves ``Ticket.admission``, and a place is told of its end by a callback.
"""

from __future__ import annotations

import asyncio
import enum
import random
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from ..semantics.redaction import redacted
from .client_queues import ClientQueues
from .limiter_waits import Waits

LOOKS_MAX = 2048
"""Places that are looked at to make room for one request in a full queue."""
PACE_WINDOW = 64
"""The recent pace of fills is taken over so many ended fills."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator may set, at start or while running. ``0`` in flight means no limit."""

    max_in_flight: int = 0
    max_in_flight_per_host: int = 0
    queue_max: int = 1024
    queue_timeout: float = 10.0
    """Seconds a place may wait for its turn, unless it comes with a patience of its own."""
    queue_max_per_client: int = 0
    """Tickets that one client may wait for; 0: no limit but ``queue_max``."""


class Overloaded(Exception):
    """No slot in time. ``outcome`` is the histogram's label, ``retry_after`` whole seconds (RFC 9110 §10.2.3)."""

    def __init__(self, outcome: str, retry_after: int, waited: float = 0.0) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.retry_after = retry_after
        self.waited = waited


class TicketState(enum.Enum):
    QUEUED = "queued"
    ACTIVE = "active"
    ENDED = "ended"


class Place:
    """One flow's place in the queue of its client."""

    __slots__ = ("client", "on_end", "patience", "since", "ticket")

    def __init__(
        self,
        ticket: Ticket,
        client: str,
        since: float,
        on_end: Callable[[Overloaded], None],
        patience: float | None = None,
    ) -> None:
        self.ticket = ticket
        self.client = client
        self.since = since
        self.on_end = on_end
        self.patience = patience
        """Seconds it may wait; ``None``: as long as the limits say."""

    def leave(self) -> None:
        """The flow no longer waits: its client went away, or it got what it wanted elsewhere. Idempotent."""
        self.ticket.limiter.leave_place(self, "canceled")


class Ticket:
    """A fill's claim to one slot, from its place in the queue to its last byte."""

    __slots__ = ("_admitted", "host", "limiter", "places", "seq", "since", "state")

    def __init__(self, limiter: OriginLimiter, host: str, seq: int, since: float) -> None:
        self.limiter = limiter
        self.host = host
        self.seq = seq
        self.since = since
        self.state = TicketState.QUEUED
        self.places: set[Place] = set()
        self._admitted: asyncio.Future[None] | None = None

    def join(self, client: str, on_end: Callable[[Overloaded], None], patience: float | None = None) -> Place | None:
        """Another flow wants this fill, and may wait ``patience`` seconds for its slot (``None``: as the limits say).
        ``None`` when there is nothing to wait for, the slot being there already.

        Raises :class:`Overloaded` (``rejected``) when its client waits for as many fills as it may.
        """
        if self.state is not TicketState.QUEUED:
            return None
        return self.limiter.join_ticket(self, client, on_end, patience)

    async def admission(self) -> None:
        """Wait for the slot. Ends with ``CancelledError`` when there will be none."""
        if self.state is TicketState.QUEUED:
            self._admitted = asyncio.get_running_loop().create_future()
            await self._admitted
        elif self.state is TicketState.ENDED:
            raise asyncio.CancelledError

    def end(self, outcome: str = "", first_byte: float | None = None) -> None:
        """Give the slot back, or the place in the queue. Idempotent: every path out of a fill may call it.

        ``outcome``: of the exchange, as ``origin_fetches_total`` names it; ``first_byte``: seconds
        from the origin's being asked to its response, ``None`` if there was none.
        """
        self.limiter.end_ticket(self, outcome, first_byte)

    def __repr__(self) -> str:
        return f"<Ticket {self.seq} {redacted(self.host)} {self.state.value}, {len(self.places)} waiting>"


class OriginLimiter:
    """Slots for origin fills and the queue before them.

    ``observe(outcome, seconds)`` is called once for each ticket that had to wait or was turned away: ``admitted``,
    ``canceled``, ``timeout`` or ``rejected``. A ticket that found a free slot is not observed. ``on_queued()`` is
    called when one more fill has started to wait.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        observe: Callable[[str, float], None] = lambda outcome, seconds: None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.on_queued: Callable[[], None] = lambda: None
        self.on_slot_end: Callable[[str, str, float | None], None] | None = None
        """Called with the host, the outcome and the seconds to the first byte, see :meth:`Ticket.end`."""
        self._observe = observe
        self._clock = clock
        self._rng = rng or random.Random()
        self._seq = 0
        self._active: set[Ticket] = set()
        self._active_per_host: dict[str, int] = {}
        self._queue: OrderedDict[Ticket, None] = OrderedDict()
        """Tickets in order of arrival; what ``queue_max`` counts."""
        self._clients: ClientQueues[Ticket] = ClientQueues()
        self._queued_per_host: Counter[str] = Counter()
        self._waits: Waits[Place] = Waits()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._ended: deque[float] = deque(maxlen=PACE_WINDOW)

    # -- what the rest of the cache asks ------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self._active)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def has_queue(self) -> bool:
        """Whether a fill waits, here or in another process that shares the slots."""
        return bool(self._queue)

    def enter(
        self, host: str, client: str, on_end: Callable[[Overloaded], None], patience: float | None = None
    ) -> tuple[Ticket, Place | None]:
        """A new fill wants a slot, on behalf of the flow that starts it, which may wait ``patience`` seconds for it
        (``None``: as the limits say).

        Returns the ticket, and that flow's place if it has to queue. Raises :class:`Overloaded` (``rejected``) when
        there is neither a slot nor room in the queue.
        """
        self._seq += 1
        ticket = Ticket(self, host, self._seq, self._clock())
        if self._has_slot() and self._host_has_capacity(host):
            # Not queue-jumping: whoever is queued waits for a host at its limit.
            self._admit(ticket)
            return ticket, None
        if self._is_at_client_limit(client) or (self.is_full and not self._displace_for(client)):
            self._reject()
        self._queue[ticket] = None
        self._queued_per_host[host] += 1
        place = self._add_place(ticket, client, on_end, patience)
        self.on_queued()
        return ticket, place

    def adopt(self, host: str) -> Ticket:
        """A ticket for a fill that runs already, whatever the limits say."""
        self._seq += 1
        ticket = Ticket(self, host, self._seq, self._clock())
        self._admit(ticket)
        return ticket

    def forecast(self, host: str, client: str, patience: float | None = None) -> str:
        """What would come of :meth:`enter` now: a slot at once (``admitted``), a place in the queue (``queued``), one
        that ends at once (``timeout``: without any patience), or neither (``rejected``). Changes nothing."""
        if self._has_slot() and self._host_has_capacity(host):
            return "admitted"
        if self._is_at_client_limit(client) or (self.is_full and self._to_displace_for(client) is None):
            return "rejected"
        return "queued" if (self.limits.queue_timeout if patience is None else patience) > 0 else "timeout"

    @property
    def is_full(self) -> bool:
        """Whether the queue has no place left."""
        return len(self._queue) >= self.limits.queue_max

    def queue_state(self) -> tuple[bool, bool, bool, list[str]]:
        """Whether anything is queued, all slots are taken, and the queue is full; and the hosts of what is queued."""
        return bool(self._queue), not self._has_slot(), self.is_full, list(self._queued_per_host)

    def is_waited_for(self, ticket: Ticket) -> bool:
        """Whether somebody in the queue could run if this ticket gave its slot back."""
        if ticket.state is not TicketState.ACTIVE or not self._queue:
            return False
        return not self._has_slot() or ticket.host in self._queued_per_host

    def configure(self, limits: Limits) -> None:
        """Apply new limits to the queue at hand: slots, order of arrival and time already waited stay."""
        self.limits = limits
        while len(self._queue) > limits.queue_max:
            newest = next(reversed(self._queue))
            self._finish_wait(newest, "rejected")
        self._pump()

    def retry_after(self) -> int:
        """Whole seconds, 1 to 10: how long the queue will take at the recent pace, spread so that agents which were
        turned away in the same second do not come back in the same second."""
        expected = 5.0
        if len(self._ended) >= 2:
            span = max(self._clock() - self._ended[0], 1e-3)
            expected = (len(self._queue) + 1) / (len(self._ended) / span)
        base = min(max(expected, 1.0), 10.0)
        low = max(1, int(base / 2))
        high = min(10, max(low + 3, round(base * 1.5)))
        return self._rng.randint(low, high)

    def snapshot(self) -> dict[str, Any]:
        """The state in words and numbers, for ``/status``."""
        now = self._clock()
        oldest = self._waits.oldest()
        return {
            "max_in_flight": self.limits.max_in_flight,
            "max_in_flight_per_host": self.limits.max_in_flight_per_host,
            "queue_max": self.limits.queue_max,
            "queue_max_per_client": self.limits.queue_max_per_client,
            "queue_timeout_seconds": self.limits.queue_timeout,
            "in_flight": len(self._active),
            "in_flight_per_host": dict(self._active_per_host),
            "queued": len(self._queue),
            "queued_per_client": self._clients.sizes(),
            "oldest_wait_seconds": round(now - oldest.since, 3) if oldest else 0.0,
        }

    def __repr__(self) -> str:
        limit = self.limits.max_in_flight or "unlimited"
        oldest = self._waits.oldest()
        age = f", oldest {self._clock() - oldest.since:.1f} s" if oldest else ""
        return (
            f"<OriginLimiter {len(self._active)} of {limit} slots taken, "
            f"{len(self._queue)} queued for {len(self._clients)} clients{age}>"
        )

    # -- the queue: every change of who holds a slot is made by _pump ---------------------------------------------

    def _pump(self) -> None:
        """Hand out what is free. Called whenever a ticket arrives, leaves or ends, and when the limits change.

        1. While a slot is free, the first client in the rotation that has a ticket for a host with room gets it and
           goes to the end of the rotation. A client that waits for full hosts only keeps its turn.
        2. Places that have waited too long end.
        3. The timer is set for the next place to do so.
        """
        while self._has_slot() and self._queue:
            ticket = self._clients.next_turn(self._host_has_capacity)
            if ticket is None:
                break
            self._finish_wait(ticket, "admitted")
        now = self._clock()
        while (ending := self._waits.next_to_end(self.limits.queue_timeout)) is not None and now >= ending[0]:
            self._drop_place(ending[1], "timeout")
        self._set_timer()

    def _has_slot(self) -> bool:
        limit = self.limits.max_in_flight
        return limit == 0 or len(self._active) < limit

    def _host_has_capacity(self, host: str) -> bool:
        limit = self.limits.max_in_flight_per_host
        return limit == 0 or self._active_per_host.get(host, 0) < limit

    def _admit(self, ticket: Ticket) -> None:
        ticket.state = TicketState.ACTIVE
        self._active.add(ticket)
        self._active_per_host[ticket.host] = self._active_per_host.get(ticket.host, 0) + 1
        if ticket._admitted is not None and not ticket._admitted.done():
            ticket._admitted.set_result(None)

    def _reject(self) -> NoReturn:
        self._observe("rejected", 0.0)
        raise Overloaded("rejected", self.retry_after())

    def _is_at_client_limit(self, client: str) -> bool:
        limit = self.limits.queue_max_per_client
        return limit > 0 and self._clients.length(client) >= limit

    def _displace_for(self, client: str) -> bool:
        """Make room in a full queue. Whether there is room now."""
        ticket = self._to_displace_for(client)
        if ticket is not None:
            self._finish_wait(ticket, "rejected")
        return ticket is not None

    def _to_displace_for(self, client: str) -> Ticket | None:
        """The ticket that has to make room in a full queue: the newest one of the client with the longest queue,
        unless a client that has no more than this one waits for it as well. If all of its tickets are such, the next
        client's are looked at, and so on.

        Only where that brings the two closer together: of clients that have one ticket each, whoever came first stays.
        """
        least = self._clients.length(client) + 2
        looks = LOOKS_MAX
        for ticket in self._clients.longest_first(least):
            for place in ticket.places:
                looks -= 1
                if self._clients.length(place.client) < least:
                    break
            else:
                return ticket
            if looks < 0:
                break
        return None

    def join_ticket(
        self, ticket: Ticket, client: str, on_end: Callable[[Overloaded], None], patience: float | None
    ) -> Place:
        """See :meth:`Ticket.join`."""
        if self._is_at_client_limit(client) and not self._clients.has(client, ticket):
            self._reject()
        return self._add_place(ticket, client, on_end, patience)

    def _add_place(
        self, ticket: Ticket, client: str, on_end: Callable[[Overloaded], None], patience: float | None
    ) -> Place:
        place = Place(ticket, client, self._clock(), on_end, patience)
        ticket.places.add(place)
        self._waits.add(place)
        self._clients.add(client, ticket)
        if self._timer is None or (patience is not None and place.since + patience < self._timer_at):
            self._set_timer()
        return place

    def _finish_wait(self, ticket: Ticket, outcome: str) -> None:
        """The ticket leaves the queue: into a slot (``admitted``) or for good (any other outcome)."""
        del self._queue[ticket]
        self._queued_per_host[ticket.host] -= 1
        if not self._queued_per_host[ticket.host]:
            del self._queued_per_host[ticket.host]
        places, ticket.places = ticket.places, set()
        for place in places:
            self._waits.remove(place)
            self._clients.discard(place.client, ticket, wholly=True)
        waited = self._clock() - ticket.since
        self._observe(outcome, waited)
        if outcome == "admitted":
            self._admit(ticket)
            return
        ticket.state = TicketState.ENDED
        if ticket._admitted is not None:
            ticket._admitted.cancel()
        if outcome != "canceled":  # who leaves of its own accord need not be told
            for place in places:
                place.on_end(Overloaded(outcome, self.retry_after(), self._clock() - place.since))

    def _drop_place(self, place: Place, outcome: str) -> None:
        """One flow stops waiting; the ticket goes with the last of them."""
        ticket = place.ticket
        if place not in ticket.places:
            return
        if len(ticket.places) == 1:
            # The outcome of the last to leave is the outcome of the ticket.
            self._finish_wait(ticket, outcome)
            return
        ticket.places.discard(place)
        self._waits.remove(place)
        self._clients.discard(place.client, ticket)
        if outcome != "canceled":
            place.on_end(Overloaded(outcome, self.retry_after(), self._clock() - place.since))

    def leave_place(self, place: Place, outcome: str) -> None:
        """See :meth:`Place.leave`."""
        self._drop_place(place, outcome)
        self._set_timer()

    def end_ticket(self, ticket: Ticket, outcome: str, first_byte: float | None) -> None:
        """See :meth:`Ticket.end`."""
        if ticket.state is TicketState.ACTIVE:
            # The race this covers: _pump admits the ticket, and before its task runs again that task is cancelled.
            # The slot is held all the same and comes back here, through the task's ``finally``.
            ticket.state = TicketState.ENDED
            self._active.discard(ticket)
            left = self._active_per_host.pop(ticket.host) - 1
            if left:
                self._active_per_host[ticket.host] = left
            self._ended.append(self._clock())
            if self.on_slot_end is not None:
                self.on_slot_end(ticket.host, outcome, first_byte)
            if self._queue:
                self._pump()
        elif ticket.state is TicketState.QUEUED:
            self._finish_wait(ticket, "canceled")
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ending = self._waits.next_to_end(self.limits.queue_timeout)
        if ending is not None:
            self._timer_at = ending[0]
            delay = max(0.0, ending[0] - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()
