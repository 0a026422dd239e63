"""What an operator has ruled, as the pure functions of this package see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .headers import Headers


@dataclass(frozen=True, slots=True)
class TtlRule:
    """A freshness lifetime in place of what the origin says about it (the option ``cache_ttl``)."""

    seconds: int
    force: bool = False
    """Also against ``no-store``, ``private`` and Set-Cookie."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What applies to one request and to the response it gets."""

    targeted: tuple[str, ...] = ()
    """Targeted fields to obey, lower-case, the preferred one first (RFC 9213 §2.2)."""
    ignore_directives: bool = False
    """The request's Cache-Control and Pragma decide nothing here. They are passed on (RFC 9111 §5.2)."""
    ignore_authorization: bool = False
    """What is served to one user may be served to all (an exception to RFC 9111 §3.5), whatever the field is that
    says who is asking."""
    ttl: Callable[[int, Headers], TtlRule | None] | None = None
    """The rule for a response with this status and these fields, if there is one."""
    key_ignores: tuple[str, ...] = ()
    """Query parameters, as shell patterns, that are no part of the key: they only sign."""
    credentials: frozenset[str] = frozenset()
    """Fields, lower-case, that say who is asking, besides those of :mod:`.credentials`."""
    signed_url: bool = False
    """The URL carries a signature of its own (:func:`~.signatures.is_signed_url`), and no rule says that what is behind
    it is the same for all."""
    patience: int | None = None
    """Seconds that this request may wait for a slot (the option ``cache_queue_timeout``); ``None``: as all others."""

    def rule_for(self, status: int, headers: Headers) -> TtlRule | None:
        return self.ttl(status, headers) if self.ttl is not None else None


BY_THE_BOOK: Final = Policy()
"""No rules: RFC 9111 as it is."""
