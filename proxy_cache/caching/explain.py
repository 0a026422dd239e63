"""What a request would get now, and why, in sentences: told by the functions that decide, with nothing done.

:func:`explain_get` asks :class:`.plan.Planner` for the next step of a GET, and the limiter for a forecast. Nothing is
fetched, counted, marked as used, or waited for. The key has to be loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ..semantics.ranges import strong_validator
from ..semantics.reuse import Decision, Reuse, decide, may_serve_stale
from ..semantics.storing import speaks_of_resource
from ..semantics.validation import conditional_headers, is_another_version, is_conditional, not_modified
from ..semantics.vary import mismatches
from ..store.entry import Entry
from .answers import Exchange
from .cache import Cache
from .explained_entries import NAMES_SHOWN, EntryFacts, about_entry, decided, facts_of, freshness_of, iso
from .explained_requests import about_fill, about_request
from .fills.request import FillRequest
from .limiter import OriginLimiter
from .plan import Fetch, Join, Plan, Progress, Refuse, Serve, Settle, Unchanged, WaitFor
from .ranges.selection import first_gap, has_it_all, selected
from .recent_reasons import DROPPED, NOT_STORED, REASONS_MAX, Reason
from .sentences import FORWARD, SLOTS, Sentence, told

HIT: Final = "hit"
STALE: Final = "stale"
PARTIAL: Final = "partial"
REVALIDATE: Final = "revalidate"
MISS: Final = "miss"
JOIN: Final = "join"
WAIT: Final = "wait"
BYPASS: Final = "bypass"
REFUSED: Final = "refused"
TUNNEL: Final = "tunnel"
OWN: Final = "own"
VERDICTS: Final = (HIT, STALE, PARTIAL, REVALIDATE, MISS, JOIN, WAIT, BYPASS, REFUSED, TUNNEL, OWN)
"""From the store; stale from the store; some bytes from the store; stored, and the origin is asked whether it is good;
from the origin; by a request that runs; after one that runs; past the cache; an error of the proxy's own; a CONNECT; an
answer of the proxy's own."""


@dataclass(slots=True)
class Explanation:
    """One request explained."""

    verdict: str
    """One of :data:`VERDICTS`."""
    sentences: list[Sentence] = field(default_factory=list)
    status: int | None = None
    """Of the answer, where this proxy makes it."""
    fwd: str = ""
    """As ``Cache-Status`` would say it (RFC 9211 §2.2)."""
    stored: list[EntryFacts] = field(default_factory=list)
    recent: tuple[Reason, ...] = ()
    """The latest first."""

    @property
    def not_stored(self) -> Reason | None:
        """Why the last response was not stored, if nothing has been stored since."""
        reason = next((one for one in self.recent if one.kind == NOT_STORED), None)
        if reason is None or any(entry.stored_at >= reason.at for entry in self.stored):
            return None
        return reason

    @property
    def last_drop(self) -> Reason | None:
        """Why what was stored isn't any more."""
        dropped = (one for one in self.recent if one.kind == DROPPED and not one.word.startswith("soft-"))
        return next(dropped, None)


def explain_get(
    cache: Cache, limiter: OriginLimiter, exchange: Exchange, home: Callable[[str], str | None] = lambda key: None
) -> Explanation:
    """A GET that the cache answers. ``home``: the peer that is asked first for a key."""
    now = time.time()
    plan = cache.planner.plan(exchange, Progress(time.monotonic()), now)
    found = explanation_of(cache, exchange, now)
    found.sentences += about_request(exchange)
    action = plan.action
    match action:
        case Serve():
            _serve(found, exchange, action.entry, action.decision, now)
        case Unchanged():
            found.verdict, found.status = HIT, 304
            found.sentences.append(
                Sentence("The request's condition holds by a head that is fresh: 304.", "RFC 9111 §4.3.2")
            )
        case Refuse():
            found.verdict, found.status, found.fwd = REFUSED, 504, plan.fwd
            _why_forward(found, cache, exchange, plan, now)
            found.sentences.append(
                Sentence("The request says only-if-cached: 504, and no origin is asked.", "RFC 9111 §5.2.1.7")
            )
        case Join():
            found.verdict, found.fwd = JOIN, plan.fwd
            _why_forward(found, cache, exchange, plan, now)
            found.sentences.append(
                Sentence(f"Another request has asked for it: they share that ({len(action.fill.waiters)} wait).")
            )
        case Settle() | WaitFor():
            found.verdict, found.fwd = WAIT, plan.fwd
            found.sentences.append(
                Sentence(
                    "It is being fetched for somebody else: this request waits for the end of that, and looks again."
                )
            )
        case Fetch():
            _fetch(found, cache, limiter, exchange, plan, action.request, now, home)
    return found


