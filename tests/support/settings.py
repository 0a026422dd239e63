"""Settings without mitmproxy's options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proxy_cache.caching.cache import CacheSettings
from proxy_cache.caching.fills.context import SpanSettings
from proxy_cache.caching.limiter import Limits
from proxy_cache.mitm.rules import Rules
from proxy_cache.semantics import redaction
from proxy_cache.semantics.limits import DEFAULT_HEAD_LIMITS
from proxy_cache.settings import Settings
from proxy_cache.store.store import Quota
from proxy_cache.upstream.origin import OriginSettings
from proxy_cache.upstream.peers.settings import FleetSettings

MIB = 1 << 20


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "cache_dir": Path("/nowhere"),
        "quota": Quota(64 * MIB, 0, 16 * MIB),
        "memory": MIB,
        "verify_rate": 0,
        "cache_hosts": (),
        "limits": Limits(0, 0, 16, 10, 0),
        "head_limits": DEFAULT_HEAD_LIMITS,
        "origin": OriginSettings(),
        "fleet": FleetSettings(),
        "cache": CacheSettings(),
        "rules": Rules(),
        "default_ttl": 120,
        "spans": SpanSettings(MIB, 16 * MIB, None),
        "quick_abort_max": MIB,
        "quick_abort_timeout": 10,
        "spill_max": MIB,
        "metrics_listen": None,
        "access_log": False,
        "redaction": redaction.Rules([], []),
        "fast_lane": True,
        "half_closed_clients": False,
        "shutdown_grace": 0,
    }
    return Settings(**(values | changes))
