"""The origin limiter of the whole machine, in the parent: one queue and one count for all workers.

Dividing the slots would be exact, too, but only as a bound: what one worker doesn't use another could not have, fewer
slots than workers could not be divided at all, and a queue would be fair among the clients of one worker. So each fill
that needs a slot takes its place here (:class:`~..caching.limiter.OriginLimiter`, as in a single process), by a message
each way, if a limit is set. What a worker held when it died comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ..caching.limiter import Limits, OriginLimiter, Overloaded, Place, Ticket, TicketState

TELL_AFTER: Final = 0.01
"""Seconds for which changes of the queue are gathered before all workers are told."""
HOSTS_TOLD: Final = 100


class MachineSlots:
    """All on the event loop."""

    def __init__(self) -> None:
        self.limiter = OriginLimiter()
        self._workers: set[WorkerSlots] = set()
        self._told: list[Any] = []
        self._telling: asyncio.TimerHandle | None = None

    def worker(self, send: Callable[..., None]) -> WorkerSlots:
        """For a worker that has started. ``send`` sends it a message."""
        worker = WorkerSlots(self.limiter, send, self.changed)
        self._workers.add(worker)
        self._told = []
        self.changed()
        return worker

    def lost(self, worker: WorkerSlots) -> None:
        """It has ended: nothing of its is under way or waited for any more."""
        self._workers.discard(worker)
        worker.close()
        self.changed()

    def changed(self) -> None:
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TELL_AFTER, self._tell)

    def _tell(self) -> None:
        """Fills that give way to what is queued may be another worker's."""
        self._telling = None
        has_queue, is_saturated, is_full, hosts = self.limiter.queue_state()
        state: list[Any] = [has_queue, is_saturated, is_full, hosts[:HOSTS_TOLD]]
        if state != self._told:
            self._told = state
            for worker in self._workers:
                worker.send("queue", *state)


class WorkerSlots:
    """The tickets of one worker, by its own numbers for them."""

    def __init__(self, limiter: OriginLimiter, send: Callable[..., None], on_change: Callable[[], None]) -> None:
        self.send = send
        self._limiter, self._on_change = limiter, on_change
        self._tickets: dict[int, Ticket] = {}
        self._places: dict[int, Place] = {}
        """Those that wait, by the worker's numbers for them, too."""
        self._places_of: dict[int, list[int]] = {}
        """The numbers of the places of a ticket that waits."""
        self._waits: set[asyncio.Task[None]] = set()
        self.messages: dict[str, Callable[..., None]] = {
            "limits": self._limits, "enter": self._enter, "hold": self._hold, "join": self._join, "leave": self._leave,
            "end": self._end,
        }  # fmt: skip

    def close(self) -> None:
        for ticket in list(self._tickets.values()):
            ticket.end()
        self._tickets.clear()
        self._places.clear()
        self._places_of.clear()

    def _limits(self, *values: Any) -> None:
        self._limiter.configure(Limits(*values))
        self._on_change()

    def _enter(self, number: int, place_number: int, host: str, client: str, patience: float | None) -> None:
        try:
            ticket, place = self._limiter.enter(host, client, partial(self._over, place_number), patience)
        except Overloaded as overloaded:
            self._over(place_number, overloaded)
            return
        self._tickets[number] = ticket
        if place is None:
            self.send("admit", number)
            return
        self._places[place_number] = place
        self._places_of[number] = places = [place_number]
        self.send("queued", number)
        wait = asyncio.get_running_loop().create_task(self._wait(number, ticket, places))
        self._waits.add(wait)
        wait.add_done_callback(self._waits.discard)
        self._on_change()

    async def _wait(self, number: int, ticket: Ticket, places: list[int]) -> None:
        try:
            await ticket.admission()
        except asyncio.CancelledError:  # there will be no slot, which its places have been told
            if self._tickets.get(number) is ticket:  # (else it was asked for anew)
                del self._tickets[number]
        else:
            self.send("admit", number)
        for place_number in places:
            self._places.pop(place_number, None)
        if self._places_of.get(number) is places:
            del self._places_of[number]
        self._on_change()

    def _hold(self, number: int, host: str) -> None:
        if number not in self._tickets:  # (it may be known from before limits were lifted)
            self._tickets[number] = self._limiter.adopt(host)

    def _join(self, number: int, place_number: int, host: str, client: str, patience: float | None) -> None:
        ticket = self._tickets.get(number)
        if ticket is None or ticket.state is TicketState.ENDED:
            # That its first place has no slot crosses with this: who joins asks on its own behalf.
            self._enter(number, place_number, host, client, patience)
            return
        try:
            place = ticket.join(client, partial(self._over, place_number), patience)
        except Overloaded as overloaded:
            self._over(place_number, overloaded)
            return
        if place is not None:
            self._places[place_number] = place
            self._places_of.setdefault(number, []).append(place_number)

    def _leave(self, place_number: int) -> None:
        place = self._places.pop(place_number, None)
        if place is not None:
            place.leave()
            self._on_change()

    def _end(self, number: int) -> None:
        ticket = self._tickets.pop(number, None)
        if ticket is not None:
            ticket.end()
            self._on_change()

    def _over(self, place_number: int, overloaded: Overloaded) -> None:
        self._places.pop(place_number, None)
        self.send("over", place_number, overloaded.outcome, overloaded.retry_after, overloaded.waited)
        self._on_change()
