"""mitmproxy layers: where answers of the cache leave, and where our streams and connections take mitmproxy's place.

mitmproxy sends a response that an addon made as one blob. :class:`CacheStream` sends the head and then reads the body
from a :class:`BodySender`, which the request hook put into ``flow.response.stream``. To a plain HTTP/1 client the
sender writes straight to the socket, one hook for the whole body; elsewhere (TLS, HTTP/2) chunk by chunk.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from functools import partial
from typing import Any

from mitmproxy import ctx, flow, http
from mitmproxy.connection import ConnectionState, Server
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.commands import StartHook
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import (
    DropStream,
    GetHttpConnection,
    HttpLayer,
    HTTPMode,
    HttpStream,
    RegisterHttpConnection,
    SendHttp,
)
from mitmproxy.proxy.layers.http import _events as http_events
from mitmproxy.proxy.layers.http import _hooks as http_hooks
from mitmproxy.proxy.layers.http._http1 import Http1Server
from mitmproxy.proxy.layers.http._http2 import Http2Server

from ..downstream.body_sender import BodySender
from .backpressure import MAX_HELD, gate_of
from .compat import BROKEN_OFF, client_writer
from .flow_requests import FlowRequests
from .flows import is_bodiless
from .forwarded.client_connection import ClientConnection
from .forwarded.disconnects import hear_out
from .forwarded.early import is_http1
from .forwarded.head_limits import limit_http2
from .forwarded.heads import ends_with_connection
from .forwarded.origin_connection import InterimResponse, take_over
from .forwarded.persistence import with_persistence
from .forwarded.repeat import ConnectionChoice
from .forwarded.stream import ForwardingStream
from .forwarded.timeouts import ConnectTimer
from .forwarded.trailers import TRAILERS, checked


class Await(commands.Command):
    """A stream waits for ``work``. Not a hook: nobody but us has anything to do with it."""

    blocking = True

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self.work = work


class CacheStream(ForwardingStream):
    """One request and its response, with streamed answers, clean forwarding and raw tunnels."""

    from_origin = False
    """Whether the response is the origin's, by way of mitmproxy's own connection."""
    direct = False
    """Whether hooks of this flow are called without mitmproxy's other addons, who do nothing with it."""
    held = 0
    """Bytes of the request's body that have come while this waits for something else."""

    def send_response(self, already_streamed: bool = False) -> layer.CommandGenerator[None]:
        response = self.flow.response
        sender = response.stream if response is not None else None
        if already_streamed or not isinstance(sender, BodySender):
            yield from self._send_buffered(already_streamed)
            if self.is_unread:
                origin_reads = self.context.server.state & ConnectionState.CAN_READ
                yield from self.end_response() if origin_reads else self.end_early()
            return
        try:
            yield from self._deliver(sender)
        except Exception as error:  # left to itself mitmproxy would log it, and leave the client hanging
            self.flows.app.failed(error)
            sender.error = error
            yield from self._break_off(sender)
        finally:
            sender.close()

    def _send_buffered(self, already_streamed: bool) -> layer.CommandGenerator[None]:
        """As mitmproxy does, but for the content that an addon has given an answer that can have none: a client would
        take it for the next response (RFC 9110 §6.4.1, §9.3.2)."""
        for command in super().send_response(already_streamed):
            if not (
                isinstance(command, SendHttp)
                and isinstance(command.event, http_events.ResponseData)
                and is_bodiless(self.flow)
            ):
                yield command

    def _deliver(self, sender: BodySender) -> layer.CommandGenerator[None]:
        assert self.flow.response is not None
        client = self.context.client
        direct = not client.tls and self.is_http1
        sender.attach(client_writer(client), direct=direct)
        yield SendHttp(http_events.ResponseHeaders(self.stream_id, self.flow.response, False), client)
        while True:
            chunk = sender.next_now()
            if chunk is None and sender.error is None:
                yield Await(sender.wait())
                if (yield from self.check_killed(True)):
                    return
                continue
            if sender.error is not None:
                yield from self._break_off(sender)
                return
            if not chunk:
                break
            sender.sent += len(chunk)
            yield SendHttp(http_events.ResponseData(self.stream_id, chunk), client)
        yield http_hooks.HttpResponseHook(self.flow)
        self.server_state = self.state_done
        if (yield from self.check_killed(False)):
            return
        if self.client_state == self.state_done:
            yield from self.flow_done()

    def _break_off(self, sender: BodySender) -> layer.CommandGenerator[None]:
        """The body ended early. The client must not take it for complete."""
        assert self.flow.response is not None
        sender.break_off(to_the_end=ends_with_connection(self.flow.request, self.flow.response))
        message = f"response broke off after {sender.sent} bytes: {sender.error}"
        self.flow.error = flow.Error(message)
        yield http_hooks.HttpErrorHook(self.flow)
        yield SendHttp(http_events.ResponseProtocolError(self.stream_id, message, BROKEN_OFF), self.context.client)
        self.flow.live = False
        self.client_state = self.server_state = self.state_errored
        yield DropStream(self.stream_id)

    @property
    def is_waiting(self) -> bool:
        """Whether what the client sends is queued: for a hook, or for a connection that is being opened."""
        return self._paused is not None or self.is_dialling