def explain_head(cache: Cache, exchange: Exchange) -> Explanation:
    """A HEAD: answered by a fresh entry, else forwarded (RFC 9110 §9.3.2; :meth:`.cache.Cache.head`)."""
    now = time.time()
    exchange.headers = exchange.headers.without("range")
    found = explanation_of(cache, exchange, now)
    entry = cache.planner.select(exchange.key, exchange.headers)
    decision = decide(exchange.directives, entry.response, now) if entry is not None else None
    if entry is not None and decision is not None and decision.reuse is Reuse.FRESH:
        _serve(found, exchange, entry, decision, now, needs_body=False)
        return found
    found.verdict = BYPASS
    found.fwd = cache.planner.forward_reason(exchange.key, decision)
    if entry is not None and decision is not None:
        found.sentences += [decided(decision, entry.response, now), freshness_of(entry.response, exchange.policy)]
    else:
        found.sentences += _why_nothing(found, cache, exchange)
    if exchange.directives.only_if_cached:
        found.verdict, found.status = REFUSED, 504
        found.sentences.append(
            Sentence("The request says only-if-cached: 504, and no origin is asked.", "RFC 9111 §5.2.1.7")
        )
    else:
        found.sentences.append(
            Sentence(
                "A HEAD that no fresh response answers goes to its origin, and updates what is stored.",
                "RFC 9111 §4.3.5",
            )
        )
    return found


def explanation_of(cache: Cache, exchange: Exchange, now: float) -> Explanation:
    """What is stored, and what is remembered."""
    entries, selected_one = cache.store.lookup(exchange.key), cache.planner.select(exchange.key, exchange.headers)
    return Explanation(
        MISS,
        stored=[facts_of(entry, exchange.policy, now, is_selected=entry is selected_one) for entry in entries],
        recent=_recent(cache, exchange.key),
    )


def _recent(cache: Cache, key: str) -> tuple[Reason, ...]:
    drops = (Reason(DROPPED, drop.word, None, "", drop.at, drop.times) for drop in cache.store.recent_drops.of(key))
    reasons = [*drops, *cache.fills.context.reasons.of(key)]
    return tuple(sorted(reasons, key=lambda reason: reason.at, reverse=True)[:REASONS_MAX])


# -- from the store ---------------------------------------------------------------------------------------------------


def _serve(
    found: Explanation, exchange: Exchange, entry: Entry, decision: Decision, now: float, *, needs_body: bool = True
) -> None:
    response = entry.response
    spans = selected(exchange, response, entry.length)
    is_unchanged = is_conditional(exchange.headers) and not_modified(
        exchange.headers, 200 if isinstance(spans, list) else response.status, response.headers
    )
    found.verdict = STALE if decision.reuse is Reuse.STALE_WHILE_REVALIDATE else HIT
    found.status = response.status
    found.sentences += [decided(decision, response, now), *about_entry(response, exchange)]
    if is_unchanged:
        found.status = 304
        found.sentences.append(Sentence("The request's condition holds: 304.", "RFC 9110 §13.2.2"))
        return
    if spans == "unsatisfiable":
        found.status = 416
        found.sentences.append(Sentence(f"The range is beyond the {entry.length} bytes: 416.", "RFC 9110 §15.5.17"))
    elif spans is not None:
        found.status = 206
        found.sentences.append(Sentence("The range that is asked for is cut out of it: 206.", "RFC 9110 §15.3.7"))
    if needs_body and entry.spans is not None and first_gap(entry, spans) is not None:
        found.verdict, found.fwd = PARTIAL, "partial"
        found.sentences.append(FORWARD["partial"].of(present=entry.present, length=entry.length))
        found.sentences.append(
            Sentence(
                "What is missing is asked for with Range and If-Range, under the strong validator that is stored."
                if strong_validator(response.headers) is not None
                else "What is missing is on its way.",
                "RFC 9111 §3.4",
            )
        )


# -- from the origin --------------------------------------------------------------------------------------------------


def _why_forward(found: Explanation, cache: Cache, exchange: Exchange, plan: Plan, now: float) -> None:
    if plan.stale is not None:
        response = plan.stale.response
        found.sentences.append(decided(decide(exchange.directives, response, now), response, now))
        found.sentences.append(freshness_of(response, exchange.policy))
    else:
        found.sentences += _why_nothing(found, cache, exchange)


