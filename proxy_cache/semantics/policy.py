"""The operator's rules, as values for the functions of this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .headers import Headers


@dataclass(frozen=True, slots=True)
class TtlRule:
    """A freshness lifetime that replaces the origin's (the option ``cache_ttl``)."""

    seconds: int
    force: bool = False
    """Also against ``no-store``, ``private`` and Set-Cookie."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules for one request and its response."""

    targeted: tuple[str, ...] = ()
    """Targeted fields to use, lower-case, the preferred one first (RFC 9213 §2.2)."""
    ignore_directives: bool = False
    """Ignore the request's Cache-Control and Pragma, but forward them (RFC 9111 §5.2)."""
    ignore_authorization: bool = False
    """Responses to one user may be served to all (an exception to RFC 9111 §3.5), whichever field identifies the
    user."""
    ttl: Callable[[int, Headers], TtlRule | None] | None = None
    """Called with status and fields of a response: its rule, if there is one."""
    key_ignores: tuple[str, ...] = ()
    """Query parameters, as shell patterns, that are not part of the key, since they only sign."""
    credentials: frozenset[str] = frozenset()
    """Fields, lower-case, that identify the user, besides those of :mod:`.credentials`."""
    signed_url: bool = False
    """The URL is signed (:func:`~.signatures.is_signed_url`) by parameters that are part of the key, and no rule says
    that its content is the same for all users."""
    patience: int | None = None
    """Seconds that this request may wait for a slot (the option ``cache_queue_timeout``); ``None``: the default."""

    def rule_for(self, status: int, headers: Headers) -> TtlRule | None:
        return self.ttl(status, headers) if self.ttl is not None else None


BY_THE_BOOK: Final = Policy()
"""No rules: RFC 9111 as it is."""
