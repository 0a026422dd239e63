"""What is to be done with a GET, as a value: nothing is sent, stored, started or waited for here.

:meth:`Planner.plan` looks at what is stored and at the fills that run, and says what comes next; :mod:`.cache` does it,
and asks again if that was not the end of it. So the rules of RFC 9111 §4 about a whole request stand in one place.
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
from .fills.fill import Fill, FillRequest
from .fills.known_heads import condition_holds
from .fills.range_fetch import Part
from .fills.table import FillTable
from .insisting import not_before, waits_for, was_asked_since
from .ranges.selection import first_gap, has_it_all, selected

CANDIDATES_MAX: Final = 15
"""Other variants that are validated along with the one that a request selects."""
REFUSALS: Final = 3
"""How often a request is sent on, if what came was an error for whoever had asked (401, 403, …): where every client is
refused, they must not be refused one after the other."""
CONDITIONAL_OR_RANGE: Final = CONDITIONAL | {"range"}
_NO_FIELDS: Final = Headers()


@dataclass(slots=True)
class Progress:
    """What has become of a request in earlier turns."""

    came: float
    """When it was here, by the monotonic clock."""
    alone: bool = False
    """Whether it is to wait for nobody."""
    has_waited: bool = False
    """Whether it has waited for an earlier answer to be stored."""
    refusals: int = 0

    def sent_on(self, *, alone: bool, refused: bool) -> None:
        self.refusals += refused
        self.alone = alone or self.refusals >= REFUSALS


@dataclass(frozen=True, slots=True)
class Unchanged:
    """304, by a head alone: of an entry with gaps, or of what isn't stored."""

    response: StoredResponse


@dataclass(frozen=True, slots=True)
class Serve:
    """From the store. What an entry lacks of it is filled on the way."""

    entry: Entry
    decision: Decision


