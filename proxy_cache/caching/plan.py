"""The next step for a GET, as a value: nothing is sent, stored, started or waited for here.

:meth:`Planner.plan` looks at the stored responses and the running fills; :mod:`.cache` acts, and plans again until
there is an answer. So the rules of RFC 9111 §4 about a whole request stand in one place.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from ..semantics.directives import NOTHING, CacheControl
from ..semantics.headers import Headers
from ..semantics.ranges import RangeSpec, strong_validator
from ..semantics.reuse import Decision, Reuse, decide, may_serve_stale
from ..semantics.stored import StoredResponse
from ..semantics.storing import why_not_shared
from ..semantics.validation import CONDITIONAL, is_another_version, is_conditional, may_stand_for
from ..semantics.vary import matches
from ..store.index import Entry
from ..store.store import Store
from .answers import Exchange
from .fills.fill import Fill
from .fills.known_heads import condition_holds
from .fills.range_fetch import RangeFetch
from .fills.request import FillRequest
from .fills.table import FillTable
from .insisting import not_before, waits_for, was_asked_since
from .ranges.selection import first_gap, has_it_all, selected

CANDIDATES_MAX: Final = 15
"""Other variants to validate along with the selected one, at most."""
REFUSALS: Final = 3
"""Errors for other clients (401, 403, …) after which a request goes alone: where the origin refuses everybody, clients
must not be refused one after the other."""
CONDITIONAL_OR_RANGE: Final = CONDITIONAL | {"range"}
_NO_FIELDS: Final = Headers()


@dataclass(slots=True)
class Progress:
    """The history of a request, over its turns."""

    came: float
    """Its arrival, by the monotonic clock."""
    alone: bool = False
    """Whether it goes alone: it joins no fill, and none joins its own."""
    has_waited: bool = False
    """Whether it has waited for an earlier response to be stored."""
    refusals: int = 0

    def not_shareable(self, *, alone: bool, refused: bool) -> None:
        self.refusals += refused
        self.alone = alone or self.refusals >= REFUSALS


@dataclass(frozen=True, slots=True)
class Unchanged:
    """304, by a head alone: of an entry with gaps, or of a response whose body isn't stored."""

    response: StoredResponse


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer from the store. Gaps are filled on the way."""

    entry: Entry
    decision: Decision


@dataclass(frozen=True, slots=True)
class Settle:
    """Wait until the bodies that have arrived are stored, and plan again."""


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Wait for an earlier fill, so as to share the next one, and plan again."""

    fill: Fill


@dataclass(frozen=True, slots=True)
class Join:
    """Read along with a fill."""

    fill: Fill


@dataclass(frozen=True, slots=True)
class Fetch:
    """Start a fill."""

    request: FillRequest


@dataclass(frozen=True, slots=True)
class Refuse:
    """504, to ``only-if-cached`` (RFC 9111 §5.2.1.7)."""


Action: TypeAlias = Unchanged | Serve | Settle | WaitFor | Join | Fetch | Refuse


@dataclass(frozen=True, slots=True)
class Plan:
    """The next step."""

    action: Action
    fwd: str = ""
    """Why the request goes forward, if it does (RFC 9211 §2.2)."""
    stale: Entry | None = None
    """The entry to validate, which may be served if the origin fails."""
    drops: Entry | None = None
    """A useless entry, to be removed: it has gaps, and nothing can be added to it."""
    alone: bool = False
    """As in :class:`Progress`."""


