"""The proxy: builds all of it from its settings once, hands on new ones, drains, stops, and tells how it is doing.

Knows no mitmproxy: :mod:`.mitm` starts and stops this, and brings the requests.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import __version__
from .admin.api import Api
from .admin.server import AdminError, AdminServer
from .admin.status import VERSIONS
from .caching.cache import Cache
from .caching.fills.table import FillTable
from .caching.headers import Heads
from .caching.limiter import OriginLimiter
from .caching.purge import Purger
from .downstream.account import Accounts
from .downstream.admission import Admission
from .downstream.explainer import Explainer
from .downstream.peer_requests import PeerRequests
from .downstream.users import Users
from .downstream.warm_requests import WarmRequests
from .observe.access_log import AccessLog
from .observe.metrics import Metrics, method_label
from .observe.traces import Traces
from .runtime.batches import CallBatch
from .runtime.collector import Collector
from .semantics import credentials, redaction
from .semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from .settings import AdminSettings, Settings
from .store.store import Store, StoreError
from .upstream.access import Access
from .upstream.dial import Dialler
from .upstream.names import Names
from .upstream.origin import OriginClient, OriginSettings
from .upstream.peers.client import PeerClient
from .upstream.peers.fleet import PeerFleet
from .upstream.peers.peer_source import PeerSource
from .upstream.peers.settings import FleetSettings, Keeping
from .upstream.peers.sibling_source import SiblingSource
from .upstream.shared.bucket import BadUrl
from .upstream.shared.layout import scopes_of
from .upstream.shared.store import SharedSettings, SharedStore
from .upstream.source import OriginSource, Source, Sources

logger = logging.getLogger(__name__)


class StartError(Exception):
    """Why the proxy can't start, in one line."""


