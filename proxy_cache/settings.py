"""The operator's settings, as frozen values. They are made of mitmproxy's options, in :mod:`mitm.option_values`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .caching.fills.context import SpanSettings
from .caching.limiter import Limits
from .caching.serving import CacheSettings
from .observe.access_log import LogSettings
from .semantics.keys import Target
from .semantics.limits import HeadLimits
from .semantics.policy import Policy
from .semantics.redaction import Rules as RedactionRules
from .store.store import Quota
from .upstream.destinations import Destinations
from .upstream.origin import OriginSettings
from .upstream.peers.settings import FleetSettings
from .upstream.shared.store import SharedSettings
from .upstream.special_addresses import IPNetwork, canonical


class Rules(Protocol):
    """Rules that name requests, in whatever language."""

    @property
    def base(self) -> Policy:
        """For requests that no rule speaks of."""

    @property
    def are_none(self) -> bool: ...

    @property
    def ask_clients(self) -> bool:
        """Whether two clients that send the same bytes may have different policies."""

    @property
    def ignored_parameters(self) -> tuple[tuple[str, ...], ...]:
        """Patterns of query parameters that are left out of keys, as they go together."""

    def policy(self, target: Target, method: bytes, flow: Callable[[], Any]) -> Policy:
        """The policy for a request. ``flow`` makes a flow for the rules to look at, if the target does not decide."""

    def policy_for(self, flow: Any, method: bytes | None = None) -> Policy:
        """The same for a flow, as if it had this ``method``."""

    def policy_of(self, target: Target, method: bytes, flow: Callable[[bytes], Any]) -> Policy:
        """The same for a target. ``flow`` makes a flow with a method."""


@dataclass(frozen=True, slots=True)
class InterceptSettings:
    """``hosts``: whose TLS ends here. ``fallback``: whether a client that does not trust our certificate is left
    alone for a while."""

    hosts: tuple[re.Pattern[str], ...] = ()
    fallback: bool = True


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """Of the metrics port. ``tokens``: whoever has one of these may change something; none: nobody may. ``hosts``: by
    which names it may be asked, besides the machine's own."""

    tokens: tuple[str, ...] = field(default=(), repr=False)
    hosts: tuple[re.Pattern[str], ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """All options, checked and typed."""

    cache_dir: Path
    quota: Quota
    memory: int
    verify_rate: int
    cache_hosts: tuple[re.Pattern[str], ...]
    limits: Limits
    head_limits: HeadLimits
    origin: OriginSettings
    fleet: FleetSettings
    cache: CacheSettings
    rules: Rules
    default_ttl: int
    spans: SpanSettings
    quick_abort_max: int
    quick_abort_timeout: int
    spill_max: int
    metrics_listen: tuple[str, int] | None
    access_log: bool
    redaction: RedactionRules
    fast_lane: bool
    half_closed_clients: bool
    shutdown_grace: int
    log: LogSettings = field(default_factory=LogSettings)
    request_id: bool = False
    """Whether requests have an X-Request-Id."""
    shared: SharedSettings | None = None
    destinations: Destinations = field(default_factory=Destinations)
    clients: tuple[IPNetwork, ...] = ()
    """Those that are served; empty: all."""
    intercept: InterceptSettings = InterceptSettings()
    admin: AdminSettings = AdminSettings()

    def caches(self, host: str, port: int) -> bool:
        """Whether GETs for this host go through the cache."""
        return not self.cache_hosts or is_one_of(self.cache_hosts, host, port)

    def serves(self, client: str) -> bool:
        """Whether a client with this address is served (``access_clients``)."""
        if not self.clients:
            return True
        try:
            address = canonical(client)
        except ValueError:  # no address, of a socket without any
            return False
        return any(address.version == network.version and address in network for network in self.clients)


def is_one_of(patterns: Iterable[re.Pattern[str]], host: str, port: int) -> bool:
    """Whether a host, with or without its port, matches one of these (``cache_hosts``)."""
    name = host.lower()
    with_port = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    return any(pattern.match(name) or pattern.match(with_port) for pattern in patterns)
