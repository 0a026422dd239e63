"""CONNECT tunnels that are open, and their account."""

from __future__ import annotations

import time

from mitmproxy import http
from mitmproxy.connection import Client

from ..app import App
from ..downstream.admission import Route
from . import compat, plain_flows
from .account import end_connect
from .flows import address, client_of, refusal


class OpenTunnel:
    """Where to, since when, and how many bytes both ways."""

    __slots__ = ("size", "started", "target")

    def __init__(self, target: str) -> None:
        self.target = target
        self.started = time.monotonic()
        self.size = 0


class Tunnels:
    """Knows which client has which."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._open: dict[str, list[OpenTunnel]] = {}
        self._to_relay: dict[str, list[str]] = {}
        """Targets of CONNECT that are mitmproxy's to answer, by their clients."""
        self._asking: dict[str, str] = {}
        """Who has asked for the last one, by their connections."""

    def asked(self, flow: http.HTTPFlow) -> None:
        """The hook ``http_connect``."""
        target = flow.request.host, flow.request.port
        route = self._app.admission.route_connect(*target)
        if flow.response is None:  # not refused by another addon (407)
            self._app.forwarded("CONNECT")
        self._asking[flow.client_conn.id] = client_of(flow)
        if route is Route.DENIED and flow.response is None:
            denial = self._app.admission.connect_denial(*target)
            flow.response = refusal(self._app.heads, 403, denial.error, denial.detail)
        elif route is Route.UNAVAILABLE:
            flow.response = refusal(self._app.heads, 503, "proxy_internal_error", "shutting down")
        elif not compat.TUNNELS.is_on and flow.response is None:
            if plain_flows.can_relay:
                self._to_relay.setdefault(flow.client_conn.id, []).append(f"{flow.request.host}:{flow.request.port}")
            else:  # mitmproxy would look into the tunnel
                flow.response = refusal(self._app.heads, 502, "proxy_internal_error", "no tunnels")

    def failed(self, flow: http.HTTPFlow, note: str = "") -> None:
        """There will be none."""
        end_connect(self._app.accounts, flow, note)

    def next_to_relay(self, client: Client) -> str | None:
        """The target of a CONNECT that mitmproxy has answered, to be relayed as it is."""
        targets = self._to_relay.get(client.id)
        return targets.pop(0) if targets else None

    def opened(self, client: Client, target: str, error: str | None) -> None:
        """``target`` was dialled; ``error`` is why that failed."""
        self._app.metrics.tunnels.labels("failed" if error else "opened").inc()
        if not error:
            self._open.setdefault(client.id, []).append(OpenTunnel(target))
            self._app.tunnels_open += 1

    def data(self, client: Client, from_client: bool, size: int) -> None:
        self._app.metrics.tunnel_bytes.labels("from_client" if from_client else "to_client").inc(size)
        if tunnels := self._open.get(client.id):
            tunnels[-1].size += size

    def client_gone(self, client: Client) -> None:
        self._to_relay.pop(client.id, None)
        name = self._asking.pop(client.id, None) or address(client)
        for tunnel in self._open.pop(client.id, ()):
            self._app.tunnels_open -= 1
            seconds = time.monotonic() - tunnel.started
            self._app.accounts.tunnel_ended(tunnel.target, name, tunnel.size, seconds)