def _why_nothing(found: Explanation, cache: Cache, exchange: Exchange) -> list[Sentence]:
    """Why no entry is selected."""
    entries = cache.store.lookup(exchange.key)
    if not entries:
        return [FORWARD["uri-miss"], *_where_it_went(found)]
    sentences = []
    for entry in entries:
        names = mismatches(entry.response.vary, exchange.headers)
        if names:
            sentences.append(_for_others(entry, ", ".join(names[:NAMES_SHOWN])))
        elif entry.spans is not None:
            sentences.append(FORWARD["partial"].of(present=entry.present, length=entry.length))
            sentences.append(
                Sentence("This request can't be answered by filling its gaps: it asks for itself.", "RFC 9111 §3.4")
            )
        elif is_another_version(exchange.headers, entry.response):
            sentences.append(
                Sentence("What is stored is another version than the one that the request names.", "RFC 9110 §13.1.1")
            )
        else:
            sentences.append(
                Sentence("What is stored is older than what the client has, as its condition tells.", "RFC 9111 §4.3.2")
            )
    return list(dict.fromkeys(sentences))


def _where_it_went(found: Explanation) -> list[Sentence]:
    drop = found.last_drop
    if drop is None:
        return []
    why = told(drop)
    return [Sentence(f"{why.text} That was at {iso(drop.at)}.", why.rfc)]


def _for_others(entry: Entry, names: str) -> Sentence:
    status = entry.response.status
    if status >= 400 and not speaks_of_resource(status):
        return Sentence(
            f"What is stored is an error ({status}), for requests with just the same fields: other are {names}.",
            "RFC 9111 §4.1",
        )
    return Sentence(f"A stored variant is for other values of {names}, which Vary names.", "RFC 9111 §4.1")


def _fetch(
    found: Explanation, cache: Cache, limiter: OriginLimiter, exchange: Exchange, plan: Plan, request: FillRequest,
    now: float, home: Callable[[str], str | None],
) -> None:  # fmt: skip
    found.fwd = plan.fwd
    _why_forward(found, cache, exchange, plan, now)
    conditions = conditional_headers([entry.response for entry in request.candidates])
    if conditions:
        sent = " and ".join(name for name, _ in conditions)
        found.sentences.append(Sentence(f"The origin is asked whether it is still good, by {sent}.", "RFC 9111 §4.3.1"))
    elif plan.stale is not None:
        found.sentences.append(Sentence("It has no validator: all of it is asked for again.", "RFC 9111 §4.3.1"))
    found.verdict = REVALIDATE if conditions and plan.stale is not None else MISS
    is_uncacheable = cache.fills.keys.is_uncacheable(exchange.key, exchange.headers)
    found.sentences += about_fill(exchange, request, is_uncacheable=is_uncacheable)
    context = cache.fills.context
    if not context.sources.begins_at_origin(request):
        at = home(exchange.key)
        found.sentences.append(
            Sentence(f"The peer {at} is asked first: it is the home of the key." if at else
                     "Peers or the shared store are asked first.")
        )  # fmt: skip
    else:
        _at_the_limiter(found, cache, limiter, exchange, plan.stale, now)
    if plan.stale is not None and found.verdict != REFUSED:
        found.sentences.append(_if_the_origin_fails(exchange, plan.stale, now))


def _at_the_limiter(
    found: Explanation, cache: Cache, limiter: OriginLimiter, exchange: Exchange, stale: Entry | None, now: float
) -> None:
    forecast = limiter.forecast(exchange.target.authority, exchange.client, exchange.policy.patience)
    found.sentences.append(SLOTS[forecast].of(in_flight=limiter.in_flight, queued=limiter.queued))
    if forecast in ("admitted", "queued"):
        return
    found.verdict, found.status = REFUSED, 503
    if stale is not None and has_it_all(exchange, stale) and cache.serving.may_use_stale(
        exchange, stale, now, overload=True
    ):  # fmt: skip
        found.verdict, found.status = STALE, stale.response.status
        found.sentences.append(
            Sentence("What is stored is used in place of the 503 (origin_serve_stale_on_overload).", "RFC 9111 §4.2.4")
        )


def _if_the_origin_fails(exchange: Exchange, stale: Entry, now: float) -> Sentence:
    directives, response = exchange.directives, stale.response
    if may_serve_stale(directives, response, now, disconnected=False):
        return Sentence("If the origin answers 5xx, or not at all, what is stored is used.", "RFC 5861 §4")
    if may_serve_stale(directives, response, now, disconnected=True):
        return Sentence(
            "If the origin gives no answer what is stored is used; its 5xx would be passed on.", "RFC 9111 §4.2.4"
        )
    return Sentence("If the origin fails its error is passed on: stale use is forbidden.", "RFC 9111 §4.2.4")
