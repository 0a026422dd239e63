"""What those who wait for a fill are given: the head of its response, or why there is none for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ...semantics.headers import Headers
from ...semantics.stored import StoredResponse
from ...store.body import Body
from ...store.index import Entry


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
    is_shared_unstored: bool = False
    """Several clients may read the body, although it isn't stored: its URL is signed, or a peer keeps it."""
