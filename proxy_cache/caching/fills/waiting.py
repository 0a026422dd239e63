"""One flow's interest in a fill: it waits for the head of the response, and then reads its body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from ...semantics.headers import Headers
from ...semantics.stored import StoredResponse
from ...store.body import Body, Reader
from ...store.index import Entry
from ..limiter import Overloaded, Place

if TYPE_CHECKING:
    from .fill import Fill


class NotShareable(Exception):
    """The response of this fill is not for this waiter, which has to ask anew: for itself, waiting for nobody
    (``refetch_alone``), or together with others, since the response was another variant than the one it selects, or an
    error (``refused``) that was meant for the request that was made."""

    def __init__(self, *, refetch_alone: bool, refused: bool = False) -> None:
        super().__init__("not shareable")
        self.refetch_alone = refetch_alone
        self.refused = refused


class Recipients(NamedTuple):
    """Who gets a response, besides the waiter for which it was asked."""

    shared: bool
    """Others may have it, if they select this variant (RFC 9111 §4.1)."""
    refetch_alone: bool = True
    """Those who don't get it had better not wait for each other again."""
    suits: Callable[[Headers], bool] | None = None
    """Which others, by their headers; ``None``: all."""


class ClientGone(Exception):
    """The waiter's client went away. ``queued``: while it waited for a slot."""

    def __init__(self, queued: bool) -> None:
        super().__init__("client disconnected")
        self.queued = queued


@dataclass(slots=True, eq=False)
class FillHead:
    """What a waiter gets: the response's head, and where its body comes from (``entry`` after a 304)."""

    response: StoredResponse
    reason: str
    body: Body | None
    entry: Entry | None
    why_not_stored: str | None
    own: Headers | None = None
    """The header for the leading waiter, if it has fields for that client alone."""
    fills_gap_of: Entry | None = None
    """The entry of whose body this is a piece."""
    content: bytes | None = None
    """All of the body, if it arrived with the head; ``body`` is ``None`` then."""
    length: int | None = None
    """Of the whole, if the body is a piece; ``response`` is the head of a 200 then."""


class Asker(Protocol):
    """The client's request that a waiter belongs to."""

    @property
    def is_over(self) -> bool:
        """Whether it has been answered, or its client has left."""


class Waiter:
    """One flow's interest in a fill, from the wait for its head to the last byte read.

    A context: whatever way its block is left, the waiter leaves the fill, unless it was handed on (:meth:`hand_on`)
    to the reader of the body. A forgotten waiter would hold up a body that isn't stored, and with it the fill and its
    slot.
    """

    __slots__ = (
        "_awaited", "_is_handed_on", "_outcome", "asker", "client", "fill", "headers", "leads", "on_gone", "on_head",
        "on_interim", "patience", "place", "queued_for", "reader", "reads",
    )  # fmt: skip

    def __init__(
        self, fill: Fill, headers: Headers, client: str, patience: float | None, *, leads: bool = False,
        reads: bool = True,
    ) -> None:  # fmt: skip
        """``patience``: seconds it may queue for a slot (``None``: as the limits say). ``reads``: whether it is for a
        client, and not only to have the response stored."""
        self.fill = fill
        self.reads = reads
        self.leads = leads
        """Whether the fill was started for it. (Known here: a fill that refers to a waiter that has left would be a
        circle for the collector, with the body's tail.)"""
        self.headers = headers
        self.client = client
        self.patience = patience
        self.asker: Asker | None = None
        """Until it leaves."""
        self.on_interim: Callable[[int, Headers], None] | None = None
        self.on_head: Callable[[], None] | None = None
        """Called when there is a :meth:`result`, unless :meth:`head` is awaited."""
        self.on_gone: Callable[[], None] | None = None
        """Called when the client leaves after the head."""
        self._outcome: FillHead | Exception | None = None
        self._awaited: asyncio.Future[None] | None = None
        self.place: Place | None = None
        """In the limiter's queue, as long as it waits there."""
        self._is_handed_on = False
        self.reader: Reader | None = None
        """Opened when the head arrives: an unstored body keeps only the bytes that an open reader still needs."""
        self.queued_for = 0.0
        """Seconds this waiter spent in the limiter's queue."""

    def __enter__(self) -> Self:
        self._is_handed_on = False  # it was handed on to this block
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_handed_on:
            self.leave()

    def hand_on(self) -> None:
        """From here on another owner leaves: the exchange, or the reader of gaps."""
        self._is_handed_on = True

    async def head(self) -> FillHead:
        """Wait for the head. Raises what :meth:`result` does."""
        if self._outcome is None:
            self._awaited = asyncio.get_running_loop().create_future()
            await self._awaited
        return self.result()

    def result(self) -> FillHead:
        """The head, once it has arrived. Raises :class:`OriginError`, :class:`Overloaded`, :class:`NotShareable` or
        :class:`ClientGone` if there will be none."""
        outcome = self._outcome
        if isinstance(outcome, FillHead):
            return outcome
        assert outcome is not None
        raise outcome

    def overloaded(self, overloaded: Overloaded) -> None:
        self.queued_for = overloaded.waited
        self.fail(overloaded)
        self.fill.leave(self)

    def client_gone(self) -> None:
        """The client disconnected: :meth:`head` raises :class:`ClientGone`."""
        if self.place is not None:
            self.queued_for = time.monotonic() - self.place.since
        self.fail(ClientGone(self.fill.is_queued))
        if self.on_gone is not None:
            self.on_gone()
        self.leave()

    def leave(self) -> None:
        """Not interested any more. Idempotent; the fill goes on if it has other waiters, or little left to do."""
        if self.place is not None:
            place, self.place = self.place, None
            place.leave()
        if self.reader is not None:
            self.reader.close()
        self.asker = None
        self.fill.leave(self)

    def fail(self, error: Exception) -> None:
        if self._outcome is None:
            self._outcome = error
            self._tell()

    def _tell(self) -> None:
        """There is an outcome: wake the task that waits, or call back, in a turn of its own."""
        if self._awaited is not None:
            if not self._awaited.done():
                self._awaited.set_result(None)
        elif self.on_head is not None:
            on_head, self.on_head = self.on_head, None
            self.fill.table.heads.add(on_head)

    def admitted(self) -> None:
        if self.place is not None:
            self.queued_for = time.monotonic() - self.place.since
            self.place = None

    def deliver(self, head: FillHead) -> None:
        if self._outcome is None:
            if head.body is not None and self.reads:
                self.reader = head.body.reader()
            self._outcome = head
            self._tell()
            if head.body is not None and not self.reads and not head.body.kept:
                self.fill.leave(self)  # nothing will be stored
