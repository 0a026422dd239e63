"""CONNECT, and connections after a 101: bytes both ways, which nobody looks at."""

from __future__ import annotations

from typing import Any

from mitmproxy import flow, http
from mitmproxy.connection import Server
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import DropStream, HttpLayer, SendHttp
from mitmproxy.proxy.layers.http import _events as http_events
from mitmproxy.proxy.layers.http import _hooks as http_hooks

from ..semantics.texts import brief
from .compat import TUNNELS, find
from .flow_requests import FlowRequests
from .flows import client_of
from .forwarded.repeat import RepeatingStream
from .forwarded.timeouts import ConnectTimer
from .tunnel import Relay, Tunnel, TunnelReady, connection_event

_LAYER_STACK = find("mitmproxy.proxy.tunnel:LayerStack")
_UPSTREAM_PROXY = find("mitmproxy.proxy.layers.http._upstream_proxy:HttpUpstreamProxy")


class TunnellingStream(RepeatingStream):
    """A stream that may become a raw tunnel."""

    flows: FlowRequests
    _timer: ConnectTimer | None = None
    """Of the connection that a CONNECT dials."""
    _stack: Any = None
    """Where a CONNECT that was to be intercepted would lead."""
    _was_answered = False
    """Whether its client has had a 200 long since."""

    def handle_connect_regular(self) -> layer.CommandGenerator[None]:
        if not TUNNELS.is_on:
            yield from super().handle_connect_regular()  # type: ignore[no-untyped-call]
            return
        server = self.context.server
        if server.timestamp_start is not None or server.error is not None:
            # An earlier CONNECT of this client's failed. mitmproxy opens no connection a second time.
            self.context.server = self.flow.server_conn = Server(address=server.address, via=server.via)
        yield from self._connect(_LAYER_STACK())

    def handle_connect_upstream(self) -> layer.CommandGenerator[None]:
        if not TUNNELS.is_on:
            yield from super().handle_connect_upstream()  # type: ignore[no-untyped-call]
            return
        yield from self._connect(_UPSTREAM_PROXY.make(self.context, True))

    def _connect(self, stack: Any) -> layer.CommandGenerator[None]:
        """Dial first, answer then: a target that cannot be reached is a 502, not a 200 that goes nowhere."""
        if self.flow.response:  # refused by another addon
            yield from self.handle_connect_finish()  # type: ignore[no-untyped-call]
            return
        request, client, user = self.flow.request, self.context.client, client_of(self.flow)
        if self._is_outermost and self.flows.clients.intercept(client, request.host, request.port, user):
            self._stack = stack
            self._handle_event = self._until_tunnelled  # type: ignore[method-assign]
            self.flow.response = response = self._established()
            yield http_hooks.HttpConnectedHook(self.flow)
            yield from self.send_own(response)
            return
        yield from self._dial(stack)

    @property
    def _is_outermost(self) -> bool:
        """Whether the client's connection is not within another one, of which its socket would know nothing."""
        is_plain = self.is_http1 and not self.context.client.tls
        return is_plain and sum(isinstance(each, HttpLayer) for each in self.context.layers) == 1

    def _until_tunnelled(self, event: events.Event) -> layer.CommandGenerator[None]:
        """TLS ends in the lane (:mod:`.intercept`), unless that finds that it had better be a tunnel."""
        if isinstance(event, http_events.RequestData):
            self._was_answered = True
            yield from self._dial(self._stack)
            yield from self._dialling(event)
        elif isinstance(event, (http_events.RequestEndOfMessage, http_events.RequestProtocolError)):
            self.flow.live = False
            self.client_state = self.server_state = self.state_errored
            self._handle_event = self.state_errored  # type: ignore[method-assign]
            yield commands.CloseConnection(self.context.client)

    def _dial(self, stack: Any) -> layer.CommandGenerator[None]:
        stack /= Tunnel(self.context, self.flows.tunnels)
        self.child_layer = stack[0]
        self._handle_event = self._dialling  # type: ignore[method-assign]
        yield from self._dialling(events.Start())

    def _dialling(self, event: events.Event) -> layer.CommandGenerator[None]:
        assert self.child_layer is not None
        if isinstance(event, http_events.RequestProtocolError):
            yield from self._left_while_dialling(brief(event.message))
            return
        for command in self.child_layer.handle_event(connection_event(event, self.context)):
            if isinstance(command, TunnelReady):
                late = self._timer.end() if self._timer is not None else None
                yield from self._answer_connect(command.error and (late or command.error))
                continue
            if isinstance(command, commands.OpenConnection):
                self._timer = ConnectTimer(self.context.client, command.connection, self.flows.app.origin_timeout)
            yield command

    def _left_while_dialling(self, why: str) -> layer.CommandGenerator[None]:
        """The client has gone. mitmproxy ends the connection that was being opened for it, and tells nobody."""
        if self._timer is not None:
            self._timer.end()
        self.flows.tunnels.opened(self.context.client, f"{self.flow.request.host}:{self.flow.request.port}", why)
        self.flow.error = flow.Error(why)
        self.flow.live = False
        self.client_state = self.server_state = self.state_errored
        self._handle_event = self.state_errored  # type: ignore[method-assign]
        yield http_hooks.HttpErrorHook(self.flow)
        yield DropStream(self.stream_id)

    def _established(self) -> http.Response:
        version = self.flow.request.data.http_version
        return http.Response(version, 200, b"Connection established", http.Headers(), b"", None, 0, 0)

    def _answer_connect(self, error: str | None) -> layer.CommandGenerator[None]:
        self.flows.tunnels.opened(self.context.client, f"{self.flow.request.host}:{self.flow.request.port}", error)
        if self._was_answered:
            self._handle_event = self.passthrough if error is None else self.state_errored  # type: ignore[method-assign]
            if error is not None:
                self.flow.live = False
                self.client_state = self.server_state = self.state_errored
                yield commands.CloseConnection(self.context.client)
            return
        if error is None:
            self.flow.response = response = self._established()
            yield http_hooks.HttpConnectedHook(self.flow)
            self._handle_event = self.passthrough  # type: ignore[method-assign]
        else:
            self.flow.response = response = self.flows.unreachable(self.flow, error)
            yield http_hooks.HttpConnectErrorHook(self.flow)
            self.flow.live = False
        if error is not None:
            self.client_state = self.server_state = self.state_errored
            self._handle_event = self.state_errored
        yield from self.send_own(response)
        if error is not None:
            yield DropStream(self.stream_id)

    def passthrough(self, event: events.Event) -> layer.CommandGenerator[None]:
        """As mitmproxy does, but a half-close of one side of a tunnel stays half a close (RFC 9110 §9.3.6)."""
        if self.flow.request.method != "CONNECT" or not self.is_http1 or not TUNNELS.is_on:
            yield from super().passthrough(event)
            return
        assert self.child_layer is not None
        for command in self.child_layer.handle_event(connection_event(event, self.context)):
            if isinstance(command, commands.SendData) and command.connection is self.context.client:
                yield SendHttp(http_events.ResponseData(self.stream_id, command.data), self.context.client)
            else:
                yield command

    def flow_done(self) -> layer.CommandGenerator[None]:
        """After a 101 bytes are relayed. mitmproxy keeps all of them, and takes WebSocket messages apart, for addons:
        only where there are some (a message of any size is held, then)."""
        response = self.flow.response
        if response is None or response.status_code != 101 or self.flows.observers.watch_upgrades():
            yield from super().flow_done()
            return
        self.flow.live = False
        self.child_layer = Relay(self.context, ignore=True)
        self._handle_event = self.passthrough  # type: ignore[method-assign]
        yield from self.child_layer.handle_event(events.Start())
        yield SendHttp(http_events.ResponseEndOfMessage(self.stream_id), self.context.client)

    @property
    def is_dialling(self) -> bool:
        return bool(self._handle_event == self._dialling)
