"""What the API sees of the proxy: as much of :class:`~..app.App` as it needs."""

from __future__ import annotations

from typing import Any, Protocol

from ..caching.cache import Cache
from ..caching.fills.table import FillTable
from ..caching.limiter import OriginLimiter
from ..caching.purge import Purger
from ..downstream.account import Accounts
from ..downstream.explainer import Explainer
from ..downstream.warm_requests import WarmRequests
from ..observe.metrics import Metrics
from ..settings import Settings
from ..store.store import Store


class Proxy(Protocol):
    """While it starts there is no store yet, and there are no fills."""

    settings: Settings | None
    store: Store | None
    fills: FillTable | None
    purger: Purger | None
    cache: Cache | None
    warm_requests: WarmRequests
    limiter: OriginLimiter
    accounts: Accounts
    explainer: Explainer
    metrics: Metrics
    started_at: float
    """By the system's clock, in seconds since the epoch."""

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""

    def status(self) -> dict[str, Any]:
        """The answer of ``/status``."""

    def failed(self, error: Exception) -> None:
        """Something of ours raised."""
