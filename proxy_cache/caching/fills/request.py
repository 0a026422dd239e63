"""What a fill asks for, and on whose behalf."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ...semantics.credentials import credentials_of, has_credentials
from ...semantics.headers import Headers
from ...semantics.keys import Target
from ...semantics.policy import BY_THE_BOOK, Policy
from ...store.index import Entry
from ..tracing import RequestTrace
from .known_heads import REVALIDATING
from .range_fetch import RangeFetch


class FillState(enum.Enum):
    """Of the fill that is made for a request."""

    QUEUED = "queued"
    RUNNING = "running"
    """The origin is being asked, or its response arrives."""
    COMPLETE = "complete"
    """The last byte is here."""
    FAILED = "failed"


@dataclass(slots=True, eq=False)
class FillRequest:
    """One request to a source. ``headers`` are end-to-end, as the client sent them."""

    key: str = field(repr=False)
    target: Target
    headers: Headers = field(repr=False)
    client: str
    candidates: tuple[Entry, ...] = ()
    """Entries to validate rather than to fetch again: first the one that the request selects."""
    policy: Policy = BY_THE_BOOK
    retries: int | None = None
    """At most so many further tries; ``None``: as the settings say."""
    private: bool = False
    """Not shared with other requests: the key is uncacheable, or the conditions are this client's own."""
    keep: bool = True
    """Whether the response may be stored at all."""
    range_fetch: RangeFetch | None = None
    """The span to ask for, in place of the whole."""
    is_short: bool = False
    """All of it is asked for on behalf of a range, since a HEAD has told that it is short."""
    for_whole: bool = False
    """The span is a gap of any length, for a client that reads the whole body."""
    beside: bool = False
    """Asked for beside a fill that will have it later: only a 206 will do."""
    from_peer: bool = False
    """Whether it is a peer that has asked, on behalf of ``client``."""
    trace: RequestTrace | None = field(default=None, repr=False)
    """Of the request that it is started for, if that is sampled."""

    @property
    def is_personal(self) -> bool:
        """Whether the response may be for one user alone, by the request's fields."""
        return has_credentials(self.headers, self.policy.credentials) and not self.policy.ignore_authorization

    @property
    def passes_condition_on(self) -> bool:
        """Whether the origin is asked what the client has asked: has it changed?"""
        return not self.candidates and self.headers.has_any(REVALIDATING)


def identifying_fields(request: FillRequest) -> frozenset[str]:
    """The names of the fields that say who has made a request, as far as they may decide about the response."""
    policy = request.policy
    return frozenset() if policy.ignore_authorization else credentials_of(request.headers, policy.credentials)