class App:
    """Owns the store, the limiter, the fills, the origins' connections, the metrics and the access log."""

    def __init__(self) -> None:
        self.via = f"proxy-cache-{secrets.token_hex(4)}"
        """Our name in ``Via``. Unlike any other's, so that a loop can be told from a chain (RFC 9110 §7.6.3)."""
        self.started_at = time.time()
        self.settings: Settings | None = None
        """``None`` as long as there are no valid ones."""
        self.heads = Heads(self.via)
        self.metrics = Metrics()
        self.metrics.build_info.labels(**VERSIONS).set(1)
        self.access_log = AccessLog(self.metrics.log_lines_lost.inc)
        self.accounts = Accounts(self.metrics, self.access_log, self.failed)
        self.metrics.before_collecting = self.accounts.hits.flush
        self.traces = Traces()
        self.access = Access(self.metrics.access_denied_for)
        self.admission = Admission(self.via, self.access)
        self.warm_requests = WarmRequests(self.via, self.admission)
        self.peer_requests = PeerRequests()
        self.users = Users()
        self.limiter = OriginLimiter(observe=self.metrics.queue_waited)
        self.collector = Collector(self._activity)
        self.names = Names(on_end=self.metrics.name_looked_up)
        self.dialler = Dialler(self.names, self.access)
        self.peer_dialler = Dialler(self.names)
        """Where peers are is the operator's choice, and no client's."""
        self.sends, self.ends = CallBatch(), CallBatch()
        """Answers to clients, and what follows them, each kind in one go."""
        self.store: Store | None = None
        self.cache: Cache | None = None
        self.fills: FillTable | None = None
        self.purger: Purger | None = None
        self.origin: OriginClient | None = None
        self.peers: PeerClient | None = None
        self.listening_on: Callable[[], Sequence[tuple[str, int]]] = lambda: ()
        """The addresses and ports that clients are served on."""
        self.interception: Callable[[], dict[str, Any] | None] = lambda: None
        """Of the hosts that are intercepted, as the status has it; ``None``: none are."""
        self.keeping = Keeping("always")
        self.fleet = PeerFleet(self.names, lambda: self.listening_on())
        self.explainer = Explainer(
            self.via, self.admission, self.limiter, self.users, lambda: self.cache, self.fleet.home_of
        )
        self.shared: SharedStore | None = None
        self.admin: AdminServer | None = None
        self.api = Api(self)
        self.metrics_at = "off"
        self.access.listening_on = self._listeners
        self.is_draining = False
        self._grace_ends = 0.0
        """By the monotonic clock."""
        self.started: asyncio.Event | None = None
        """Set when the start is over, well or not."""
        self.tunnels_open = 0

    # -- settings -------------------------------------------------------------------------------------------------

    def configure(self, settings: Settings) -> None:
        """Hand settings on to all that go by them, at the start and while running. This is the only place."""
        self.settings = self.admission.settings = settings
        self.accounts.hits.flush()
        self.accounts.is_logged = settings.access_log
        self.accounts.has_phases = settings.log.phases
        self.access_log.configure(settings.log)
        if self.store is None:
            self.heads.has_request_ids = self.accounts.has_request_ids = settings.request_id
        redaction.use(settings.redaction)
        credentials.use(settings.rules.base.credentials)
        self.limiter.configure(settings.limits)
        self.names.timeout = settings.origin.timeout
        if self.access.use(settings.destinations) and self.origin is not None:
            self.origin.renew_connections()
        if (store := self.store) is not None:
            store.quota = settings.quota
            store.memory_max = settings.memory
            store.spill.limit = settings.spill_max
            store.verifier.rate = settings.verify_rate
        if self.fills is not None:
            fills = self.fills.context
            fills.quick_abort_max = settings.quick_abort_max
            fills.quick_abort_timeout = settings.quick_abort_timeout
            fills.default_ttl = settings.default_ttl
            fills.spans = settings.spans
        if self.origin is not None:
            self.origin.configure(settings.origin)
        if self.peers is not None:
            self.peers.configure(settings.fleet.client)
            self.fleet.configure(settings.fleet)
            self.keeping.keep = settings.fleet.keep
        elif self.fills is not None:
            sources = self.fills.context.sources
            sources.before = (*self._peers(settings.fleet), *sources.before)
        self.peer_requests.tokens = settings.fleet.client.tokens
        if self.shared is not None and settings.shared is not None:
            rules = settings.rules
            self.shared.configure(settings.shared, () if rules.are_none else scopes_of(rules.ignored_parameters))
        if self.cache is not None:
            self.cache.serving.settings = settings.cache

    def dismiss(self) -> None:
        """The start has failed: requests are refused."""
        self.settings = self.admission.settings = None

    @property
    def head_limits(self) -> HeadLimits:
        return self.settings.head_limits if self.settings is not None else DEFAULT_HEAD_LIMITS

    @property
    def origin_timeout(self) -> float:
        """Seconds."""
        return (self.settings.origin if self.settings is not None else OriginSettings()).timeout

    @property
    def half_closed_clients(self) -> bool:
        return self.settings is not None and self.settings.half_closed_clients

    # -- start and stop -------------------------------------------------------------------------------------------

    def open_traces(self) -> None:
        """Before the first client connects."""
        self.traces.open(version=__version__, instance=self.via)
        self.accounts.tracer = self.traces.tracer

    async def open(self) -> None:
        """Open the cache folder and the metrics port, and answer from now on. Raises :class:`StartError`."""
        settings, metrics = self.settings, self.metrics
        assert settings is not None
        self.store = store = Store(
            settings.cache_dir, settings.quota, on_failure=metrics.store_failed, on_eviction=metrics.evicted,
            on_corruption=metrics.corrupt_found,
        )  # fmt: skip
        self.configure(settings)
        self.admin = AdminServer(
            metrics.registry, lambda: self.is_ready, self.status, self.api,
            lambda: self.settings.admin if self.settings is not None else AdminSettings(),
        )  # fmt: skip
        try:
            await store.open()
            if settings.metrics_listen is not None:
                host, port = await self.admin.start(*settings.metrics_listen)
                self.metrics_at = f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
        except (StoreError, AdminError) as error:
            await store.close()
            raise StartError(str(error)) from error
        settings = self.settings or settings  # they may have changed meanwhile
        self.origin = OriginClient(settings.origin, metrics.fetch_retried, self.dialler)
        origin = OriginSource(self.origin)
        sources = Sources(origin, (*self._peers(settings.fleet), *self._shared(settings.shared, origin, store)))
        await self.fleet.first_look()
        self.fills = fills = FillTable(store, self.limiter, sources, metrics)
        fills.context.behind = self.shared
        store.verifier.activity = lambda: (metrics.hits_so_far, self.accounts.unfinished, store.index.ids_given)
        store.verifier.is_filling = lambda: bool(fills.running)
        self.cache = Cache(store, fills, settings.cache, self.heads)
        self.purger = Purger(store, fills)
        self.configure(settings)
        metrics.observe(
            {
                "in_flight": lambda: self.limiter.in_flight,
                "queued": lambda: self.limiter.queued,
                "inflight_requests": lambda: self.accounts.unfinished,
                "cache_size": lambda: store.size,
                "cache_entries": lambda: len(store.index),
                "cache_capacity": lambda: store.capacity,
                "spilled": lambda: store.spill.size,
                "name_lookups_in_flight": lambda: self.names.in_flight,
                "tunnels_active": lambda: self.tunnels_open,
                "peers": lambda: len(self.fleet.states()),
                "peers_left_alone": lambda: sum(peer.state != "up" for peer in self.fleet.states()),
                "shared_queued": lambda: self.shared.queued if self.shared is not None else 0,
                "shared_up": lambda: self.shared is not None and self.shared.is_up,
            }
        )
        self.admission.is_open = not self.is_draining

    def _peers(self, settings: FleetSettings) -> tuple[Source, ...]:
        if not settings.peers:
            return ()
        if not settings.client.tokens:
            logger.warning(
                "proxy-cache: cache_peers without cache_peer_token_file: peers are asked on private addresses alone, "
                "and whoever has the address of one is taken for it"
            )
        self.peers = PeerClient(settings.client, self.peer_dialler)
        self.fleet.configure(settings)
        self.fleet.start()
        self.peer_requests.is_on, self.peer_requests.is_peer = True, self.fleet.is_peer
        self.keeping = Keeping(settings.keep)
        kind = PeerSource if settings.mode == "home" else SiblingSource
        return (kind(self.fleet, self.peers, self.keeping, self.metrics),)

    def _shared(self, settings: SharedSettings | None, origin: OriginSource, store: Store) -> tuple[Source, ...]:
        if settings is None:
            return ()
        try:
            self.shared = SharedStore(settings, origin, store, self.metrics)
        except BadUrl as error:
            raise StartError(f"cache_shared: {error}") from error
        self.shared.start()
        return (self.shared.source,)

    def refuse_new(self) -> None:
        """Answer no further request."""
        self.is_draining = self.admission.is_stopping = True
        self.admission.is_open = False

    async def drain(self) -> None:
        """Let running responses finish, for ``shutdown_grace`` seconds, and end the fills. Nothing is started any more
        (:meth:`refuse_new`)."""
        assert self.settings is not None
        assert self.fills is not None
        self._grace_ends = until = time.monotonic() + self.settings.shutdown_grace
        if self.accounts.unfinished:
            logger.info("proxy-cache: stopping, %d responses to finish", self.accounts.unfinished)
            if not await self.accounts.finished(self.settings.shutdown_grace):
                logger.warning("proxy-cache: %d responses cut after shutdown_grace", self.accounts.unfinished)
        self.accounts.is_stopping = True
        await self.fills.close()
        if self.shared is not None:
            await self.shared.drain(until - time.monotonic())
            self.shared.close()

    async def close(self) -> None:
        """Close everything that is open, also after a start that has failed."""
        self.users.close()
        if self.peers is not None:
            self.peers.close()
            await self.fleet.stop()
        for part in (self.origin, self.admin, self.store):
            if part is not None:
                await (part.stop() if isinstance(part, AdminServer) else part.close())
        self.accounts.hits.flush()
        self.accounts.tracer = None
        await self.traces.close(self._grace_ends - time.monotonic())
        if self.is_running:
            logger.info("proxy-cache: stopped")
        self.access_log.close()

    def check_trust(self) -> None:
        """Whether the certificates that origins are verified by can be read. Raises ``OSError``."""
        if self.settings is not None:
            self.settings.origin.trust.check()

    def renew_trust(self) -> None:
        """Read them again, and open every connection to an origin anew."""
        if self.origin is not None:
            self.origin.renew_trust()
        if self.peers is not None:
            self.peers.renew_trust()

    def _listeners(self) -> list[tuple[str, int]]:
        """What this proxy listens on, for clients and for the metrics."""
        return [*self.listening_on(), *(self.admin.addresses if self.admin is not None else ())]

    # -- looking in -----------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether the start has gone well; also while the proxy stops."""
        return self.settings is not None and self.fills is not None

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self.cache is not None and not self.is_draining

    def status(self) -> dict[str, Any]:
        """The answer of ``/status``."""
        store, fills = self.store, self.fills
        if store is None or fills is None:
            return {"ready": False}
        return {
            "ready": self.is_ready,
            "limiter": self.limiter.snapshot(),
            "fills": fills.snapshot(),
            "store": {
                "dir": str(store.root),
                "entries": len(store.index),
                "size_bytes": store.size,
                "capacity_bytes": store.capacity,
                "unwritten": store.unwritten,
                "unsummed": store.verifier.unsummed,
            },
            "requests_in_flight": self.accounts.unfinished,
            "tunnels": self.tunnels_open,
            **({"interception": interception} if (interception := self.interception()) is not None else {}),
            **({"peers": self.fleet.status()} if self.peers is not None else {}),
            **({"shared": self.shared.snapshot()} if self.shared is not None else {}),
        }

    def forwarded(self, method: str) -> None:
        """A request goes past the cache."""
        self.metrics.forwarded.labels(method_label(method)).inc()

    def failed(self, error: Exception) -> None:
        """Something of ours raised. It is logged with its traceback; the caller answers the request."""
        self.metrics.hook_errors.inc()
        logger.error("proxy-cache: internal error", exc_info=error)

    def _activity(self) -> float | None:
        return None if self.accounts.unfinished else self.metrics.hits_so_far


async def wait_for(*tasks: asyncio.Task[None] | None) -> None:
    """Until all of these have ended, well or not."""
    if pending := [task for task in tasks if task is not None]:
        await asyncio.wait(pending)
