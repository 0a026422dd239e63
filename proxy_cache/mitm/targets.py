"""Requests that may be the cache's, by their targets: mitmproxy answers some itself."""

from __future__ import annotations

import weakref
from typing import TypeAlias

from mitmproxy import ctx

from ..semantics.keys import Target
from ..wire.requests import Request, absolute_target

Base: TypeAlias = tuple[str, str, int] | None
"""Scheme, host and port of all requests, where the proxy stands in for an origin."""


class KnownRequests(dict[bytes, tuple[Request, Target, str]]):
    """A ``dict`` that can be referred to weakly."""


class Targets:
    """The targets of request lines. They are remembered until an option changes."""

    def __init__(self) -> None:
        self._known: dict[Base, dict[bytes, tuple[Request, Target, str]]] = {}
        self._transient: weakref.WeakValueDictionary[Base, KnownRequests] = weakref.WeakValueDictionary()
        self._onboarding_host: str | None = None
        self._keep_host = False

    def known(self, base: Base) -> dict[bytes, tuple[Request, Target, str]]:
        """Requests that need not be looked at again, of all lanes with this base."""
        return self._known.setdefault(base, {})

    def known_while_open(self, base: Base) -> KnownRequests:
        """The same where clients say which base: nobody knows how many there are going to be. It is forgotten with the
        last of its lanes."""
        known = self._transient.get(base)
        if known is None:
            known = self._transient[base] = KnownRequests()
        return known

    def forget(self) -> None:
        for known in (*self._known.values(), *self._transient.values()):
            known.clear()
        self._onboarding_host = None

    def find(self, text: str, base: Base) -> Target | None:
        """The target of a request line; ``None`` if mitmproxy has to answer it."""
        if base is None:
            target = absolute_target(text)
        elif text.startswith("/"):
            target = Target.of(*base, text)
        else:
            target = None
        if target is None or not self.is_for_origin(target) or (base is not None and self._keep_host):
            return None
        return target

    def is_for_origin(self, target: Target) -> bool:
        """Whether a GET is of no interest to mitmproxy's own services: its onboarding site and its revocation list."""
        if self._onboarding_host is None:  # mitmproxy makes a copy of an option each time
            self._onboarding_host = str(ctx.options.onboarding_host)
            self._keep_host = bool(ctx.options.keep_host_header)
        return target.host != self._onboarding_host and not target.path.endswith(".crl")