class CacheHttpLayer(ConnectionChoice):
    """mitmproxy's HTTP layer with our streams."""

    def __init__(self, context: Context, mode: HTTPMode, flows: FlowRequests) -> None:
        super().__init__(context, mode)
        self.flows = flows
        self.consumed = 0
        """Bytes of the client's that have come through here."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_failed = False
        self._is_gated = False
        self._connecting: dict[layer.Layer, ConnectTimer] = {}
        """By what opens a connection."""
        self._unsent: set[int] = set()
        """Streams whose requests were not sent: nothing that belongs to them is."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.OpenConnectionCompleted) and not event.reply:
            hear_out(self.context.client, event.command.connection)
        if isinstance(event, events.DataReceived):
            if event.connection is self.context.client:
                self.consumed += len(event.data)
                return self._within_bounds(event) if not self._has_failed else nothing()
        elif isinstance(event, events.Start):
            self._open_client_connection()
        elif self._is_gated:
            return self._within_bounds(event) if not self._has_failed else nothing()
        return self._surviving(super()._handle_event(event)) if not self._has_failed else nothing()

    def _open_client_connection(self) -> None:
        client, flows = self.context.client, self.flows
        if is_http1(client.alpn):
            refuse, listens = partial(flows.refused, client), partial(flows.clients.still_listens, client)
            forward = self.mode is not HTTPMode.transparent
            server = ClientConnection(self.context.fork(), flows.app.head_limits, refuse, listens, forward=forward)
            server.connect_is_answered = partial(flows.clients.connect_is_answered, client)
            self.connections.setdefault(client, server)
        elif client.alpn == b"h2":
            h2_server = Http2Server(self.context.fork())
            limit_http2(h2_server, flows.app.head_limits)
            self.connections.setdefault(client, h2_server)

    def _within_bounds(self, event: events.Event) -> layer.CommandGenerator[None]:
        """Read no more of a client while too many of its bytes wait."""
        yield from self._surviving(super()._handle_event(event))
        full = self._is_full()
        if full is not self._is_gated:
            gate = gate_of(self.context.client)
            if gate is not None:
                self._is_gated = full
                gate.close_gate() if full else gate.open_gate()

    def _is_full(self) -> bool:
        if self._has_failed:
            return False
        server = self.connections.get(self.context.client)
        if isinstance(server, Http1Server) and server.state == server.wait and len(server.buf) > MAX_HELD:
            return True
        return any(
            isinstance(stream, CacheStream) and stream.held > MAX_HELD and stream.is_waiting
            for stream in self.streams.values()
        )

    def _surviving(self, work: layer.CommandGenerator[None]) -> layer.CommandGenerator[None]:
        """mitmproxy logs what a layer raises, and leaves its connections open and its flows without an end: the client
        would wait for good. It is told by the end of its connection, and other addons by the hook for errors."""
        try:
            yield from work
        except Exception as error:
            self._has_failed = True
            self.flows.app.failed(error)
            if self.context.client.connected:
                yield commands.CloseConnection(self.context.client)  # and mitmproxy all that belong to it
            for stream in list(self.streams.values()):
                unfinished: http.HTTPFlow | None = getattr(stream, "flow", None)
                if unfinished is not None and unfinished.live:
                    unfinished.live = False
                    unfinished.error = flow.Error(f"internal error: {type(error).__name__}")
                    hook = http_hooks.HttpErrorHook(unfinished)
                    hook.blocking = False  # nothing here waits for it
                    yield hook

    def register_connection(self, command: RegisterHttpConnection) -> layer.CommandGenerator[None]:
        stack = self.connections[command.connection]
        timer = self._connecting.pop(stack, None)
        if timer is not None and (late := timer.end()) and command.err:
            command.err = late
        if not command.err:
            take_over(stack, self.flows.app.head_limits, lambda: self.flows.app.origin_timeout)
        return super().register_connection(command)

    def get_connection(self, event: GetHttpConnection, *, reuse: bool = True) -> layer.CommandGenerator[None]:
        """mitmproxy remembers for as long as a client is connected that an origin could not be reached, and keeps what
        connections it has. What was wrong may have been put right meanwhile: the origin, or what the operator trusts;
        and what was trusted may be no more."""
        for connection in self.connections:
            if not isinstance(connection, Server):
                continue
            if connection.connected:
                flows = self.flows
                is_outdated = (connection.timestamp_start or 0.0) < flows.app.access.changed_at
                reuse = reuse and not is_outdated and not flows.forward_trust.is_outdated(connection)
            else:
                connection.error = None
        for command in super().get_connection(event, reuse=reuse):
            if isinstance(command, commands.OpenConnection):
                timer = ConnectTimer(self.context.client, command.connection, self.flows.app.origin_timeout)
                self._connecting[self.connections[command.connection]] = timer
            yield command

    def is_idle_after(self, handed: int) -> bool:
        """Whether all of the ``handed`` bytes have come through, and nothing is left to be done with them."""
        if self.consumed != handed or self.streams:
            return False
        server = self.connections.get(self.context.client)
        return isinstance(server, Http1Server) and not server.buf and server.state == server.read_headers

    def make_stream(self, stream_id: int) -> layer.CommandGenerator[None]:
        stream = CacheStream(self.context.fork(), stream_id)
        stream.flows = self.flows
        self.streams[stream_id] = stream
        yield from self.event_to_child(stream, events.Start())

    def event_to_child(self, child: layer.Layer | HttpStream, event: events.Event) -> layer.CommandGenerator[None]:
        """As mitmproxy does, but a head on its way out is a clean copy (RFC 9110 §7.6.1). No generator of its own:
        everything that happens on a connection comes through here."""
        if isinstance(event, http_events.ResponseHeaders):
            stream = self.streams.get(event.stream_id)
            if isinstance(stream, CacheStream):
                if child is stream:
                    stream.from_origin = True
                else:
                    if event.response.status_code == 100 and stream.flow.request.is_http10:
                        return nothing()  # RFC 9110 §15.2: never to HTTP/1.0. mitmproxy would, if it is expected
                    if stream.from_origin:
                        event.response = stream.outgoing_response(event.response)
                    event.response = with_persistence(stream.flow.request, event.response)
        elif isinstance(event, http_events.RequestHeaders) and not isinstance(child, HttpStream):
            stream = self.streams.get(event.stream_id)
            if isinstance(stream, CacheStream):
                try:
                    event.request = stream.outgoing_request(event.request)
                except Exception as error:
                    return self._not_sent(stream, error)
        elif (
            self._unsent
            and isinstance(event, REST_OF_REQUEST)
            and not isinstance(child, HttpStream)
            and event.stream_id in self._unsent
        ):
            return nothing()
        if isinstance(child, CacheStream):
            if isinstance(event, InterimResponse):
                return child.pass_interim(event.response)
            if isinstance(event, TRAILERS):
                event = checked(event, self.flows.app.head_limits)
            return self._stream_event(child, event)
        return super().event_to_child(child, event)

    def _not_sent(self, stream: CacheStream, error: Exception) -> layer.CommandGenerator[None]:
        """Another request than the one that was meant was about to leave: the client gets a 502, the origin nothing."""
        self.flows.app.failed(error)
        self._unsent.add(stream.stream_id)
        why = f"proxy_internal_error: {type(error).__name__}"
        return self.event_to_child(stream, http_events.ResponseProtocolError(stream.stream_id, why, BROKEN_OFF))

    def _stream_event(self, stream: CacheStream, event: events.Event) -> layer.CommandGenerator[None]:
        """Where we are alone with a flow, its hooks are ours: called here and now, not through forty addons."""
        if isinstance(event, http_events.RequestData):
            stream.held = stream.held + len(event.data) if stream.is_waiting else 0
        elif isinstance(event, http_events.RequestProtocolError) and stream.is_waiting:
            # mitmproxy hears of it once the stream waits no more. What it waits for may be a slot, or a body.
            self.flows.stream_gone(stream.flow)
        for command in super().event_to_child(stream, event):
            if isinstance(command, Await):
                self._resume_after(command.work, command)
            elif not isinstance(command, FLOW_HOOKS) or not self._is_direct(stream, command):
                yield command
            elif self.flows.run_hook(command.name, command.flow):
                del self.command_sources[command]
                yield from self.event_to_child(stream, events.HookCompleted(command))
            else:  # the one hook of ours that may have to wait
                self._resume_after(self.flows.answer_request(command.flow), command)

    def _resume_after(self, work: Coroutine[Any, Any, None], command: commands.Command) -> None:
        """Let the stream go on once ``work`` is done, as mitmproxy does after a hook: the outermost layer is told, and
        each passes it on. An HTTP layer around this one (its stream is a CONNECT that mitmproxy looks into) does so
        with what it has seen to come from one of its streams, and has seen nothing of this."""
        for outer, stream in itertools.pairwise(self.context.layers):
            if isinstance(outer, HttpLayer):
                outer.command_sources[command] = stream
        handler = ctx.master.addons.get("proxyserver").connections[self.context.client.id]

        async def run() -> None:
            try:
                with handler.timeout_watchdog.disarm():
                    await work
            except Exception as error:  # the stream must go on, or its client hangs
                self.flows.app.failed(error)
            await handler.server_event(events.HookCompleted(command))  # type: ignore[arg-type]

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _is_direct(self, stream: CacheStream, command: StartHook) -> bool:
        """Decided when the request's header has come, for the whole flow."""
        if isinstance(command, http_hooks.HttpRequestHeadersHook):
            stream.direct = self.flows.is_alone_with(command.flow)
        return stream.direct