@dataclass(frozen=True, slots=True)
class Settle:
    """Wait until what has arrived is stored, and plan again."""


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Wait for an earlier answer, so as to share the request after it with others, and plan again."""

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
    """What comes next."""

    action: Action
    fwd: str = ""
    """Why the request goes forward, if it does (RFC 9211 §2.2)."""
    stale: Entry | None = None
    """What is validated, and may stand in for an answer that fails to come."""
    drops: Entry | None = None
    """An entry with gaps of which nothing is left that could be of use."""
    alone: bool = False
    """Whether it goes with nobody."""


class Planner:
    """Reads the store and the fills, and changes neither."""

    def __init__(self, store: Store, fills: FillTable) -> None:
        self._store = store
        self._fills = fills

    def plan(self, exchange: Exchange, progress: Progress, now: float, *, is_last: bool = False) -> Plan:
        """The next step for a GET of which all that is stored is loaded. ``is_last``: there will be no other."""
        headers, directives = exchange.headers, exchange.wanted
        entry = self.select(exchange.key, headers)
        known = self._fills.known.newer(exchange.key, headers, entry)
        if known is not None:
            entry = None  # the client has what is newer than this, as far as is known
        unchanged = self._unchanged(exchange, entry, now)
        if unchanged is not None:
            return Plan(unchanged)
        alone, drops = progress.alone, None
        if entry is not None and entry.spans is not None and not self.can_add_to(exchange, entry, alone=alone):
            if self._is_useless(exchange, entry, alone=alone):
                drops = entry
            # A client that is given what is for nobody else (RFC 9111 §3.5), or what can't be put to the rest, asks for
            # just that.
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
        """Whether nothing is to be had sooner than what is on its way into the store."""
        return exchange.wanted.only_if_cached or self._to_join(exchange) is None

    def select(self, key: str, headers: Headers) -> Entry | None:
        """The stored variant that this request selects; the most recent one if several do (RFC 9111 §4.1)."""
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
        """Why a request goes forward, as RFC 9211 §2.2 has it. ``without``: as if this were not there any more."""
        if decision is not None:
            return decision.reason or "partial"
        return "vary-miss" if any(entry is not without for entry in self._store.lookup(key)) else "uri-miss"

    def _unchanged(self, exchange: Exchange, entry: Entry | None, now: float) -> Unchanged | None:
        if (entry is not None and entry.spans is None) or not exchange.requirements.asks_for_changes:
            return None
        response = entry.response if entry is not None else self._fills.known.find(exchange.key, exchange.headers)
        if response is None or decide(exchange.wanted, response, now).reuse is not Reuse.FRESH:
            return None
        return Unchanged(response) if condition_holds(exchange.headers, response) else None

    # -- entries with gaps --------------------------------------------------------------------------------------

    def can_add_to(self, exchange: Exchange, entry: Entry, *, alone: bool) -> bool:
        """Whether an entry with gaps can answer this request, by what it has or by filling them."""
        if has_it_all(exchange, entry):
            return True
        if not self._may_add_to(exchange, entry, alone=alone):
            return False
        if strong_validator(entry.response.headers) is not None:
            return True
        return self.is_on_its_way(exchange, entry)

    def _may_add_to(self, exchange: Exchange, entry: Entry, *, alone: bool) -> bool:
        requirements = exchange.requirements
        if alone or exchange.wanted.no_store or requirements.is_for_origin or requirements.is_bound:
            return False
        return _may_share(exchange, entry) and exchange.key not in self._fills.unusable

    def _is_useless(self, exchange: Exchange, entry: Entry, *, alone: bool) -> bool:
        """Whether there is nothing of an entry to which nothing can be put."""
        return (
            self._may_add_to(exchange, entry, alone=alone)
            and strong_validator(entry.response.headers) is None
            and not self._fills.present_or_pending(entry)
        )

    def is_on_its_way(self, exchange: Exchange, entry: Entry) -> bool:
        """Whether what is wanted of an entry without a strong validator is here, or coming in one piece: nothing can be
        put to that (RFC 9111 §3.4)."""
        spans = selected(exchange, entry.response, entry.length)
        if isinstance(spans, list) and len(spans) > 1:
            return first_gap(entry, spans) is None  # what is on its way passes once
        return first_gap(entry, spans, self._fills.present_or_pending(entry)) is None

    def _is_beside(self, exchange: Exchange, entry: Entry) -> bool:
        """Whether a range lies beside what there is of an entry that nothing can be put to: it takes a request of its
        own, and what there is stays for those who want that."""
        return (
            "range" in exchange.headers
            and strong_validator(entry.response.headers) is None
            and self._store.holds(entry)
        )

    # -- fills --------------------------------------------------------------------------------------------------

    def _to_join(self, exchange: Exchange, since: float | None = None, came: float | None = None) -> Fill | None:
        directives = exchange.wanted
        return self._fills.find(
            exchange.key, exchange.headers, lambda response: _is_fresh(directives, response), since, came
        )

    def _asked_before(self, exchange: Exchange, stale: Entry | None, came: float, *, alone: bool) -> Fill | None:
        """A fill at the origin that this request may not share, since that was asked too early, but waits for."""
        since = not_before(exchange.wanted, came)
        fills = self._fills.at_the_origin(exchange.key, answered=since is None)
        if not fills or self._is_private(exchange, alone=alone) or self._to_join(exchange, since, came) is not None:
            return None
        return waits_for(fills, exchange, stale, since, came)

    def _is_private(self, exchange: Exchange, *, alone: bool) -> bool:
        """Whether a fill for this request is to be shared with nobody."""
        headers = exchange.headers
        return (
            alone
            or exchange.wanted.no_store
            or exchange.requirements.is_for_origin
            or exchange.requirements.is_bound
            or self._fills.is_uncacheable(exchange.key, headers)
            or ("range" in headers and self._is_for_its_client(exchange))
        )

    def _from_fill(self, exchange: Exchange, stale: Entry | None, came: float, *, alone: bool) -> Join | Fetch:
        """Join the fill of the key, or start one."""
        key, headers, directives = exchange.key, exchange.headers, exchange.wanted
        for_origin = exchange.requirements.is_for_origin
        if not (alone or directives.no_store or for_origin):
            fill = self._to_join(exchange, not_before(directives, came), came)
            if fill is not None:
                return Join(fill)
        private = self._is_private(exchange, alone=alone)
        candidates = self._candidates(exchange, stale)
        if stale is None and candidates and self._fills.known.expects_304(key, headers):
            candidates = ()  # the client's own condition is the one that holds
        retries = part = None
        is_short = False
        if private and (stale is None or for_origin):
            # Nobody shares this, so the client's own conditions and ranges may go through as they are.
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
                or self._fills.known.expects_body(key, headers)
            ):
                headers = without_conditions(headers)
            else:
                headers = headers.without("range", "if-range")  # all of it is for whoever waits, and may be stored
            # The condition is passed on then: RFC 9111 §4.3.2 has it meant for somebody further on where nothing is
            # stored, and a 304 costs the origin less than the whole. It answers all who wait with the same.
            if stale is not None and may_serve_stale(directives, stale.response, time.time(), disconnected=False):
                retries = 0  # where that may stand in for an answer, nobody is kept waiting for the third failure
        request = FillRequest(
            key, exchange.target, headers, exchange.client, candidates, exchange.policy, retries, private, keep, part,
            is_short,
        )  # fmt: skip
        return Fetch(request)

    def _candidates(self, exchange: Exchange, entry: Entry | None) -> tuple[Entry, ...]:
        """What the origin may say is still good: the entry that the request selects, and every other variant that can
        be told by its tag, all in one request (RFC 9111 §4.3.1)."""
        if entry is not None and entry.response.etag is None:
            return (entry,)
        others = [
            other
            for other in self._store.lookup(exchange.key)
            if other is not entry and may_stand_for(exchange.headers, other.response)
        ]
        others = others[-CANDIDATES_MAX:]
        return (entry, *others) if entry is not None else tuple(others)

    # -- what is asked for on behalf of a range -----------------------------------------------------------------

    def part_of(self, exchange: Exchange, stale: Entry | None) -> Part | None:
        """The span to ask for on behalf of a range, rather than for all of it: when validating, in case the origin has
        another version."""
        if stale is None:
            if exchange.policy.signed_url and exchange.policy.rule_for(200, _NO_FIELDS) is None:
                return _exact_part(exchange)  # most of a block would be for nobody
            return self._first_part(exchange)
        spans = selected(exchange, stale.response, stale.length)
        if spans is None or spans == "unsatisfiable" or self._fills.spans.fetches_whole(stale.length):
            return None
        part = self._first_part(exchange)
        return replace(part, of=stale) if part is not None else None

    def _first_part(self, exchange: Exchange) -> Part | None:
        """What to ask for, when a range is wanted of what isn't stored; ``None``: all of it.

        The block around the first range. Of the end of what is of unknown length no block can be named, but the last
        so many bytes can.
        """
        fills, requirements = self._fills, exchange.requirements
        asked, exact = requirements.ranges, requirements.exact_range
        if asked is None or self._is_taken_for_short(exchange):
            return None
        is_single, is_own = len(asked) == 1, "if-range" not in exchange.headers
        if exact is not None:
            return Part(exact, exact, None, exchange.headers.get("range"), is_exact=True, is_own=is_own)
        need = ask = asked[0]
        block, most = fills.spans.block, fills.spans.most
        if block and not (is_single and (exchange.key in fills.exact or exchange.key in fills.weak)):
            first, last = ask
            if first is None:
                ask = RangeSpec(None, -(-(last or 0) // block) * block or 1)
            else:
                span = fills.first_span(first, first + most if last is None else last + 1)
                ask = RangeSpec(span.start, span.stop - 1)
                need = RangeSpec(first, first if last is None else min(last, span.stop - 1))
        is_exact = is_single and ask == asked[0]
        return Part(ask, need, is_exact=is_exact, is_own=is_exact and is_own)

    def _is_taken_for_short(self, exchange: Exchange) -> bool:
        """Whether a range is wanted of what a HEAD has said is short enough to be fetched whole."""
        length = self._fills.length_of(exchange.key)
        return (
            length is not None and self._fills.spans.fetches_whole(length) and exchange.requirements.ranges is not None
        )

    def _is_for_its_client(self, exchange: Exchange) -> bool:
        """Whether a range is to be asked for as it came, and the answer passed on as it comes: its origin has just
        shown that nothing can be made of what it answers, or not of several ranges."""
        key, fills, asked = exchange.key, self._fills, exchange.requirements.ranges
        if asked is None or self._is_taken_for_short(exchange):
            return False
        return key in fills.unusable or (len(asked) > 1 and (key in fills.exact or key in fills.weak))


def _exact_part(exchange: Exchange) -> Part | None:
    """Just the first range that is wanted, of what is probably not going to be stored; ``None``: all of it."""
    asked: Sequence[RangeSpec] | None = exchange.requirements.ranges
    if asked is None:
        return None
    first, last = asked[0]
    need = asked[0] if first is None or last is not None else RangeSpec(first, first)
    is_exact = len(asked) == 1
    return Part(asked[0], need, is_exact=is_exact, is_own=is_exact and "if-range" not in exchange.headers)


def _is_fresh(directives: CacheControl, response: StoredResponse) -> bool:
    return decide(directives, response, time.time()).reuse is Reuse.FRESH


def _may_share(exchange: Exchange, entry: Entry) -> bool:
    """Whether what this request is given may be put to an entry, as far as that is up to the request."""
    return why_not_shared(exchange.headers, entry.response.headers, exchange.policy) is None


def without_conditions(headers: Headers) -> Headers:
    """A shared fill asks for all of it: the client's own conditions and ranges are answered from what comes back."""
    return headers.without_any(CONDITIONAL_OR_RANGE)
