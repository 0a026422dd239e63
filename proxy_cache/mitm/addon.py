"""mitmproxy's hooks: short, and left early. Everything behind them is built here, once.

The proxy itself is :class:`app.App`. Requests that are flows are answered in :mod:`.flow_requests`; the hooks for them
are in :mod:`.late_hooks`, behind those of all other addons.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader
from mitmproxy.connection import Client
from mitmproxy.tls import TlsData

from ..app import App
from . import access_values, compat, intercept, option_values, options, plain_flows, start
from .accept import Clients
from .dialling import MitmproxyDialling
from .filters import made_up_flow
from .flow_requests import FlowRequests
from .flows import address
from .forwarded import requests as forwarded_requests
from .late_hooks import LateHooks
from .lifecycle import Lifecycle
from .listening import close_refused
from .observers import ADDON_NAME, FlowObservers
from .proxy_users import ProxyUsers
from .reload import Reload, settle_connection_lines
from .trust import ForwardTrust
from .tunnels import Tunnels

if TYPE_CHECKING:
    from mitmproxy.proxy.layer import NextLayer
    from mitmproxy.proxy.server_hooks import ServerConnectionHookData

    from .worker import Worker

if compat.LAYERS.is_on:
    try:
        from . import layers
    except (ImportError, AttributeError, TypeError) as found:  # a name that the table doesn't have
        compat.LAYERS.lose(" ".join(str(found).split()))

logger = logging.getLogger(__name__)


def _worker() -> Worker | None:
    """What this process is, if it is one of several (``proxy-cache run --workers``). Not imported otherwise."""
    if "PROXY_CACHE_WORKER" not in os.environ:
        return None
    from .worker import Worker

    return Worker(os.environ)


class CacheAddon:
    """The addon: one proxy, and what ties it to mitmproxy."""

    name = ADDON_NAME

    def __init__(self) -> None:
        self.worker = _worker()
        self.app = app = self.worker.app if self.worker is not None else App()
        app.explainer.flow_for = app.warm_requests.flow_for = made_up_flow
        self.observers = FlowObservers(app.users)
        self.dialling = MitmproxyDialling(app.dialler)
        self.forward_trust = ForwardTrust()
        self.tunnels = Tunnels(app)
        self.clients = Clients(app, self.observers)
        self.proxy_users = ProxyUsers(app, self.clients.lanes.users_changed)
        self.flows = FlowRequests(app, self.observers, self.clients, self.tunnels, self.forward_trust)
        self.late_hooks = LateHooks(self.flows)
        self.reload = Reload(app, self.forward_trust, self.clients.interceptor.distrusting.clear)
        self.lifecycle = Lifecycle(app, self.clients, self.flows, self.dialling, self.reload)
        if self.worker is not None:
            self.worker.join(self.clients, self.lifecycle)

    # -- options, start and stop ----------------------------------------------------------------------------------

    def load(self, loader: Loader) -> None:
        start.hint_at_free_ports()
        compat.check_addons(loader.master.addons)
        self.reload.load(loader.master.options)
        options.load(loader)
        if self.worker is not None:
            self.worker.load(loader.master.options)
        self.late_hooks.join()
        start.check_confdir(loader.master.options)
        self.app.open_traces()

    def configure(self, updated: set[str]) -> None:
        self.observers.forget()
        self.clients.configure()
        self.app.access.forget()
        self.proxy_users.configure()
        if self.app.cache is not None:
            settle_connection_lines(ctx.options)
        if options.refused or not updated & (options.NAMES | options.MITMPROXY_NAMES):
            return
        try:
            settings = option_values.parse(ctx.options)
            if problem := self.app.problem_with(settings):
                raise exceptions.OptionsError(problem)
            if settings.intercept.hosts and "intercept_hosts" in updated:
                intercept.check_ca()
        except exceptions.OptionsError as error:
            if self.app.settings is not None:
                raise  # while running: mitmproxy refuses the change, and says why
            # At start mitmproxy would print a traceback for an exception; an error in the log stops it as well.
            logger.error("%s", error)
            return
        self.app.configure(settings)
        if settings.clients:
            serves = settings.serves if self.worker is None else self.worker.serves(settings.serves)
            close_refused(ctx.master.addons.get("proxyserver"), self.clients.lanes, serves)
        self.forward_trust.use(settings.origin.trust)
        access_values.tell_beyond_parent(settings.destinations)

    def running(self) -> asyncio.Task[None]:
        return self.lifecycle.start()

    def done(self) -> asyncio.Task[None] | None:
        self.late_hooks.leave()
        self.proxy_users.stop()
        return self.lifecycle.stop()

    # -- connections ----------------------------------------------------------------------------------------------

    def next_layer(self, data: NextLayer) -> None:
        try:
            if data.layer is not None:
                return
            if target := self.tunnels.next_to_relay(data.context.client):
                plain_flows.relay(data)
                self.tunnels.opened(data.context.client, target, None)
                return
            if not compat.LAYERS.is_on:
                return
            # A script's hook runs before the built-in one: let that one choose, then put our layer in its place.
            ctx.master.addons.get("nextlayer").next_layer(data)
            if data.layer is not None:
                data.layer = layers.with_cache(data.layer, self.flows)
        except Exception as error:
            self.app.failed(error)
            raise

    async def server_connect(self, data: ServerConnectionHookData) -> None:
        try:
            await self.dialling.check(data.server)
            self.forward_trust.check(data, self.app.origin)
        except Exception as error:
            data.server.error = "proxy_internal_error"  # and so it is not opened
            self.app.failed(error)

    def tls_start_server(self, data: TlsData) -> None:
        try:
            self.forward_trust.start_server(data)
        except Exception as error:
            self.app.failed(error)
            raise

    def client_connected(self, client: Client) -> None:
        try:
            if not self.clients.serves(address(client), client.sockname):
                client.error = client.error or "access_clients"  # mitmproxy closes the connection
                self.app.access.client_denied(address(client))
            self.clients.connected(client)
        except Exception as error:  # no lane then
            self.app.failed(error)

    def client_disconnected(self, client: Client) -> None:
        self.clients.disconnected(client)
        self.app.collector.connection_closed()
        self.flows.client_gone(client)
        self.tunnels.client_gone(client)

    # -- flows ----------------------------------------------------------------------------------------------------

    def http_connect(self, flow: http.HTTPFlow) -> None:
        self.tunnels.asked(flow)

    def http_connect_error(self, flow: http.HTTPFlow) -> None:
        self.tunnels.failed(flow)
        self.proxy_users.connect_failed(flow.client_conn)

    def http_connect_upstream(self, flow: http.HTTPFlow) -> None:
        forwarded_requests.with_brackets(flow.request)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        self.flows.responseheaders(flow)

    def response(self, flow: http.HTTPFlow) -> None:
        self.flows.ended(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        note = flow.error.msg if flow.error else "error"
        if flow.request.method == "CONNECT" and flow.response is None:
            self.tunnels.failed(flow, note)
            self.proxy_users.connect_failed(flow.client_conn)
        self.flows.ended(flow, note)
