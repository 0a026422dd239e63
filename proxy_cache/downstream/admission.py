"""The one door: what becomes of a request, whichever way it has come, by lane, as a flow, or as a CONNECT."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from ..semantics.keys import Target
from ..settings import Settings
from ..upstream.access import Access
from ..upstream.destinations import Denial


class Route(Enum):
    """Where a request goes from the door."""

    CACHE = "cache"
    """A GET that the cache answers."""
    CACHED_HEAD = "cached-head"
    """A HEAD: the cache answers it if it has the response, its origin if not."""
    FORWARD = "forward"
    """To its origin, past the cache."""
    PURGE = "purge"
    """It is for this proxy."""
    TUNNEL = "tunnel"
    """A CONNECT."""
    NO_FURTHER = "no-further"
    """Its Max-Forwards is 0 (RFC 9110 §7.6.2)."""
    LOOP = "loop"
    """It has been here before (RFC 9110 §7.6.3)."""
    DENIED = "denied"
    """Nobody may go there: :meth:`Admission.denial` says why."""
    UNAVAILABLE = "unavailable"
    """The proxy is starting, stopping, or has no valid settings."""


class Admission:
    """Decides by what a request says and how the proxy is. ``via``: our name in Via."""

    def __init__(self, via: str, access: Access | None = None) -> None:
        self.settings: Settings | None = None
        self.access = access or Access()
        self.is_open = False
        """Whether there is a cache, and the proxy is not about to stop."""
        self.is_stopping = False
        self._via = via

    def route(
        self, method: str, target: Target, via: Sequence[str], *, cacheable: bool = True, plain: bool = True,
        hops: int | None = None,
    ) -> Route:  # fmt: skip
        """``via``: values of its Via. ``cacheable``: whether its origin is asked for what the target says. ``plain``:
        has neither a body nor an Upgrade. ``hops``: of its Max-Forwards."""
        settings = self.settings
        if hops == 0:
            return Route.NO_FURTHER
        if settings is None or not self.is_open:
            return Route.UNAVAILABLE
        if via and any(self._via in value for value in via):
            return Route.LOOP
        if method == "PURGE":
            return Route.PURGE
        if (target.host, target.port) not in self.access.passed and self.access.refuses(target) is not None:
            return Route.DENIED
        if method not in ("GET", "HEAD") or not cacheable or not settings.caches(target.host, target.port):
            return Route.FORWARD
        if method == "HEAD":
            return Route.CACHED_HEAD
        return Route.CACHE if plain else Route.FORWARD

    def why_forwarded(self, method: str, target: Target, *, cacheable: bool = True) -> str:
        """Why :meth:`route` says that a request goes past the cache: ``method``, ``target`` (another one is meant),
        ``cache_hosts``, or ``body`` (it has one, or an Upgrade)."""
        if method not in ("GET", "HEAD"):
            return "method"
        if not cacheable:
            return "target"
        if self.settings is not None and not self.settings.caches(target.host, target.port):
            return "cache_hosts"
        return "body"

    def route_connect(self, host: str, port: int) -> Route:
        """A CONNECT needs no cache: it may pass while that is being opened."""
        if self.settings is None or self.is_stopping:
            return Route.UNAVAILABLE
        return Route.TUNNEL if self.access.refuses_connect(host, port) is None else Route.DENIED

    def denial(self, target: Target) -> Denial:
        """Why a request was :attr:`Route.DENIED`. It is counted, and the log told."""
        return self._told(self.access.refuses(target), target.host, target.port)

    def connect_denial(self, host: str, port: int) -> Denial:
        """The same for a CONNECT."""
        return self._told(self.access.refuses_connect(host, port), host, port)

    def _told(self, found: Denial | None, host: str, port: int) -> Denial:
        denial = found or Denial("rule", "http_request_denied", "by rules of a moment ago")
        self.access.denied(denial, host, port)
        return denial