class Planner:
    """Reads the store and the fills, and changes neither."""

    def __init__(self, store: Store, fills: FillTable) -> None:
        self._store = store
        self._fills = fills

    def plan(self, exchange: Exchange, progress: Progress, now: float, *, is_last: bool = False) -> Plan:
        """The next step for a GET whose key is loaded. ``is_last``: there will be no other turn."""
        headers, directives = exchange.headers, exchange.directives
        entry = self.select(exchange.key, headers)
        known = self._fills.keys.heads.newer(exchange.key, headers, entry)
        if known is not None:
            entry = None  # the client has a newer version, as far as is known
        unchanged = self._unchanged(exchange, entry, now)
        if unchanged is not None:
            return Plan(unchanged)
        alone, drops = progress.alone, None
        if entry is not None and entry.spans is not None and not self.can_add_to(exchange, entry, alone=alone):
            if self._is_useless(exchange, entry, alone=alone):
                drops = entry
            # The response will be for this client alone (RFC 9111 §3.5), or can't be combined: ask for just its range.
            alone = alone or not _may_share(exchange, entry) or (drops is None and self._is_beside(exchange, entry))
            entry = None
        shown = entry.response if entry is not None else known
        decision = decide(directives, shown, now) if shown is not None else None
        if progress.has_waited and entry is not None and was_asked_since(directives, entry.response, progress.came):
            decision = decide(NOTHING, entry.response, now)
        if entry is not None and decision is not None and decision.reuse is not Reuse.VALIDATE:
            return Plan(Serve(entry, decision), self.forward_reason(exchange.key, decision), alone=alone)
        fwd = self.forward_reason(exchange.key, decision, without=drops)
        action: Action
        if entry is None and self._fills.has_arrived(exchange.key) and self._may_settle(exchange):
            action = Settle()
        elif directives.only_if_cached:
            action = Refuse()
        elif not progress.has_waited and (earlier := self._asked_before(exchange, entry, progress.came, alone=alone)):
            action = WaitFor(earlier)
        else:
            alone = alone or is_last
            action = self._from_fill(exchange, entry, progress.came, alone=alone)
        return Plan(action, fwd, entry, drops, alone)

    def _may_settle(self, exchange: Exchange) -> bool:
        """Whether the bodies that are being stored are the fastest way to an answer."""
        return exchange.directives.only_if_cached or self._to_join(exchange) is None

    def select(self, key: str, headers: Headers) -> Entry | None:
        """The stored variant that this request selects, the most recent of several (RFC 9111 §4.1)."""
        found = None
        for entry in self._store.lookup(key):
            if (
                matches(entry.response.vary, headers)
                and (found is None or entry.response.date >= found.response.date)
                and not is_another_version(headers, entry.response)
            ):
                found = entry
        return found

    def forward_reason(self, key: str, decision: Decision | None, *, without: Entry | None = None) -> str:
        """Why a request goes forward (RFC 9211 §2.2). ``without``: an entry that doesn't count."""
        if decision is not None:
            return decision.reason or "partial"
        return "vary-miss" if any(entry is not without for entry in self._store.lookup(key)) else "uri-miss"

    def _unchanged(self, exchange: Exchange, entry: Entry | None, now: float) -> Unchanged | None:
        if (entry is not None and entry.spans is None) or not exchange.requirements.asks_for_changes:
            return None
        response = entry.response if entry is not None else self._fills.keys.heads.find(exchange.key, exchange.headers)
        if response is None or decide(exchange.directives, response, now).reuse is not Reuse.FRESH:
            return None
        return Unchanged(response) if condition_holds(exchange.headers, response) else None

    # -- entries with gaps --------------------------------------------------------------------------------------

    def can_add_to(self, exchange: Exchange, entry: Entry, *, alone: bool) -> bool:
        """Whether an entry with gaps can answer this request, with or without filling them."""
        if has_it_all(exchange, entry):
            return True
        if not self._may_add_to(exchange, entry, alone=alone):
            return False
        if strong_validator(entry.response.headers) is not None:
            return True
        return self.is_on_its_way(exchange, entry)

    def _may_add_to(self, exchange: Exchange, entry: Entry, *, alone: bool) -> bool:
        requirements = exchange.requirements
        if alone or exchange.directives.no_store or requirements.is_for_origin or requirements.is_bound:
            return False
        return _may_share(exchange, entry) and exchange.key not in self._fills.keys.unusable

    def _is_useless(self, exchange: Exchange, entry: Entry, *, alone: bool) -> bool:
        """Whether an entry has no bytes, and can get none."""
        return (
            self._may_add_to(exchange, entry, alone=alone)
            and strong_validator(entry.response.headers) is None
            and not self._fills.present_or_pending(entry)
        )

    def is_on_its_way(self, exchange: Exchange, entry: Entry) -> bool:
        """Whether the selected bytes of an entry without a strong validator are here, or arriving in one piece: nothing
        can be combined with that (RFC 9111 §3.4)."""
        spans = selected(exchange, entry.response, entry.length)
        if isinstance(spans, list) and len(spans) > 1:
            return first_gap(entry, spans) is None  # an arriving body passes once
        return first_gap(entry, spans, self._fills.present_or_pending(entry)) is None

    def _is_beside(self, exchange: Exchange, entry: Entry) -> bool:
        """Whether a range lies beside the bytes of an entry that nothing can be combined with: it takes a request of
        its own, and the entry stays for other requests."""
        return (
            "range" in exchange.headers
            and strong_validator(entry.response.headers) is None
            and self._store.holds(entry)
        )

    # -- fills --------------------------------------------------------------------------------------------------

    def _to_join(self, exchange: Exchange, since: float | None = None, came: float | None = None) -> Fill | None:
        directives = exchange.directives
        return self._fills.find(
            exchange.key, exchange.headers, lambda response: _is_fresh(directives, response), since, came,
            from_peer=exchange.peer is not None,
        )  # fmt: skip

    def _asked_before(self, exchange: Exchange, stale: Entry | None, came: float, *, alone: bool) -> Fill | None:
        """A fill that was asked too early for this request to share, but is worth waiting for."""
        since = not_before(exchange.directives, came)
        fills = self._fills.at_the_origin(exchange.key, answered=since is None)
        if not fills or self._is_private(exchange, alone=alone) or self._to_join(exchange, since, came) is not None:
            return None
        return waits_for(fills, exchange, stale, since, came)

    def _is_private(self, exchange: Exchange, *, alone: bool) -> bool:
        """Whether a fill for this request is not to be shared."""
        headers = exchange.headers
        return (
            alone
            or exchange.directives.no_store
            or exchange.requirements.is_for_origin
            or exchange.requirements.is_bound
            or self._fills.keys.is_uncacheable(exchange.key, headers)
            or ("range" in headers and self._is_for_its_client(exchange))
        )

    def _from_fill(self, exchange: Exchange, stale: Entry | None, came: float, *, alone: bool) -> Join | Fetch:
        """Join the fill of the key, or start one."""
        key, headers, directives = exchange.key, exchange.headers, exchange.directives
        for_origin = exchange.requirements.is_for_origin
        if not (alone or directives.no_store or for_origin):
            fill = self._to_join(exchange, not_before(directives, came), came)
            if fill is not None:
                return Join(fill)
        private = self._is_private(exchange, alone=alone)
        candidates = self._candidates(exchange, stale)
        if stale is None and candidates and self._fills.keys.heads.expects_304(key, headers):
            candidates = ()  # the client's own condition is going to hold
        retries = part = None
        is_short = False
        if private and (stale is None or for_origin):
            # It isn't shared: the client's own conditions and ranges go through as they are.
            candidates = ()
            keep = not (directives.no_store or "range" in headers)
        else:
            keep = not directives.no_store
            if "range" in headers and not private:
                part = self.part_of(exchange, stale)
                is_short = part is None and stale is None and self._is_taken_for_short(exchange)
            if (
                candidates
                or part is not None
                or not is_conditional(headers)
                or self._fills.keys.heads.expects_body(key, headers)
            ):
                headers = without_conditions(headers)
            else:
                headers = headers.without("range", "if-range")  # the whole is shared, and may be stored
            # The condition is passed on then (RFC 9111 §4.3.2): a 304 costs the origin less than the whole, and answers
            # all waiters with the same condition.
            if stale is not None and may_serve_stale(directives, stale.response, time.time(), disconnected=False):
                retries = 0  # a stale answer at once is better than one after the third failure
        request = FillRequest(
            key, exchange.target, headers, exchange.client, candidates, exchange.policy, retries, private, keep, part,
            is_short, from_peer=exchange.peer is not None, trace=exchange.trace,
        )  # fmt: skip
        return Fetch(request)

    def _candidates(self, exchange: Exchange, entry: Entry | None) -> tuple[Entry, ...]:
        """The entries to validate: the selected one, and other variants with an entity tag, all in one request (RFC
        9111 §4.3.1)."""
        if entry is not None and entry.response.etag is None:
            return (entry,)
        others = [
            other
            for other in self._store.lookup(exchange.key)
            if other is not entry and may_stand_for(exchange.headers, other.response)
        ]
        others = others[-CANDIDATES_MAX:]
        return (entry, *others) if entry is not None else tuple(others)

    # -- ranges -------------------------------------------------------------------------------------------------

    def part_of(self, exchange: Exchange, stale: Entry | None) -> RangeFetch | None:
        """The span to ask for on behalf of a range, ``None``: all of it. When validating it is for another version."""
        if stale is None:
            if exchange.policy.signed_url and exchange.policy.rule_for(200, _NO_FIELDS) is None:
                return _exact_part(exchange)  # most of a block would be of no use
            return self._first_part(exchange)
        spans = selected(exchange, stale.response, stale.length)
        if spans is None or spans == "unsatisfiable" or self._fills.context.spans.fetches_whole(stale.length):
            return None
        part = self._first_part(exchange)
        return replace(part, of=stale) if part is not None else None

    def _first_part(self, exchange: Exchange) -> RangeFetch | None:
        """The block around the first range, of an object that isn't stored; ``None``: all of it.

        Of an object of unknown length the last block can't be named, but the last so many bytes can.
        """
        fills, requirements = self._fills, exchange.requirements
        asked, exact = requirements.ranges, requirements.exact_range
        if asked is None or self._is_taken_for_short(exchange):
            return None
        is_single, is_own = len(asked) == 1, "if-range" not in exchange.headers
        if exact is not None:
            return RangeFetch(exact, exact, None, exchange.headers.get("range"), is_exact=True, is_own=is_own)
        need = ask = asked[0]
        block, most = fills.context.spans.block, fills.context.spans.most
        if block and not (is_single and (exchange.key in fills.keys.exact or exchange.key in fills.keys.weak)):
            first, last = ask
            if first is None:
                ask = RangeSpec(None, -(-(last or 0) // block) * block or 1)
            else:
                span = fills.first_span(first, first + most if last is None else last + 1)
                ask = RangeSpec(span.start, span.stop - 1)
                need = RangeSpec(first, first if last is None else min(last, span.stop - 1))
        is_exact = is_single and ask == asked[0]
        return RangeFetch(ask, need, is_exact=is_exact, is_own=is_exact and is_own)

    def _is_taken_for_short(self, exchange: Exchange) -> bool:
        """Whether a range is wanted of an object that is short enough to be fetched whole, by a HEAD."""
        length = self._fills.keys.length_of(exchange.key)
        return (
            length is not None
            and self._fills.context.spans.fetches_whole(length)
            and exchange.requirements.ranges is not None
        )

    def _is_for_its_client(self, exchange: Exchange) -> bool:
        """Whether a range is asked for as the client sent it, and the response passed on as it is: this origin's ranges
        are unusable, or several at once are."""
        key, fills, asked = exchange.key, self._fills, exchange.requirements.ranges
        if asked is None or self._is_taken_for_short(exchange):
            return False
        return key in fills.keys.unusable or (len(asked) > 1 and (key in fills.keys.exact or key in fills.keys.weak))


def _exact_part(exchange: Exchange) -> RangeFetch | None:
    """The first range alone, of a response that is probably not going to be stored; ``None``: all of it."""
    asked: Sequence[RangeSpec] | None = exchange.requirements.ranges
    if asked is None:
        return None
    first, last = asked[0]
    need = asked[0] if first is None or last is not None else RangeSpec(first, first)
    is_exact = len(asked) == 1
    return RangeFetch(asked[0], need, is_exact=is_exact, is_own=is_exact and "if-range" not in exchange.headers)


def _is_fresh(directives: CacheControl, response: StoredResponse) -> bool:
    return decide(directives, response, time.time()).reuse is Reuse.FRESH


def _may_share(exchange: Exchange, entry: Entry) -> bool:
    """Whether a response to this request may be combined with an entry, as far as the request goes."""
    return why_not_shared(exchange.headers, entry.response.headers, exchange.policy) is None


def without_conditions(headers: Headers) -> Headers:
    """The header of a shared fill, which asks for the whole: conditions and ranges are answered from that."""
    return headers.without_any(CONDITIONAL_OR_RANGE)
