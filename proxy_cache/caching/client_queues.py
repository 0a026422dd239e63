"""The queue of each client, and the turns that go round between them.

A client's tickets are kept by host, so that a host at its limit is stepped over without a search. Clients are kept by
the length of their queues as well: a full queue makes room at the expense of the longest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar


class Queued(Protocol):
    """A ticket, as far as the queues know it."""

    host: str
    seq: int
    """Its number in order of arrival."""


T = TypeVar("T", bound=Queued)

_NOBODY: dict[str, None] = {}


class _ClientQueue(Generic[T]):
    """The tickets that one client waits for, by host so that a saturated host is stepped over without a scan."""

    __slots__ = ("by_host", "size")

    def __init__(self) -> None:
        self.by_host: dict[str, OrderedDict[T, int]] = {}
        self.size = 0

    def add(self, ticket: T) -> None:
        tickets = self.by_host.setdefault(ticket.host, OrderedDict())
        if ticket in tickets:
            tickets[ticket] += 1
        else:
            tickets[ticket] = 1
            self.size += 1

    def discard(self, ticket: T, *, wholly: bool = False) -> None:
        tickets = self.by_host.get(ticket.host)
        if tickets is None or ticket not in tickets:
            return
        tickets[ticket] -= 1
        if wholly or tickets[ticket] == 0:
            del tickets[ticket]
            self.size -= 1
            if not tickets:
                del self.by_host[ticket.host]

    def __contains__(self, ticket: T) -> bool:
        return ticket in self.by_host.get(ticket.host, ())

    def newest_first(self) -> Iterator[T]:
        """Its tickets, the last of them first. The first of these is found without sorting them all."""
        newest = max((next(reversed(tickets)) for tickets in self.by_host.values()), key=_arrival)
        yield newest
        everyone = sorted((ticket for tickets in self.by_host.values() for ticket in tickets), key=_arrival)
        yield from (ticket for ticket in reversed(everyone) if ticket is not newest)

    def first(self, has_capacity: Callable[[str], bool]) -> T | None:
        heads = [next(iter(tickets)) for host, tickets in self.by_host.items() if has_capacity(host)]
        return min(heads, key=lambda ticket: ticket.seq, default=None)


def _arrival(ticket: Queued) -> int:
    return ticket.seq


class ClientQueues(Generic[T]):
    """All clients with something queued; the first has the next turn."""

    def __init__(self) -> None:
        self._rotation: OrderedDict[str, _ClientQueue[T]] = OrderedDict()
        self._by_length: dict[int, dict[str, None]] = {}
        """The same clients by how many tickets each waits for."""
        self._longest = 0
        """The largest of these numbers."""

    def __len__(self) -> int:
        return len(self._rotation)

    def sizes(self) -> dict[str, int]:
        return {client: queue.size for client, queue in self._rotation.items()}

    def length(self, client: str) -> int:
        queue = self._rotation.get(client)
        return 0 if queue is None else queue.size

    def has(self, client: str, ticket: T) -> bool:
        queue = self._rotation.get(client)
        return queue is not None and ticket in queue

    def next_turn(self, has_capacity: Callable[[str], bool]) -> T | None:
        """The ticket of the first client that has one for a host with capacity. That client goes to the end; one that
        waits for hosts at their limits only keeps its turn."""
        for client, queue in self._rotation.items():
            ticket = queue.first(has_capacity)
            if ticket is not None:
                self._rotation.move_to_end(client)
                return ticket
        return None

    def longest_first(self, least: int) -> Iterator[T]:
        """The tickets of clients with queues of ``least`` or more, from the longest queue on; of each the newest first.
        (Nothing may be changed meanwhile, but with the last that is taken.)"""
        for length in range(self._longest, least - 1, -1):
            for client in reversed(self._by_length.get(length, _NOBODY)):
                yield from self._rotation[client].newest_first()

    def add(self, client: str, ticket: T) -> None:
        queue = self._rotation.get(client)
        if queue is None:
            queue = self._rotation[client] = _ClientQueue()
        before = queue.size
        queue.add(ticket)
        self._resized(client, before, queue.size)

    def discard(self, client: str, ticket: T, *, wholly: bool = False) -> None:
        queue = self._rotation.get(client)
        if queue is None:
            return
        before = queue.size
        queue.discard(ticket, wholly=wholly)
        self._resized(client, before, queue.size)
        if not queue.size:
            del self._rotation[client]

    def _resized(self, client: str, before: int, after: int) -> None:
        """A client waits for one ticket more, or one less. (The longest queue is then one longer, or at most one
        shorter, so it is always known without a search.)"""
        if before == after:
            return
        if before:
            clients = self._by_length[before]
            del clients[client]
            if not clients:
                del self._by_length[before]
        if after:
            self._by_length.setdefault(after, {})[client] = None
        if after > self._longest or self._longest not in self._by_length:
            self._longest = after
