"""What the cache decides, as sentences for an operator, each with the section of the standard that says so.

The words on the left are those of the functions that decide, of ``Cache-Status``, of the log and of the metrics;
``tests/unit/test_sentences.py`` checks that none is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from ..semantics.status_fields import PROXY_ERRORS
from .recent_reasons import DROPPED, ERROR, NOT_REUSED, NOT_STORED, OVERLOADED, Reason


@dataclass(frozen=True, slots=True)
class Sentence:
    """``rfc``: the section, empty where it is this proxy's or its operator's choice."""

    text: str
    rfc: str = ""

    def of(self, **values: object) -> Sentence:
        """With values in place of ``{names}``."""
        return replace(self, text=self.text.format(**values))

    def to_json(self) -> dict[str, str | None]:
        return {"text": self.text, "rfc": self.rfc or None}


WHY_NOT_STORED: Final[Mapping[str, Sentence]] = {
    "no-store": Sentence("The response says no-store (or has more Cache-Control than is read).", "RFC 9111 §5.2.2.5"),
    "private": Sentence("The response is private: it is for the one who asked.", "RFC 9111 §5.2.2.7"),
    "set-cookie": Sentence(
        "The response sets a cookie, and doesn't say by public or s-maxage that it is for all.", "RFC 9111 §7.3"
    ),
    "vary-star": Sentence(
        "Vary is *, names no field, or more than 32: no request would ever match it.", "RFC 9111 §4.1"
    ),
    "no-freshness": Sentence(
        "The response has neither a lifetime (max-age, s-maxage, Expires) nor a validator (ETag, Last-Modified), or "
        "its status takes an explicit one. (cache_default_ttl is for plain 200s without a query in the URL, to "
        "requests without credentials.)",
        "RFC 9111 §3",
    ),
    "status": Sentence(
        "Responses with this status are never stored, or it is an error where something better is stored.",
        "RFC 9111 §3",
    ),
    "authorization": Sentence(
        "The request has Authorization, and the response allows no shared cache by public, s-maxage or "
        "must-revalidate.",
        "RFC 9111 §3.5",
    ),
    "credentials": Sentence(
        "The request says who is asking (a Cookie, a token), and the response says nothing about its lifetime: none is "
        "assumed then.",
        "RFC 9111 §4.2.2",
    ),
    "request-no-store": Sentence("The request said no-store.", "RFC 9111 §5.2.1.5"),
    "partial": Sentence("It is a part, or about a part, that can't be put together with others.", "RFC 9111 §3.3"),
    "bypass": Sentence(
        "It was asked for on conditions, or for a range, of this client's own, or another node of the fleet keeps it.",
        "RFC 9111 §4.3.2",
    ),
    "signed-url": Sentence(
        "The URL has a signature of its own, and neither the response (public, immutable, s-maxage) nor a rule says "
        "that it is for all.",
    ),
    "invalidated": Sentence("An unsafe method, or a purge, came for the URL while it was fetched.", "RFC 9111 §4.4"),
    "store": Sentence(
        "There was no room for it, or the disk failed: cache_proxy_store_failures_total says which.", "RFC 9111 §3"
    ),
    "abandoned": Sentence("Its clients left before it was complete, and too much of it was still to come."),
    "stalled": Sentence("Its clients took nothing for so long that the fill was ended."),
    "other": Sentence("It was not stored, for a reason that has no word."),
}
"""By the words of ``Cache-Status`` (``detail``), of the log (``not_stored``) and of the metrics; and of fills that have
ended early."""

DECIDED: Final[Mapping[str, Sentence]] = {
    "fresh": Sentence("What is stored is fresh for another {left} s.", "RFC 9111 §4.2"),
    "immutable": Sentence(
        "It is fresh for another {left} s, and immutable: the request's max-age asks for no validation.",
        "RFC 8246 §2.1",
    ),
    "request-max-stale": Sentence(
        "It has been stale for {staleness} s, which the request's max-stale accepts.", "RFC 9111 §5.2.1.2"
    ),
    "stale-while-revalidate": Sentence(
        "It has been stale for {staleness} s, within its stale-while-revalidate: it is used at once, and validated in "
        "the background.",
        "RFC 5861 §3",
    ),
    "never-stale": Sentence("It must not be used without validation: {directive}.", "RFC 9111 §4.2.4"),
    "stale": Sentence("It has been stale for {staleness} s.", "RFC 9111 §4.2"),
    "request-no-cache": Sentence(
        "The request says no-cache (or Pragma: no-cache): what is stored has to be validated.", "RFC 9111 §5.2.1.4"
    ),
    "request-max-age": Sentence(
        "The request's max-age accepts nothing that is {age} s old, or stale.", "RFC 9111 §5.2.1.1"
    ),
    "request-min-fresh": Sentence(
        "The request's min-fresh asks for more freshness than the {left} s that are left.", "RFC 9111 §5.2.1.3"
    ),
    "request-max-stale-exceeded": Sentence(
        "It has been stale for {staleness} s, which is more than the request's max-stale (or max-age) accepts.",
        "RFC 9111 §5.2.1.2",
    ),
}
"""By :data:`~..semantics.reuse.BECAUSE`."""

NEVER_STALE: Final[Mapping[str, Sentence]] = {
    "no-cache": Sentence("the response says no-cache", "RFC 9111 §5.2.2.4"),
    "no-store": Sentence("a validation has brought no-store", "RFC 9111 §5.2.2.5"),
    "private": Sentence("a validation has brought private", "RFC 9111 §5.2.2.7"),
    "must-revalidate": Sentence("it is stale, and the response says must-revalidate", "RFC 9111 §5.2.2.2"),
    "proxy-revalidate": Sentence("it is stale, and the response says proxy-revalidate", "RFC 9111 §5.2.2.8"),
    "s-maxage": Sentence("it is stale, and s-maxage forbids any use of that", "RFC 9111 §5.2.2.10"),
    "error": Sentence("it is an error, which is of no use when stale", "RFC 9111 §4.2.4"),
}
"""By :attr:`~..semantics.stored.StoredResponse.never_stale`."""

LIFETIMES: Final[Mapping[str, Sentence]] = {
    "cache_ttl": Sentence("A lifetime of {lifetime} s, by a rule of cache_ttl.", "RFC 9111 §4.2.2"),
    "default": Sentence(
        "A lifetime of {lifetime} s, by cache_default_ttl: the response says nothing of caching.", "RFC 9111 §4.2.2"
    ),
    "assigned": Sentence(
        "A lifetime of {lifetime} s, by the cache_ttl or cache_default_ttl of the time when it was stored.",
        "RFC 9111 §4.2.2",
    ),
    "s-maxage": Sentence("A lifetime of {lifetime} s, by s-maxage{targeted}.", "RFC 9111 §5.2.2.10"),
    "max-age": Sentence("A lifetime of {lifetime} s, by max-age{targeted}.", "RFC 9111 §5.2.2.1"),
    "expires": Sentence("A lifetime of {lifetime} s, from Date to Expires.", "RFC 9111 §5.3"),
    "heuristic": Sentence(
        "A lifetime of {lifetime} s, a tenth of the time since Last-Modified, a day at most.", "RFC 9111 §4.2.2"
    ),
    "none": Sentence("No lifetime: it is validated each time.", "RFC 9111 §4.2.1"),
}
"""By :data:`~..semantics.freshness.LIFETIME_RULES`, of which ``assigned`` is told in three ways."""
TARGETED: Final = "RFC 9213 §2.2"
ERROR_CAP: Final = Sentence("As an error it is fresh for {seconds} s at most.")

FORWARD: Final[Mapping[str, Sentence]] = {
    "uri-miss": Sentence("Nothing is stored for this URL.", "RFC 9111 §4"),
    "vary-miss": Sentence("What is stored for this URL is for other request fields.", "RFC 9111 §4.1"),
    "partial": Sentence("It is stored in part: {present} of {length} bytes.", "RFC 9111 §3.3"),
    "stale": Sentence("What is stored is stale.", "RFC 9111 §4.2"),
    "request": Sentence("The request would not have what is stored.", "RFC 9111 §5.2.1"),
}
"""By ``fwd`` of ``Cache-Status`` (RFC 9211 §2.2), as far as the cache says it."""

BYPASSED: Final[Mapping[str, Sentence]] = {
    "method": Sentence("{method} goes to its origin: only GET, and HEAD, are answered by the cache.", "RFC 9111 §3"),
    "target": Sentence("Its origin would be asked for something else than the URL says.", "RFC 9110 §7.2"),
    "cache_hosts": Sentence("The host is none of cache_hosts: the cache leaves it alone."),
    "body": Sentence("A GET with a body, or with Upgrade, goes to its origin as it is.", "RFC 9110 §9.3.1"),
}
"""By :meth:`~..downstream.admission.Admission.why_forwarded`."""

SLOTS: Final[Mapping[str, Sentence]] = {
    "admitted": Sentence("There is a slot for it at once ({in_flight} in flight)."),
    "queued": Sentence("All slots are taken ({in_flight} in flight): it waits in the queue, behind {queued} others."),
    "rejected": Sentence(
        "All slots are taken, and there is no place in the queue: 503 with Retry-After.", "RFC 9110 §15.6.4"
    ),
    "timeout": Sentence(
        "All slots are taken, and it may not wait for one (cache_queue_timeout, origin_queue_timeout): 503 with "
        "Retry-After.",
        "RFC 9110 §15.6.4",
    ),
}
"""By :meth:`.limiter.OriginLimiter.forecast`."""

_OVERLOADED: Final[Mapping[str, Sentence]] = {
    "rejected": Sentence("503: all slots were taken, and there was no place in the queue.", "RFC 9110 §15.6.4"),
    "timeout": Sentence("503: no slot came free in time (origin_queue_timeout).", "RFC 9110 §15.6.4"),
    "canceled": Sentence("Its client left the queue."),
}
_NOT_REUSED: Final[Mapping[str, Sentence]] = {
    **FORWARD,
    "partial": Sentence("What is stored has gaps that this request couldn't fill.", "RFC 9111 §3.4"),
}
_PURGED: Final = (
    ("host", "its host"), ("match", "a pattern that it is like"), ("tag", "a tag of it"), ("all", "everything"),
)  # fmt: skip
_DROPPED: Final[Mapping[str, Sentence]] = {
    "unsafe-method": Sentence("It was dropped: an unsafe method succeeded on this URL.", "RFC 9111 §4.4"),
    "head": Sentence("It was dropped: a HEAD has shown that the origin has another version.", "RFC 9111 §4.3.5"),
    "purge": Sentence("It was dropped: somebody has purged this URL."),
    "soft-purge": Sentence("It was made stale: somebody has purged this URL softly."),
    "evicted": Sentence("It was evicted: it was unused for longest when room was needed."),
    "unreadable": Sentence("It was dropped: on the disk it was gone, or not what had been stored."),
    **{f"purge-{by}": Sentence(f"It was dropped: somebody has purged {what}.") for by, what in _PURGED},
    **{f"soft-purge-{by}": Sentence(f"It was made stale: somebody has purged {what} softly.") for by, what in _PURGED},
}


def told(reason: Reason) -> Sentence:
    """A reason of :mod:`.recent_reasons` as a sentence."""
    word = reason.word
    if reason.kind == ERROR:
        why = "Rules of access forbid the way" if reason.status == 403 else "The origin gave no usable answer"
        section = "RFC 9209 §2.3" if word in PROXY_ERRORS else ""
        return Sentence(f"{why}: {word.replace('_', ' ')}, answered {reason.status}.", section)
    tables = {
        NOT_STORED: WHY_NOT_STORED, NOT_REUSED: _NOT_REUSED, OVERLOADED: _OVERLOADED, DROPPED: _DROPPED,
    }  # fmt: skip
    return tables[reason.kind].get(word) or Sentence(f"{reason.kind}: {word}.")
