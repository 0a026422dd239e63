"""A stored response, and a decision about it, for those who ask (:mod:`.explain`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ..semantics.credentials import is_credential
from ..semantics.freshness import ASSIGNED
from ..semantics.policy import Policy
from ..semantics.redaction import for_log
from ..semantics.reuse import Decision
from ..semantics.stored import StoredResponse
from ..semantics.storing import ERROR_LIFETIME_MAX, omitted_fields, says_nothing
from ..semantics.texts import brief
from ..store.entry import Entry
from .answers import Exchange
from .sentences import DECIDED, ERROR_CAP, LIFETIMES, NEVER_STALE, TARGETED, Sentence

HIDDEN: Final = "***"
NAMES_SHOWN: Final = 10
"""Names of fields in one sentence."""
VALUE_MAX: Final = 200
"""Characters of a field's value that are shown."""


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """What there is to say of an entry, whoever asks for it."""

    is_selected: bool
    """Whether the request's fields select it, and not an older one (RFC 9111 §4.1)."""
    variant: dict[str, str | None]
    """The selecting fields and their values, credentials hidden; ``None``: the field was absent."""
    status: int
    size: int
    """Bytes of the body."""
    present: int
    """Bytes of it that are stored."""
    stored_at: float
    """Unix seconds, as the next two."""
    responded_at: float
    fresh_until: float | None
    """``None``: it is validated each time, or was stale when it came."""
    age: int
    ttl: int
    """Seconds; negative when stale."""
    freshness: Sentence
    stale_use: Sentence
    etag: str | None
    last_modified: str | None

    def to_json(self, now: float) -> dict[str, Any]:
        is_fresh = self.fresh_until is not None and now < self.fresh_until
        return {
            "selected": self.is_selected,
            "variant": self.variant,
            "status": self.status,
            "size": self.size,
            "present": self.present,
            "stored_at": iso(self.stored_at),
            "age_seconds": self.age,
            "ttl_seconds": self.ttl,
            "fresh_until": iso(self.fresh_until) if self.fresh_until is not None else None,
            "state": "fresh" if is_fresh else "stale",
            "freshness_rule": self.freshness.to_json(),
            "stale_use": self.stale_use.to_json(),
            "etag": self.etag,
            "last_modified": self.last_modified,
        }


def facts_of(entry: Entry, policy: Policy, now: float, *, is_selected: bool) -> EntryFacts:
    """``policy``: of the request that asks, whose rules say which lifetime is theirs."""
    response = entry.response
    return EntryFacts(
        is_selected,
        {name: _shown(name, value, policy) for name, value in response.vary},
        response.status,
        entry.length,
        entry.present,
        entry.written,
        response.response_time,
        response.fresh_until if math.isfinite(response.fresh_until) else None,
        response.age(now),
        response.ttl(now),
        freshness_of(response, policy),
        _stale_use(response),
        brief(response.etag, VALUE_MAX) if response.etag is not None else None,
        brief(response.last_modified, VALUE_MAX) if response.last_modified is not None else None,
    )


def _shown(name: str, value: str | None, policy: Policy) -> str | None:
    if value is None:
        return None
    if is_credential(name, policy.credentials) or value.startswith("sha256:"):
        return HIDDEN
    return brief(for_log(value), VALUE_MAX)


def freshness_of(response: StoredResponse, policy: Policy) -> Sentence:
    """Its lifetime, and the rule that gives it."""
    rule = response.lifetime_rule
    if rule == ASSIGNED:
        found = policy.rule_for(response.status, response.headers)
        if found is not None and found.seconds == response.lifetime:
            rule = "cache_ttl"
        elif found is None and response.status == 200 and says_nothing(response.headers):
            rule = "default"
    targeted = f" of {response.targeted}" if response.targeted is not None else ""
    sentence = LIFETIMES[rule].of(lifetime=response.lifetime, targeted=targeted)
    if targeted and "{targeted}" in LIFETIMES[rule].text:
        sentence = Sentence(sentence.text, TARGETED)
    if response.status >= 500 and rule in ("s-maxage", "max-age", "expires", "heuristic"):
        sentence = Sentence(f"{sentence.text} {ERROR_CAP.of(seconds=ERROR_LIFETIME_MAX).text}", sentence.rfc)
    return sentence


def _stale_use(response: StoredResponse) -> Sentence:
    """What it may be used for when it is stale."""
    if response.never_stale:
        found = NEVER_STALE[response.never_stale]
        return Sentence(f"Never used when stale: {found.text.removeprefix('it is stale, and ')}.", found.rfc)
    control = response.cache_control
    texts = []
    if control.stale_while_revalidate is not None:
        texts.append(f"for {control.stale_while_revalidate} s while it is validated")
    if control.stale_if_error is not None:
        texts.append(f"for {control.stale_if_error} s if the origin fails")
    if texts:
        return Sentence(f"Used when stale {', '.join(texts)}.", "RFC 5861 §3, §4")
    return Sentence("Used when stale only where the origin gives no answer.", "RFC 9111 §4.2.4")


def decided(decision: Decision, response: StoredResponse, now: float) -> Sentence:
    """What was decided about a stored response, in the words of what has decided it."""
    ttl = response.ttl(now)
    forbidden = NEVER_STALE.get(response.never_stale)
    sentence = DECIDED[decision.because].of(
        left=max(ttl, 0), staleness=max(-ttl, 0), age=response.age(now), lifetime=response.lifetime,
        directive=forbidden.text if forbidden is not None else "",
    )  # fmt: skip
    if decision.because == "never-stale" and forbidden is not None:
        return Sentence(sentence.text, forbidden.rfc)
    return sentence


def about_entry(response: StoredResponse, exchange: Exchange) -> list[Sentence]:
    """What gives it its lifetime, and why it is here although something seems to speak against it."""
    control, policy, sentences = response.cache_control, exchange.policy, [freshness_of(response, exchange.policy)]
    is_ruled = response.lifetime_rule == ASSIGNED
    if omitted := omitted_fields(control):
        sentences.append(
            Sentence(
                f"It is stored without {', '.join(sorted(omitted)[:NAMES_SHOWN])}, which private or no-cache names.",
                "RFC 9111 §5.2.2.7",
            )
        )
    if control.no_store and control.must_understand and not is_ruled:
        sentences.append(
            Sentence("must-understand overrides its no-store, as the status is known here.", "RFC 9111 §5.2.2.3")
        )
    if "set-cookie" in response.headers:
        sentences.append(
            Sentence("It sets a cookie, and says by public or s-maxage that it is for all.", "RFC 9111 §7.3")
        )
    if "authorization" in exchange.headers and not policy.ignore_authorization:
        sentences.append(
            Sentence("It is for all, so that it answers requests with Authorization as well.", "RFC 9111 §3.5")
        )
    if policy.signed_url:
        sentences.append(Sentence("The URL is signed: public, immutable, s-maxage or a rule has let it be stored."))
    return sentences


def iso(moment: float) -> str:
    """Unix seconds in ISO 8601, UTC."""
    try:
        found = datetime.fromtimestamp(moment, UTC)
    except (OverflowError, ValueError, OSError):  # a lifetime of thousands of years
        found = datetime.max.replace(tzinfo=UTC)
    return found.isoformat(timespec="seconds")
