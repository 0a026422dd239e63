"""mitmproxy hooks in, cache out.

Hooks are short and leave early. What they answer with is decided in :mod:`caching.cache`; how it reaches the
client in :mod:`.layers`. An exception in a hook would let mitmproxy forward the request past the cache and
its limiter, so every hook that sees a request catches everything and answers 502 itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import TYPE_CHECKING, Any

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader
from mitmproxy.connection import Client, Connection
from mitmproxy.flow import Error
from mitmproxy.tls import TlsData

from ..caching.answers import Answer, Exchange
from ..caching.cache import Cache
from ..caching.fills.table import FillTable
from ..caching.fills.waiting import ClientGone
from ..caching.headers import Heads
from ..caching.limiter import OriginLimiter
from ..downstream.account import Accounts
from ..downstream.body_sender import Delivery, InFlight
from ..observe.access_log import AccessLog
from ..observe.admin import AdminError, AdminServer
from ..observe.metrics import Metrics, method_label
from ..runtime import collector, loop
from ..runtime.batches import CallBatch
from ..semantics import credentials, redaction
from ..semantics.headers import Headers
from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from ..semantics.methods import is_safe
from ..semantics.signatures import without_parameters
from ..store.store import Store, StoreError
from ..upstream.dial import Dialler
from ..upstream.names import Names
from ..upstream.origin import OriginClient, OriginSettings
from ..wire.head_checks import RefusedHead
from . import compat, lane_host, option_names, options, plain_flows, start
from .accept import Clients
from .account import end_connect, end_flow, end_refused
from .dialling import MitmproxyDialling
from .flows import (
    address,
    error_status,
    error_type,
    has_body,
    headers_for_origin,
    host_is_the_clients,
    interim_sender,
    is_cacheable,
    means_its_target,
    method_of,
    refusal,
    response_for,
    target_of,
)
from .forwarded import requests as forwarded_requests
from .late_hooks import LateHooks, make_whole, may_stream, wants_whole
from .listening import close_connections, human_size, listen_again, raise_file_limit, stop_listening, welcome_bursts
from .max_forwards import final_answer, hops_left
from .metadata import FORWARD_REASON
from .observers import Others, plain
from .options import Settings
from .reload import Reload, settle_connection_lines, stop_watching
from .trust import ForwardTrust

if TYPE_CHECKING:
    from mitmproxy.proxy.layer import NextLayer

if compat.LAYERS.is_on:
    try:
        from . import layers
    except (ImportError, AttributeError, TypeError) as found:  # a name that the table doesn't have
        compat.LAYERS.lose(" ".join(str(found).split()))

logger = logging.getLogger(__name__)

LEFT_BEHIND = 60.0
"""Seconds after its client has gone, at which a request that nothing has ended is. Hooks may run on for a while."""

_closing: asyncio.Task[None] | None = None
"""The shutdown of an earlier instance in this process (a reloaded script), which still holds its cache folder."""


class OpenTunnel:
    """A CONNECT tunnel, for the access log: where to, since when, and how many bytes both ways."""

    __slots__ = ("size", "started", "target")

    def __init__(self, target: str) -> None:
        self.target = target
        self.started = time.monotonic()
        self.size = 0


class CacheAddon:
    """The addon: owns the store, the limiter, the fills and the metrics of one proxy."""

    name = "proxy_cache"

    def __init__(self) -> None:
        self.via = f"proxy-cache-{secrets.token_hex(4)}"
        """Our name in ``Via``. Unlike any other's, so that a loop can be told from a chain (RFC 9110 §7.6.3)."""
        self.settings: Settings | None = None
        self.metrics = Metrics()
        self.access_log = AccessLog(self.metrics.log_lines_lost.inc)
        self.accounts = Accounts(self.metrics, self.access_log, self.failed)
        self.limiter = OriginLimiter(observe=self.metrics.queue_waited)
        self.collector = collector.Collector(self._activity)
        self.names = Names(on_end=self.metrics.name_looked_up)
        self.dialler = Dialler(self.names)
        self.dialling = MitmproxyDialling(self.dialler)
        self.store: Store | None = None
        self.cache: Cache | None = None
        self.fills: FillTable | None = None
        self.origin: OriginClient | None = None
        self.admin: AdminServer | None = None
        self._ready: asyncio.Event | None = None
        """Set when the start is over, well or not."""
        self._starting: asyncio.Task[None] | None = None
        self._draining = False
        self._in_flight: dict[str | int, InFlight] = {}
        self.http_layers: dict[str, Any] = {}
        """Our HTTP layers, by their clients."""
        self._connects: dict[str, list[str]] = {}
        """Targets of CONNECT that are mitmproxy's to answer, by their clients."""
        self._lane_closed: str | None = "not asked yet"
        self.lane_targets = lane_host.Targets()
        self.sends, self.ends = CallBatch(), CallBatch()
        self._by_client: dict[str, set[Exchange]] = {}
        self._flows: dict[str, set[http.HTTPFlow]] = {}
        """Those in flight, by their clients."""
        self._tunnels: dict[str, list[OpenTunnel]] = {}
        self._idle: asyncio.Event | None = None
        self.others = Others(self.name)
        self.clients = Clients(self)
        self.late_hooks = LateHooks(self)
        self.forward_trust = ForwardTrust()
        self.reload = Reload(self)

    @property
    def has_started(self) -> bool:
        return self._ready is not None and self._ready.is_set()

    @property
    def is_stopping(self) -> bool:
        return self._draining

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

    # -- start and stop -----------------------------------------------------------------------------------------

    def load(self, loader: Loader) -> None:
        start.hint_at_free_ports()
        compat.check_addons(loader.master.addons)
        self.reload.load(loader.master.options)
        options.load(loader)
        self.late_hooks.join()
        start.check_confdir(loader.master.options)

    def configure(self, updated: set[str]) -> None:
        self.others.forget()
        self.clients.configure()
        self.lane_targets.forget()
        if self.cache is not None:
            settle_connection_lines(ctx.options)
        if options.refused or not updated & (options.NAMES | options.MITMPROXY_NAMES):
            return
        try:
            settings = options.parse(ctx.options)
        except exceptions.OptionsError as error:
            if self.settings is not None:
                raise  # while running: mitmproxy refuses the change, and says why
            # At start mitmproxy would print a traceback for an exception; an error in the log stops it as well.
            logger.error("%s", error)
            return
        self.settings = self.lane_targets.settings = settings
        self.accounts.is_logged = settings.access_log
        redaction.use(settings.redaction)
        credentials.use(settings.rules.base.credentials)
        self.forward_trust.use(settings.origin.trust)
        self.limiter.configure(settings.limits)
        self.names.timeout = settings.origin.timeout
        if self.cache is not None and self.fills is not None and self.origin is not None and self.store is not None:
            self.cache.settings = settings.cache
            self.fills.quick_abort_max = settings.quick_abort_max
            self.fills.quick_abort_timeout = settings.quick_abort_timeout
            self.store.spill.limit = settings.spill_max
            self.fills.default_ttl = settings.default_ttl
            self.fills.spans = settings.spans
            self.origin.configure(settings.origin)
            self.store.quota = settings.quota
            self.store.memory_max = settings.memory
            self.store.verifier.rate = settings.verify_rate

    def renew_trust(self) -> None:
        """Read the certificates that origins are verified by again, for fills and for what is forwarded alike. Those
        that can't be read stay as they were."""
        if self.settings is None:
            return
        try:
            self.settings.origin.trust.check()
        except OSError as error:
            logger.warning("proxy-cache: SIGHUP: certificates not read again: %s", error)
            return
        self.forward_trust.renew()
        if self.origin is not None:
            self.origin.renew_trust()
        logger.info("proxy-cache: SIGHUP: certificates read again")

    def running(self) -> asyncio.Task[None]:
        # A task and not a coroutine: on a reload mitmproxy calls this hook where it cannot await.
        self._ready = asyncio.Event()
        self._starting = asyncio.get_running_loop().create_task(self._start(self._ready, _closing))
        return self._starting

    async def _start(self, ready: asyncio.Event, earlier: asyncio.Task[None] | None) -> None:
        """Open everything, when an ``earlier`` instance has let go of it. Whoever waits for it gets an answer."""
        try:
            if earlier is not None:
                await asyncio.wait([earlier])
            if not self._draining:  # the next one, or the end, has come meanwhile
                await self._open()
        except Exception as error:
            self.settings = None
            self.failed(error)
        finally:
            ready.set()

    async def _open(self) -> None:
        settings = self.settings
        if settings is None:
            return  # configure has said why; mitmproxy stops
        if unknown := option_names.unknown(ctx.options):
            for complaint in unknown:
                logger.error("%s", complaint)
            self.settings = None
            return
        if not ctx.options.dev_reload:
            stop_watching(self)
        # Dial nothing before it is decided where to: a CONNECT is dialled by its tunnel, a GET perhaps not at all.
        ctx.options.update(connection_strategy="lazy")
        self.reload.started()
        self.reload.quieten(ctx.options)
        settle_connection_lines(ctx.options)
        start.open_log(self.access_log)
        compat.tell()
        if ctx.options.tune_event_loop:
            loop.report_disabled()
        raise_file_limit()
        proxyserver = ctx.master.addons.get("proxyserver")
        await listen_again(proxyserver)
        welcome_bursts(proxyserver, self.clients, tuned=ctx.options.tune_event_loop)
        collector.tune()
        self.names.install(asyncio.get_running_loop())
        self.dialling.install()
        metrics = self.metrics
        self.store = store = Store(
            settings.cache_dir, settings.quota, on_failure=metrics.store_failed, on_eviction=metrics.evicted,
            on_corruption=metrics.corrupt_found,
        )  # fmt: skip
        store.memory_max = settings.memory
        store.verifier.rate = settings.verify_rate
        self.admin = AdminServer(metrics.registry, lambda: self.cache is not None and not self._draining, self._status)
        metrics_at = "off"
        try:
            await store.open()
            if settings.metrics_listen is not None:
                host, port = await self.admin.start(*settings.metrics_listen)
                metrics_at = f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
        except (StoreError, AdminError) as error:
            await store.close()
            logger.error("%s", error)
            self.settings = None
            return
        self.origin = OriginClient(settings.origin, metrics.fetch_retried, self.dialler)
        self.fills = fills = FillTable(store, self.limiter, self.origin, metrics)
        store.verifier.activity = lambda: (metrics.hits_so_far, len(self._in_flight), store.index.ids_given)
        store.verifier.is_filling = lambda: bool(fills.running)
        fills.quick_abort_max = settings.quick_abort_max
        fills.quick_abort_timeout = settings.quick_abort_timeout
        store.spill.limit = settings.spill_max
        fills.default_ttl = settings.default_ttl
        fills.spans = settings.spans
        self.cache = Cache(store, fills, settings.cache, Heads(self.via))
        metrics.observe(
            {
                "in_flight": lambda: self.limiter.in_flight,
                "queued": lambda: self.limiter.queued,
                "inflight_requests": lambda: len(self._in_flight),
                "cache_size": lambda: store.size,
                "cache_entries": lambda: len(store.index),
                "cache_capacity": lambda: store.capacity,
                "spilled": lambda: store.spill.size,
                "name_lookups_in_flight": lambda: self.names.in_flight,
                "tunnels_active": lambda: sum(map(len, self._tunnels.values())),
            }
        )
        self.clients.sweep()
        if compat.LANE.is_on:
            self.lane_cache()
        limits = settings.limits
        logger.info(
            "proxy-cache: cache %s (%s, limit %s), origin limit %s, metrics on %s",
            settings.cache_dir,
            f"{len(store.index)} entries, {human_size(store.size)}",
            human_size(store.capacity),
            f"{limits.max_in_flight} in flight" if limits.max_in_flight else "off",
            metrics_at,
        )
        start.check_quota(store.evictor)
        if compat.LISTENING.is_on:
            start.say_what_is_next(proxyserver)

    def done(self) -> asyncio.Task[None] | None:
        global _closing
        self.late_hooks.leave()
        try:
            _closing = asyncio.get_running_loop().create_task(self._stop(_closing))
            _closing.add_done_callback(lambda _: self.reload.stop())
        except RuntimeError:
            return None
        return _closing

    async def _stop(self, earlier: asyncio.Task[None] | None) -> None:
        """Stop accepting, let running responses finish for ``shutdown_grace`` seconds, close the store."""
        self._draining = True
        # A script may be reloaded, or the process end, before an instance has started, or the one before it stopped.
        if pending := [task for task in (earlier, self._starting) if task is not None]:
            await asyncio.wait(pending)
        proxyserver = ctx.master.addons.get("proxyserver")
        if proxyserver:
            await stop_listening(proxyserver)
        self.dialling.uninstall()
        self.names.uninstall()
        self.collector.stop()
        if self.store is None or self.settings is None or self.fills is None:
            if self.admin is not None:
                await self.admin.stop()
            if self.store is not None:
                await self.store.close()
            self.access_log.close()
            return
        if self._in_flight:
            logger.info("proxy-cache: stopping, %d responses to finish", len(self._in_flight))
            self._idle = asyncio.Event()
            try:
                await asyncio.wait_for(self._idle.wait(), self.settings.shutdown_grace)
            except TimeoutError:
                logger.warning("proxy-cache: %d responses cut after shutdown_grace", len(self._in_flight))
        self.accounts.is_stopping = True
        await self.fills.close()
        for exchanges in list(self._by_client.values()):
            for exchange in list(exchanges):
                exchange.client_gone()
        if proxyserver:
            await close_connections(proxyserver, self.clients)
        if self.origin is not None:
            await self.origin.close()
        if self.admin is not None:
            await self.admin.stop()
        await self.store.close()
        logger.info("proxy-cache: stopped")
        self.access_log.close()

    # -- connections --------------------------------------------------------------------------------------------

    def next_layer(self, data: NextLayer) -> None:
        try:
            if data.layer is not None:
                return
            if targets := self._connects.get(data.context.client.id):
                plain_flows.relay(data)
                self.tunnel_opened(data.context.client, targets.pop(0), None)
                return
            if not compat.LAYERS.is_on:
                return
            # A script's hook runs before the built-in one: let that one choose, then put our layer in its place.
            ctx.master.addons.get("nextlayer").next_layer(data)
            if data.layer is not None:
                data.layer = layers.with_cache(data.layer, self)
        except Exception as error:
            self.failed(error)
            raise

    def tls_start_server(self, data: TlsData) -> None:
        try:
            self.forward_trust.start_server(data)
        except Exception as error:
            self.failed(error)
            raise

    def is_outdated(self, connection: Connection) -> bool:
        return self.forward_trust.is_outdated(connection)

    def client_connected(self, client: Client) -> None:
        try:
            self.clients.connected(client)
        except Exception as error:  # no lane then
            self.failed(error)

    def layer_chosen(self, client: Client, layer: Any) -> None:
        self.http_layers.setdefault(client.id, layer)

    def lane_cache(self) -> Cache | None:
        """The cache, while plain GETs may be answered without a flow. Says in the log when that changes, and why."""
        if self.settings is None or self.cache is None or self._draining:
            return None
        why = self.others.present() if self.settings.fast_lane else "option fast_lane is false"
        if why != self._lane_closed:
            self._lane_closed = why
            logger.info("proxy-cache: fast lane %s", "on" if why is None else f"off: {why}")
        return self.cache if why is None else None

    def still_listens(self, client: Client) -> bool:
        return self.clients.still_listens(client)

    def client_disconnected(self, client: Client) -> None:
        self.clients.disconnected(client)
        self.http_layers.pop(client.id, None)
        self._connects.pop(client.id, None)
        self.collector.connection_closed()
        for exchange in list(self._by_client.get(client.id, ())):
            exchange.client_gone()
        if client.id in self._flows:
            asyncio.get_running_loop().call_later(LEFT_BEHIND, self._end_left_behind, client.id)
        for tunnel in self._tunnels.pop(client.id, ()):
            self.accounts.tunnel_ended(tunnel.target, address(client), tunnel.size, time.monotonic() - tunnel.started)

    def stream_gone(self, flow: http.HTTPFlow) -> None:
        """The client wants no answer any more. Over HTTP/2 (RST_STREAM) its connection goes on."""
        state = self._in_flight.get(flow.id)
        if state is None:
            return
        if state.exchange is not None:
            state.exchange.client_gone()
        else:  # another addon still has the request
            state.cut = "client"

    def _end_left_behind(self, client_id: str) -> None:
        """mitmproxy ends a flow with one of two hooks, ``response`` or ``error``, unless something in it fails."""
        for flow in list(self._flows.get(client_id, ())):
            self._ended(flow, "client disconnected")

    def tunnel_opened(self, client: Client, target: str, error: str | None) -> None:
        self.metrics.tunnels.labels("failed" if error else "opened").inc()
        if not error:
            self._tunnels.setdefault(client.id, []).append(OpenTunnel(target))

    def tunnel_data(self, client: Client, from_client: bool, size: int) -> None:
        self.metrics.tunnel_bytes.labels("from_client" if from_client else "to_client").inc(size)
        if tunnels := self._tunnels.get(client.id):
            tunnels[-1].size += size

    def _activity(self) -> float | None:
        return None if self._in_flight else self.metrics.hits_so_far

    def failed(self, error: Exception) -> None:
        """Something of ours raised. It is logged with its traceback; the request is answered by whoever calls this."""
        self.metrics.hook_errors.inc()
        logger.error("proxy-cache: internal error", exc_info=error)

    # -- requests -----------------------------------------------------------------------------------------------

    def http_connect(self, flow: http.HTTPFlow) -> None:
        self.metrics.forwarded.labels("CONNECT").inc()
        if self._draining or self.settings is None:
            flow.response = refusal(503, "proxy_internal_error", "shutting down", self.via)
        elif not compat.TUNNELS.is_on and flow.response is None:
            if plain_flows.can_relay:
                target = f"{flow.request.host}:{flow.request.port}"
                self._connects.setdefault(flow.client_conn.id, []).append(target)
            else:  # mitmproxy would look into the tunnel
                flow.response = refusal(502, "proxy_internal_error", "no tunnels", self.via)

    def http_connect_error(self, flow: http.HTTPFlow) -> None:
        end_connect(self.accounts, flow)

    def http_connect_upstream(self, flow: http.HTTPFlow) -> None:
        forwarded_requests.with_brackets(flow.request)

    def begin_request(self, flow: http.HTTPFlow) -> None:
        """The hook ``requestheaders``, see :mod:`.late_hooks`."""
        self._in_flight[flow.id] = state = InFlight()
        self._flows.setdefault(flow.client_conn.id, set()).add(flow)
        if flow.error is not None and flow.error.msg != Error.KILLED_MESSAGE:
            state.status = 400  # mitmproxy finds that it is none
        if flow.response is not None or flow.error is not None:
            return
        try:
            if not compat.LAYERS.is_on:
                plain_flows.check_request(flow.request, self.head_limits)
            if hops_left(flow.request) == 0:
                credentials = self.settings.rules.base.credentials if self.settings is not None else frozenset()
                self._made(flow, final_answer(flow, self.via, credentials), "own")
            elif has_body(flow) and self._may_go(flow) and may_stream(flow):
                flow.request.stream = flow.request.stream or True  # what it goes through may be a script's
                if not compat.LAYERS.is_on:
                    plain_flows.clean_request(flow, self.via, has_body=True)
            if flow.response is not None:
                flow.request.stream = False
            elif flow.request.stream and has_body(flow):
                self._forwarded(flow, state)
        except RefusedHead as refused:
            flow.request.stream = False
            response = refusal(refused.status, refused.error, refused.detail, self.via)
            response.headers["Connection"] = "close"
            self._made(flow, response, "error")
        except Exception as error:
            self._refuse(flow, error)

    async def answer_request(self, flow: http.HTTPFlow) -> None:
        """The hook ``request``, see :mod:`.late_hooks`."""
        if flow.request.stream and has_body(flow):
            return  # its origin has it: a response is the origin's, early, or one that comes too late to be sent
        if flow.response is not None or flow.error is not None:
            state = self._in_flight.get(flow.id)
            if flow.response is not None and state is not None and flow.response is not state.made:
                state.source = "addon"
            return
        try:
            if self.cache is None and self._ready is not None and self.settings is not None:
                await self._ready.wait()
            if not self._may_go(flow):
                return
            assert self.settings is not None
            if is_cacheable(flow, self.settings):
                await self._answer(flow)
                if await make_whole(flow, self.via, always=not compat.LAYERS.is_on):
                    state = self._in_flight[flow.id]
                    state.delivery = None
                    if flow.response is not state.made:  # its body has broken off
                        state.made, state.source = flow.response, "error"
            elif flow.request.method == "HEAD":
                await self._answer_head(flow)
            if flow.response is None:
                if not compat.LAYERS.is_on:
                    plain_flows.clean_request(flow, self.via, has_body=has_body(flow))
                self._forwarded(flow, self._in_flight.get(flow.id))
        except Exception as error:
            self._refuse(flow, error)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if flow.response is None or isinstance(flow.response.stream, Delivery):
            return
        try:
            state = self._in_flight.get(flow.id)
            if flow.response.status_code == 101 or flow.id not in self._in_flight:
                return
            if flow.request.stream:
                self._forwarded(flow, state)
            if state is not None and state.source == "forwarded":
                if flow.response.raw_content is not None:
                    state.source = "addon"  # an origin's has not come yet
                elif not compat.LAYERS.is_on:
                    self._pass_on_plain(flow, state)
                elif not wants_whole(flow):
                    state.is_passed_on = True
                    flow.response.stream = self._count(state)
            if self.cache is None:
                return
            from_origin = state is not None and state.source == "forwarded"
            if not means_its_target(flow):
                return
            if flow.request.method == "HEAD" and flow.response.status_code == 200 and from_origin:
                self._head_answered(flow, self.cache)
            elif not is_safe(method_of(flow)) and 200 <= flow.response.status_code < 400:
                target = target_of(flow)
                assert self.settings is not None
                policy = self.settings.rules.policy_for(flow, method=b"GET")  # what is stored came with one
                key = without_parameters(target.key, policy.key_ignores)
                self.cache.invalidate(target, Headers(flow.response.headers.fields), key)
        except Exception as error:
            self.failed(error)

    def _pass_on_plain(self, flow: http.HTTPFlow, state: InFlight) -> None:
        """An origin's response, without a layer of ours that would make its head a clean one."""
        assert flow.response is not None
        try:
            plain_flows.clean_response(flow, self.via, self.forward_reason(flow))
        except RefusedHead:
            flow.kill()  # too late for another response
            return
        if not wants_whole(flow):
            state.is_passed_on = True
            flow.response.stream = self._count(state)

    def response(self, flow: http.HTTPFlow) -> None:
        self._ended(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        note = flow.error.msg if flow.error else "error"
        if flow.request.method == "CONNECT" and flow.response is None:
            end_connect(self.accounts, flow, note)
        self._ended(flow, note)

    def is_alone_with(self, flow: http.HTTPFlow) -> bool:
        """Whether nobody else in mitmproxy does anything with this request: our hooks may be called directly."""
        try:
            return (
                self.settings is not None
                and self.cache is not None
                and not self._draining
                and self.others.absent()
                and is_cacheable(flow, self.settings)
                and plain(flow.request)
                and flow.error is None
            )
        except Exception as error:  # the flow takes mitmproxy's way through our hooks, which answer for themselves
            self.failed(error)
            return False

    def run_hook(self, name: str, flow: http.HTTPFlow) -> bool:
        """Call our own hook for a flow that we are alone with. ``False`` if it has to wait."""
        match name:
            case "request":
                return self._request_now(flow)
            case "requestheaders":
                self.begin_request(flow)
            case "responseheaders":
                self.responseheaders(flow)
            case "response":
                self.response(flow)
            case "error":
                self.error(flow)
        return True

    # -- answering ----------------------------------------------------------------------------------------------

    def _may_go(self, flow: http.HTTPFlow) -> bool:
        """Whether the request may go anywhere at all; if not, it is answered here."""
        if self.cache is None or self.settings is None or self._draining:
            self._made(flow, refusal(503, "proxy_internal_error", "not ready", self.via), "error")
            return False
        if any(self.via in value for value in flow.request.headers.get_all("via")):
            self._respond(flow, self.cache.heads.loop_detected())
            return False
        return True

    def _request_now(self, flow: http.HTTPFlow) -> bool:
        """Answer a GET if that takes no waiting."""
        if flow.response is not None:
            return True
        try:
            if not self._may_go(flow):
                return True
            assert self.cache is not None
            exchange = self._exchange(flow)
            answer = self.cache.get_now(exchange)
            if answer is not None:
                self.metrics.answered(answer.source, False)
                self._respond(flow, answer)
            return answer is not None
        except Exception as error:
            self._refuse(flow, error)
            return True

    def _exchange(self, flow: http.HTTPFlow) -> Exchange:
        """What the cache needs to know of a request; made once, and found again when the client leaves."""
        state = self._in_flight.setdefault(flow.id, InFlight())
        if state.exchange is None:
            client = flow.client_conn
            assert self.settings is not None
            policy = self.settings.rules.policy_for(flow)
            state.exchange = Exchange(target_of(flow), headers_for_origin(flow, self.via), address(client), policy)
            state.exchange.gone = state.cut == "client"
            self._by_client.setdefault(client.id, set()).add(state.exchange)
        return state.exchange

    async def _answer(self, flow: http.HTTPFlow) -> None:
        assert self.cache is not None
        exchange = self._exchange(flow)
        exchange.on_interim = interim_sender(flow.client_conn, flow.request.http_version)
        try:
            answer = await self.cache.get(exchange)
        except ClientGone as gone:
            # Nobody reads this. It is there for other addons, and so that nothing lets the request through.
            self._respond(flow, self.cache.heads.overloaded("canceled", 1))
            logger.debug("client of %s left, %s", exchange.target.shown, "queued" if gone.queued else "waiting")
            return
        self.metrics.answered(answer.source, exchange.collapsed)
        self._respond(flow, answer)

    async def _answer_head(self, flow: http.HTTPFlow) -> None:
        assert self.cache is not None
        assert self.settings is not None
        if not self.settings.caches(flow.request.host, flow.request.port) or not means_its_target(flow):
            return
        exchange = self._exchange(flow)
        answer = await self.cache.head(exchange)
        if isinstance(answer, str):
            if not exchange.wanted.only_if_cached:
                flow.metadata[FORWARD_REASON] = answer
                return
            answer = self.cache.heads.error(504, "http_request_denied", answer, detail="only-if-cached")
        exchange.close()
        self.metrics.answered(answer.source, False)
        answer.body = b""
        self._respond(flow, answer)

    def _head_answered(self, flow: http.HTTPFlow, cache: Cache) -> None:
        """A HEAD went to the origin: its answer updates what is stored, or throws it out."""
        state = self._in_flight.get(flow.id)
        if state is None or state.exchange is None or flow.response is None:
            return
        if state.exchange.target.key != target_of(flow).key:
            return  # another addon has sent it elsewhere
        asked = flow.request.timestamp_end or flow.request.timestamp_start
        cache.head_answered(state.exchange, Headers(flow.response.headers.fields), asked, time.time())

    def unreachable(self, flow: http.HTTPFlow, message: str) -> http.Response:
        """The answer where mitmproxy's own connection to an origin failed, with mitmproxy's words for why."""
        error = error_type(message)
        detail = message.removeprefix(f"{error}: ")
        response = refusal(error_status(error), error, detail, self.via, self.forward_reason(flow))
        if (state := self._in_flight.get(flow.id)) is not None:
            state.source, state.is_passed_on = "error", True
        return response

    def refused(self, client: Client, status: int, error: str, detail: str, *, has_flow: bool = False) -> http.Response:
        """The answer to a request that can't be read. ``has_flow``: one was made of its head, and will be accounted
        for."""
        response = refusal(status, error, detail, self.via)
        if not has_flow:
            end_refused(self.accounts, client, response, detail)
        return response

    def host_is_the_clients(self, flow: http.HTTPFlow) -> bool:
        return host_is_the_clients(flow)

    def upgrades_are_watched(self) -> bool:
        return self.others.watch_upgrades()

    def forward_reason(self, flow: http.HTTPFlow) -> str:
        """Why mitmproxy's own connection is used for this request, as Cache-Status has it (RFC 9211 §2.2)."""
        default = "bypass" if flow.request.method in ("GET", "HEAD") else "method"
        return str(flow.metadata.get(FORWARD_REASON, default))

    def _respond(self, flow: http.HTTPFlow, answer: Answer) -> None:
        response = response_for(flow, answer, last=self._draining)
        state = self._made(flow, response, answer.source)
        if isinstance(response.stream, Delivery):
            state.delivery = response.stream

    def _made(self, flow: http.HTTPFlow, response: http.Response, source: str) -> InFlight:
        """Answer with a response of our own."""
        flow.response = response
        state = self._in_flight.setdefault(flow.id, InFlight())
        state.made, state.source = response, source
        return state

    def _forwarded(self, flow: http.HTTPFlow, state: InFlight | None) -> None:
        """The request goes past the cache, now or when it is complete."""
        if state is None or not state.is_counted:
            self.metrics.forwarded.labels(method_label(flow.request.method)).inc()
        if state is not None:
            state.is_counted = True

    def _refuse(self, flow: http.HTTPFlow, error: Exception) -> None:
        self.failed(error)
        flow.request.stream = False
        self._made(flow, refusal(502, "proxy_internal_error", type(error).__name__, self.via), "error")

    def _count(self, state: InFlight) -> Any:
        """Stream a forwarded body through, and count its bytes."""

        def through(data: bytes) -> bytes:
            state.size += len(data)
            return data

        return through

    def begin(self, exchange: Exchange) -> InFlight:
        """A request in the fast lane."""
        state = InFlight()
        state.exchange = exchange
        self._in_flight[id(state)] = state
        return state

    def end(self, state: InFlight, answer: Answer | None, client: str, note: str) -> None:
        """The request has been answered in the fast lane, or its client has left."""
        self._in_flight.pop(id(state), None)
        self.accounts.lane_ended(state, answer, client, note)
        if self._idle is not None:
            self._see_if_idle()

    def _ended(self, flow: http.HTTPFlow, note: str = "") -> None:
        state = self._in_flight.pop(flow.id, None)
        flows = self._flows.get(flow.client_conn.id)
        if flows is not None:
            flows.discard(flow)
            if not flows:
                del self._flows[flow.client_conn.id]
        if state is None:
            return
        if state.exchange is not None:
            exchanges = self._by_client.get(flow.client_conn.id)
            if exchanges is not None:
                exchanges.discard(state.exchange)
                if not exchanges:
                    del self._by_client[flow.client_conn.id]
        end_flow(self.accounts, flow, state, note, self.forward_reason(flow))
        self._see_if_idle()

    def _see_if_idle(self) -> None:
        if self._idle is not None and not self._in_flight:
            self._idle.set()

    # -- looking in ---------------------------------------------------------------------------------------------

    @property
    def requests_in_flight(self) -> int:
        """Requests of clients that have no answer yet, or not all of it."""
        return len(self._in_flight)

    def _status(self) -> dict[str, Any]:
        """What ``/status`` shows."""
        store, fills = self.store, self.fills
        if store is None or fills is None:
            return {"ready": False}
        return {
            "ready": self.cache is not None and not self._draining,
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
            "requests_in_flight": self.requests_in_flight,
            "tunnels": sum(map(len, self._tunnels.values())),
        }
