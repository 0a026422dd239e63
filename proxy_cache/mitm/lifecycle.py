"""How the proxy starts and stops within mitmproxy: what of mitmproxy's has to be as it is meant to be, and in which
order."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from mitmproxy import ctx

from ..app import App, StartError, wait_for
from ..runtime import collector, loop, notify
from ..semantics.texts import human_size
from . import compat, option_names, start
from .accept import Clients
from .dialling import MitmproxyDialling
from .flow_requests import FlowRequests
from .intercept import ca_file
from .intercept_status import intercept_status
from .listening import (
    addresses_of,
    close_connections,
    listen_again,
    raise_file_limit,
    stop_listening,
    welcome_bursts,
)
from .reload import LOOK_AGAIN, Reload, mitmproxy_is_starting, settle_connection_lines, stop_watching

logger = logging.getLogger(__name__)

_closing: asyncio.Task[None] | None = None
"""The shutdown of an earlier instance in this process (a reloaded script), which still holds its cache folder."""


class Lifecycle:
    """Starts and stops one instance, when the one before it has let go of everything."""

    def __init__(
        self, app: App, clients: Clients, flows: FlowRequests, dialling: MitmproxyDialling, reload: Reload
    ) -> None:
        self._app, self._clients, self._flows, self._dialling, self._reload = app, clients, flows, dialling, reload
        self._starting: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        # A task and not a coroutine: on a reload mitmproxy calls the hook for it where it cannot await.
        self._app.started = asyncio.Event()
        self._starting = asyncio.get_running_loop().create_task(self._start(self._app.started, _closing))
        return self._starting

    async def _start(self, started: asyncio.Event, earlier: asyncio.Task[None] | None) -> None:
        """Open everything, when an ``earlier`` instance has let go of it. Whoever waits for it gets an answer."""
        try:
            await wait_for(earlier)
            if not self._app.is_draining:  # the next one, or the end, has come meanwhile
                await self._open()
        except StartError as error:
            logger.error("%s", error)
            self._app.dismiss()
        except Exception as error:
            self._app.dismiss()
            self._app.failed(error)
        finally:
            started.set()

    async def _open(self) -> None:
        app, clients = self._app, self._clients
        if app.settings is None:
            return  # configure has said why; mitmproxy stops
        if unknown := option_names.unknown(ctx.options):
            for complaint in unknown:
                logger.error("%s", complaint)
            app.dismiss()
            return
        if not ctx.options.dev_reload:
            stop_watching()
        # Dial nothing before it is decided where to: a CONNECT is dialled by its tunnel, a GET perhaps not at all.
        ctx.options.update(connection_strategy="lazy")
        self._reload.started()
        self._reload.quieten(ctx.options)
        settle_connection_lines(ctx.options)
        start.open_log(app.access_log)
        compat.tell()
        app.traces.tell()
        if ctx.options.tune_event_loop:
            loop.report_disabled()
        raise_file_limit()
        proxyserver = ctx.master.addons.get("proxyserver")
        await listen_again(proxyserver)
        app.listening_on = partial(addresses_of, proxyserver)
        app.interception = partial(intercept_status, clients.interceptor)
        welcome_bursts(proxyserver, clients, tuned=ctx.options.tune_event_loop)
        collector.tune()
        app.names.install(asyncio.get_running_loop())
        self._dialling.install()
        await app.open()
        clients.lanes.sweep()
        if compat.LANE.is_on:
            clients.lanes.cache()
        assert app.store is not None
        assert app.settings is not None
        limits, store = app.settings.limits, app.store
        logger.info(
            "proxy-cache: cache %s (%s, limit %s), origin limit %s, metrics %s",
            app.settings.cache_dir,
            f"{len(store.index)} entries, {human_size(store.size)}",
            human_size(store.capacity),
            f"{limits.max_in_flight} in flight" if limits.max_in_flight else "off",
            f"on {app.metrics_at}" if app.metrics_at != "off" else "off",
        )
        if app.settings.intercept.hosts and compat.INTERCEPT.is_on:
            logger.info(
                "proxy-cache: HTTPS of %s is intercepted: clients have to trust the CA in %s",
                ", ".join(ctx.options.intercept_hosts),
                ca_file(ctx.options.confdir),
            )
        start.check_quota(store.evictor)
        if compat.LISTENING.is_on:
            start.say_what_is_next(proxyserver)
        self._ready()

    def _ready(self) -> None:
        """Tell the service manager, once an error can't end the start any more, such as a port that is taken."""
        if mitmproxy_is_starting():
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._ready)
        elif not self._app.is_draining:
            notify.ready()
            notify.feed_watchdog()

    def stop(self) -> asyncio.Task[None] | None:
        global _closing
        try:
            _closing = asyncio.get_running_loop().create_task(self._stop(_closing))
        except RuntimeError:
            return None
        _closing.add_done_callback(lambda _: self._reload.stop())
        return _closing

    async def _stop(self, earlier: asyncio.Task[None] | None) -> None:
        """Stop accepting, let running responses finish for ``shutdown_grace`` seconds, close the store."""
        app = self._app
        app.refuse_new()
        if not ctx.options.dev_reload:  # else the next instance may follow
            notify.stopping()
        # A script may be reloaded, or the process end, before an instance has started, or the one before it stopped.
        await wait_for(earlier, self._starting)
        proxyserver = ctx.master.addons.get("proxyserver")
        if proxyserver:
            await stop_listening(proxyserver)
        app.names.uninstall()
        app.collector.stop()
        if app.is_running:
            await app.drain()
            self._flows.cut()
            if proxyserver:
                await close_connections(proxyserver, self._clients.lanes)
        self._dialling.uninstall()  # until now requests have finished, and what they dialled was checked
        await app.close()