def nothing() -> layer.CommandGenerator[None]:
    yield from ()


REST_OF_REQUEST = (http_events.RequestData, http_events.RequestTrailers, http_events.RequestEndOfMessage)
FLOW_HOOKS = (
    http_hooks.HttpRequestHeadersHook,
    http_hooks.HttpRequestHook,
    http_hooks.HttpResponseHeadersHook,
    http_hooks.HttpResponseHook,
    http_hooks.HttpErrorHook,
)


def with_cache(chosen: layer.Layer, flows: FlowRequests) -> layer.Layer:
    """The stack that was chosen, with our HTTP layer in place of mitmproxy's, wherever in it that was put."""
    parent: Any = None
    current: Any = chosen
    while current is not None and type(current) is not HttpLayer:
        parent, current = current, getattr(current, "child_layer", None)
    if current is None:
        return chosen
    new = replacement(current, flows)
    if parent is None:
        return new
    parent.child_layer = new
    return chosen


def replacement(old: HttpLayer, flows: FlowRequests) -> CacheHttpLayer:
    """Our layer in the place of ``old`` in its context."""
    new = CacheHttpLayer(old.context, old.mode, flows)
    flows.clients.layer_chosen(old.context.client, new)
    layers = old.context.layers
    layers.remove(new)
    layers[layers.index(old)] = new
    return new
