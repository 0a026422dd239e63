"""mitmproxy layers: bodies that stream from the cache, clean heads on the forwarded path, raw CONNECT tunnels.

mitmproxy sends a response that an addon made as one blob. :class:`CacheStream` sends the head and then reads the body
from a :class:`Delivery`, which the request hook put into ``flow.response.stream``. To a plain HTTP/1 client the
delivery writes straight to the socket, one hook for the whole body; elsewhere (TLS, HTTP/2) chunk by chunk.

What mitmproxy forwards itself keeps its flow objects untouched; the copies that leave are without hop-by-hop fields
and with ``Via`` (RFC 9110 §7.6).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from functools import partial
from typing import Any, Protocol

from mitmproxy import ctx, flow, http
from mitmproxy.connection import Client, Connection, ConnectionState, Server
from mitmproxy.net.http import http1
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

from ..caching.headers import NAME
from ..downstream.body_sender import Delivery, reset_at_close
from ..semantics.headers import Headers, end_to_end
from ..semantics.limits import HeadLimits
from ..semantics.status_fields import cache_status
from ..semantics.texts import brief
from ..wire.head_checks import why_malformed_request, why_malformed_response
from .backpressure import HELD_MAX, gate_of
from .compat import TUNNELS, client_writer, find
from .flows import is_bodiless
from .forwarded import heads as forwarded_heads
from .forwarded import requests as forwarded_requests
from .forwarded.disconnects import hear_out
from .forwarded.early import is_http1
from .forwarded.http1 import BROKEN_OFF, ClientConnection, InterimResponse, limit_http2, take_over
from .forwarded.persistence import with_persistence
from .forwarded.repeat import ConnectionChoice, RepeatingStream
from .forwarded.sent import ConnectionExpired
from .forwarded.timeouts import ConnectTimer
from .forwarded.trailers import TRAILERS, MalformedTrailers, checked
from .metadata import HAS_BODY
from .tunnel import Relay, Tunnel, TunnelReady, TunnelRecorder, connection_event


class Recorder(TunnelRecorder, Protocol):
    """What the layers report."""

    via: str

    @property
    def head_limits(self) -> HeadLimits: ...

    @property
    def origin_timeout(self) -> float: ...

    def still_listens(self, client: Client) -> bool: ...

    def stream_gone(self, flow: http.HTTPFlow) -> None: ...

    def is_outdated(self, connection: Connection) -> bool: ...

    def refused(
        self, client: Client, status: int, error: str, detail: str, *, has_flow: bool = False
    ) -> http.Response: ...

    def host_is_the_clients(self, flow: http.HTTPFlow) -> bool: ...

    def upgrades_are_watched(self) -> bool: ...

    def tunnel_opened(self, client: Client, target: str, error: str | None) -> None: ...

    def failed(self, error: Exception) -> None: ...

    def forward_reason(self, flow: http.HTTPFlow) -> str: ...

    def unreachable(self, flow: http.HTTPFlow, message: str) -> http.Response: ...

    def layer_chosen(self, client: Client, layer: layer.Layer) -> None: ...

    def is_alone_with(self, flow: http.HTTPFlow) -> bool: ...

    def run_hook(self, name: str, flow: http.HTTPFlow) -> bool: ...

    async def answer_request(self, flow: http.HTTPFlow) -> None: ...


_LAYER_STACK = find("mitmproxy.proxy.tunnel:LayerStack")
_UPSTREAM_PROXY = find("mitmproxy.proxy.layers.http._upstream_proxy:HttpUpstreamProxy")


class Await(commands.Command):
    """A stream waits for ``work``. Not a hook: nobody but us has anything to do with it."""

    blocking = True

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self.work = work


class CacheStream(RepeatingStream):
    """One request and its response, with streamed answers, clean forwarding and raw tunnels."""

    recorder: Recorder
    from_origin = False
    """Whether the response is the origin's, by way of mitmproxy's own connection."""
    direct = False
    """Whether hooks of this flow are called without mitmproxy's other addons, who do nothing with it."""
    has_body = False
    """Whether the request has a body, which HTTP/2 says without a field."""
    held = 0
    """Bytes of the request's body that have come while this waits for something else."""
    _timer: ConnectTimer | None = None
    """Of what a CONNECT dials."""

    # -- answers from the cache ---------------------------------------------------------------------------------

    def send_response(self, already_streamed: bool = False) -> layer.CommandGenerator[None]:
        response = self.flow.response
        delivery = response.stream if response is not None else None
        if already_streamed or not isinstance(delivery, Delivery):
            yield from self._send_whole(already_streamed)
            if self.is_unread:
                origin_reads = self.context.server.state & ConnectionState.CAN_READ
                yield from self.end_response() if origin_reads else self.end_early()
            return
        try:
            yield from self._deliver(delivery)
        except Exception as error:  # left to itself mitmproxy would log it, and leave the client hanging
            self.recorder.failed(error)
            delivery.error = error
            yield from self._break_off(delivery)
        finally:
            delivery.close()

    def _send_whole(self, already_streamed: bool) -> layer.CommandGenerator[None]:
        """As mitmproxy does, but for the content that an addon has given an answer that can have none: a client would
        take it for the next response (RFC 9110 §6.4.1, §9.3.2)."""
        for command in super().send_response(already_streamed):
            if not (
                isinstance(command, SendHttp)
                and isinstance(command.event, http_events.ResponseData)
                and is_bodiless(self.flow)
            ):
                yield command

    def _deliver(self, delivery: Delivery) -> layer.CommandGenerator[None]:
        assert self.flow.response is not None
        client = self.context.client
        direct = not client.tls and self.is_http1
        delivery.attach(client_writer(client), direct=direct)
        yield SendHttp(http_events.ResponseHeaders(self.stream_id, self.flow.response, False), client)
        while True:
            chunk = delivery.next_now()
            if chunk is None and delivery.error is None:
                yield Await(delivery.wait())
                if (yield from self.check_killed(True)):
                    return
                continue
            if delivery.error is not None:
                yield from self._break_off(delivery)
                return
            if not chunk:
                break
            delivery.sent += len(chunk)
            yield SendHttp(http_events.ResponseData(self.stream_id, chunk), client)
        yield http_hooks.HttpResponseHook(self.flow)
        self.server_state = self.state_done
        if (yield from self.check_killed(False)):
            return
        if self.client_state == self.state_done:
            yield from self.flow_done()

    def _break_off(self, delivery: Delivery) -> layer.CommandGenerator[None]:
        """The body ended early. The client must not take what it has for all of it."""
        assert self.flow.response is not None
        headers = self.flow.response.headers
        if "content-length" not in headers and "transfer-encoding" not in headers:
            delivery.reset_connection()
        message = f"response broke off after {delivery.sent} bytes: {delivery.error}"
        self.flow.error = flow.Error(message)
        yield http_hooks.HttpErrorHook(self.flow)
        yield SendHttp(http_events.ResponseProtocolError(self.stream_id, message, BROKEN_OFF), self.context.client)
        self.flow.live = False
        self.client_state = self.server_state = self.state_errored
        yield DropStream(self.stream_id)

    # -- what mitmproxy forwards --------------------------------------------------------------------------------

    def outgoing_request(self, request: http.Request) -> http.Request:
        """What leaves in place of ``request``. Raises if that would be another than the one that is meant."""
        kept = request.host_header if self.recorder.host_is_the_clients(self.flow) else None
        return forwarded_heads.for_origin(
            request,
            self.recorder.via,
            to_parent=self.mode is HTTPMode.upstream,
            binary=not is_http1(self.context.server.alpn),
            host=kept.encode("utf-8", "surrogateescape") if kept is not None else None,
            has_body=self.has_body,
        )

    def state_wait_for_request_headers(self, event: events.Event) -> layer.CommandGenerator[None]:
        assert isinstance(event, http_events.RequestHeaders)
        self.has_body = not event.end_stream
        yield from super().state_wait_for_request_headers(event)

    def check_invalid(self, request: bool) -> layer.CommandGenerator[bool]:
        """What came over HTTP/1 has been looked at, line by line, where it was read."""
        if request and not self.is_http1:
            data = self.flow.request.data
            fields = self.flow.request.headers.fields
            why = why_malformed_request(data.method, data.scheme, data.authority, data.path, fields)
            if why is None and self.mode is not HTTPMode.transparent:
                why = forwarded_requests.why_no_target(self.flow.request)
            too_large = self.recorder.head_limits.why_too_large(fields, len(data.path) + len(data.authority))
            if why is not None or too_large is not None:
                yield from self._refuse(400 if why else 431, why or too_large or "")
                return True
            if self.has_body and "content-length" not in self.flow.request.headers:
                self.flow.metadata[HAS_BODY] = True
        elif not request and not is_http1(self.context.server.alpn):
            assert self.flow.response is not None
            fields = self.flow.response.headers.fields
            why = why_malformed_response(self.flow.response.status_code, fields)
            error = "http_protocol_error" if why else "http_response_header_section_size"
            why = why or self.recorder.head_limits.why_too_large(fields)
            if why is not None:
                self.flow.response = None
                yield SendHttp(http_events.RequestProtocolError(self.stream_id, why, CANCELLED), self.context.server)
                yield from self.handle_protocol_error(
                    http_events.ResponseProtocolError(self.stream_id, f"{error}: {why}", BROKEN_OFF)
                )
                return True
        return (yield from super().check_invalid(request))

    def _refuse(self, status: int, why: str) -> layer.CommandGenerator[None]:
        """Answer a request that no hook has seen, over HTTP/2."""
        client = self.context.client
        response = self.recorder.refused(client, status, "http_request_error", why)
        self.flow.live = False
        self.client_state = self.server_state = self.state_errored
        yield SendHttp(http_events.ResponseHeaders(self.stream_id, response, False), client)
        yield SendHttp(http_events.ResponseData(self.stream_id, response.raw_content or b""), client)
        yield SendHttp(http_events.ResponseEndOfMessage(self.stream_id), client)
        yield DropStream(self.stream_id)

    def outgoing_response(self, response: http.Response) -> http.Response:
        status = response.status_code
        fwd = (
            cache_status(NAME, fwd=self.recorder.forward_reason(self.flow), fwd_status=status) if status >= 200 else ""
        )
        return forwarded_heads.for_client(response, self.flow.request, self.recorder.via, fwd)

    def pass_interim(self, response: http.Response) -> layer.CommandGenerator[None]:
        """RFC 9110 §15.2: "A proxy MUST forward 1xx responses unless the proxy itself requested the generation of the
        1xx response", and "a server MUST NOT send a 1xx response to an HTTP/1.0 client". There is no 100 that anybody
        has asked for: mitmproxy answers what expects one. Nor are there heads for HTTP/2 to be made here."""
        if (
            response.status_code != 100
            and self.flow.request.http_version == "HTTP/1.1"
            and self.server_state == self.state_wait_for_response_headers
        ):
            data = response.data
            fields = http.Headers(end_to_end(Headers(response.headers.fields)).fields)
            head = http.Response(b"HTTP/1.1", data.status_code, data.reason, fields, b"", None, 0, 0)
            yield commands.SendData(self.context.client, http1.assemble_response_head(head))

    def handle_protocol_error(
        self, event: http_events.RequestProtocolError | http_events.ResponseProtocolError
    ) -> layer.CommandGenerator[None]:
        """No answer from the origin to what mitmproxy forwards: say so as the cache does (RFC 9209)."""
        if isinstance(event, ConnectionExpired) and self.may_repeat(event):
            yield from self.repeat(event)
            return
        if self.is_unread:
            if isinstance(event, http_events.ResponseProtocolError):
                yield from self.end_early()
                return
            yield SendHttp(event, self.context.server)  # which would wait for the rest
        event.message = brief(event.message)
        if isinstance(event, MalformedTrailers):
            if event.is_request:
                self._cut_by("client")
            if self.client_state == self.state_stream_request_body or self.flow.response is not None:
                given_up = http_events.RequestProtocolError(self.stream_id, event.message, CANCELLED)
                yield SendHttp(given_up, self.context.server)
        response = self.flow.response
        if (
            isinstance(event, http_events.ResponseProtocolError)
            and response is not None
            and self.server_state == self.state_stream_response_body
            and self.is_http1
            and forwarded_heads.ends_with_connection(self.flow.request, response)
        ):  # the end of the connection would be that of the body, and must not look like it
            reset_at_close(client_writer(self.context.client))
        if (
            isinstance(event, http_events.RequestProtocolError)
            or self.flow.response is not None
            or self.flow.request.method == "CONNECT"
            or not self.is_http1
            or self.client_state == self.state_errored
            or self.server_state in (self.state_done, self.state_errored)
            or self.client_broke_off()
        ):
            yield from super().handle_protocol_error(event)
            return
        self.flow.error = flow.Error(event.message)
        self.flow.response = response = self.recorder.unreachable(self.flow, event.message)
        yield http_hooks.HttpErrorHook(self.flow)
        if (yield from self.check_killed(False)):
            return
        client = self.context.client
        complete = self.client_state == self.state_done
        if not complete:  # the rest of an upload is read by nobody
            response.headers["Connection"] = "close"
        content = response.raw_content or b""
        body = content if self.flow.request.method != "HEAD" else b""
        yield SendHttp(http_events.ResponseHeaders(self.stream_id, response, not body), client)
        if body:
            yield SendHttp(http_events.ResponseData(self.stream_id, body), client)
        yield SendHttp(http_events.ResponseEndOfMessage(self.stream_id), client)
        self.server_state = self.state_errored
        self.flow.live = False
        yield DropStream(self.stream_id)
        if not complete:
            yield from self.stop_reading()

    @property
    def is_waiting(self) -> bool:
        """Whether what the client sends is queued: for a hook, or for a connection that is being opened."""
        return self._paused is not None or self._handle_event == self._dialling

    # -- CONNECT ------------------------------------------------------------------------------------------------

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
        stack /= Tunnel(self.context, self.recorder)
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
                self._timer = ConnectTimer(self.context.client, command.connection, self.recorder.origin_timeout)
            yield command

    def _left_while_dialling(self, why: str) -> layer.CommandGenerator[None]:
        """The client has gone. mitmproxy ends what was being opened for it, and nobody is here to hear of that."""
        if self._timer is not None:
            self._timer.end()
        self.recorder.tunnel_opened(self.context.client, f"{self.flow.request.host}:{self.flow.request.port}", why)
        self.flow.error = flow.Error(why)
        self.flow.live = False
        self.client_state = self.server_state = self.state_errored
        self._handle_event = self.state_errored  # type: ignore[method-assign]
        yield http_hooks.HttpErrorHook(self.flow)
        yield DropStream(self.stream_id)

    def _answer_connect(self, error: str | None) -> layer.CommandGenerator[None]:
        client = self.context.client
        self.recorder.tunnel_opened(client, f"{self.flow.request.host}:{self.flow.request.port}", error)
        if error is None:
            self.flow.response = response = http.Response(
                self.flow.request.data.http_version, 200, b"Connection established", http.Headers(), b"", None, 0, 0
            )
            yield http_hooks.HttpConnectedHook(self.flow)
            self._handle_event = self.passthrough  # type: ignore[method-assign]
        else:
            self.flow.response = response = self.recorder.unreachable(self.flow, error)
            yield http_hooks.HttpConnectErrorHook(self.flow)
            self.flow.live = False
        content = response.raw_content
        yield SendHttp(http_events.ResponseHeaders(self.stream_id, response, not content), client)
        if content:
            yield SendHttp(http_events.ResponseData(self.stream_id, content), client)
        if error is not None:
            self.client_state = self.server_state = self.state_errored
            self._handle_event = self.state_errored
            yield DropStream(self.stream_id)
        yield SendHttp(http_events.ResponseEndOfMessage(self.stream_id), client)

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
        if response is None or response.status_code != 101 or self.recorder.upgrades_are_watched():
            yield from super().flow_done()
            return
        self.flow.live = False
        self.child_layer = Relay(self.context, ignore=True)
        self._handle_event = self.passthrough  # type: ignore[method-assign]
        yield from self.child_layer.handle_event(events.Start())
        yield SendHttp(http_events.ResponseEndOfMessage(self.stream_id), self.context.client)


class CacheHttpLayer(ConnectionChoice):
    """mitmproxy's HTTP layer with our streams."""

    def __init__(self, context: Context, mode: HTTPMode, recorder: Recorder) -> None:
        super().__init__(context, mode)
        self.recorder = recorder
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
        client, recorder = self.context.client, self.recorder
        if is_http1(client.alpn):
            refuse, listens = partial(recorder.refused, client), partial(recorder.still_listens, client)
            forward = self.mode is not HTTPMode.transparent
            server = ClientConnection(self.context.fork(), recorder.head_limits, refuse, listens, forward=forward)
            self.connections.setdefault(client, server)
        elif client.alpn == b"h2":
            h2_server = Http2Server(self.context.fork())
            limit_http2(h2_server, recorder.head_limits)
            self.connections.setdefault(client, h2_server)

    def _within_bounds(self, event: events.Event) -> layer.CommandGenerator[None]:
        """Read no more of a client while too much of what it has sent waits."""
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
        if isinstance(server, Http1Server) and server.state == server.wait and len(server.buf) > HELD_MAX:
            return True
        return any(
            isinstance(stream, CacheStream) and stream.held > HELD_MAX and stream.is_waiting
            for stream in self.streams.values()
        )

    def _surviving(self, work: layer.CommandGenerator[None]) -> layer.CommandGenerator[None]:
        """mitmproxy logs what a layer raises, and leaves its connections open and its flows without an end: the client
        would wait for good. It is told by the end of its connection, and other addons by the hook for errors."""
        try:
            yield from work
        except Exception as error:
            self._has_failed = True
            self.recorder.failed(error)
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
            take_over(stack, self.recorder.head_limits, lambda: self.recorder.origin_timeout)
        return super().register_connection(command)

    def get_connection(self, event: GetHttpConnection, *, reuse: bool = True) -> layer.CommandGenerator[None]:
        """mitmproxy remembers for as long as a client is connected that an origin could not be reached, and keeps what
        connections it has. What was wrong may have been put right meanwhile: the origin, or what the operator trusts;
        and what was trusted may be no more."""
        for connection in self.connections:
            if not isinstance(connection, Server):
                continue
            if connection.connected:
                reuse = reuse and not self.recorder.is_outdated(connection)
            else:
                connection.error = None
        for command in super().get_connection(event, reuse=reuse):
            if isinstance(command, commands.OpenConnection):
                timer = ConnectTimer(self.context.client, command.connection, self.recorder.origin_timeout)
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
        stream.recorder = self.recorder
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
                        return nothing()  # RFC 9110 §15.2: never to HTTP/1.0. mitmproxy would, to whoever expects one
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
                event = checked(event, self.recorder.head_limits)
            return self._stream_event(child, event)
        return super().event_to_child(child, event)

    def _not_sent(self, stream: CacheStream, error: Exception) -> layer.CommandGenerator[None]:
        """What was about to leave is not what was meant: the client gets a 502, and the origin nothing."""
        self.recorder.failed(error)
        self._unsent.add(stream.stream_id)
        why = f"proxy_internal_error: {type(error).__name__}"
        return self.event_to_child(stream, http_events.ResponseProtocolError(stream.stream_id, why, BROKEN_OFF))

    def _stream_event(self, stream: CacheStream, event: events.Event) -> layer.CommandGenerator[None]:
        """Where we are alone with a flow, its hooks are ours: called here and now, not through forty addons."""
        if isinstance(event, http_events.RequestData):
            stream.held = stream.held + len(event.data) if stream.is_waiting else 0
        elif isinstance(event, http_events.RequestProtocolError) and stream.is_waiting:
            # mitmproxy hears of it once the stream waits no more. What it waits for may be a slot, or a body.
            self.recorder.stream_gone(stream.flow)
        for command in super().event_to_child(stream, event):
            if isinstance(command, Await):
                self._resume_after(command.work, command)
            elif not isinstance(command, FLOW_HOOKS) or not self._is_direct(stream, command):
                yield command
            elif self.recorder.run_hook(command.name, command.flow):
                del self.command_sources[command]
                yield from self.event_to_child(stream, events.HookCompleted(command))
            else:  # the one hook of ours that may have to wait
                self._resume_after(self.recorder.answer_request(command.flow), command)

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
                self.recorder.failed(error)
            await handler.server_event(events.HookCompleted(command))  # type: ignore[arg-type]

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _is_direct(self, stream: CacheStream, command: StartHook) -> bool:
        """Decided when the request's header has come, for the whole flow."""
        if isinstance(command, http_hooks.HttpRequestHeadersHook):
            stream.direct = self.recorder.is_alone_with(command.flow)
        return stream.direct


def nothing() -> layer.CommandGenerator[None]:
    yield from ()


REST_OF_REQUEST = (http_events.RequestData, http_events.RequestTrailers, http_events.RequestEndOfMessage)
_ERROR_CODES: Any = getattr(http_events, "ErrorCode", None)
CANCELLED: Any = _ERROR_CODES.CANCEL if _ERROR_CODES else 499
FLOW_HOOKS = (
    http_hooks.HttpRequestHeadersHook,
    http_hooks.HttpRequestHook,
    http_hooks.HttpResponseHeadersHook,
    http_hooks.HttpResponseHook,
    http_hooks.HttpErrorHook,
)


def with_cache(chosen: layer.Layer, recorder: Recorder) -> layer.Layer:
    """The stack that was chosen, with our HTTP layer in place of mitmproxy's, wherever in it that was put."""
    parent: Any = None
    current: Any = chosen
    while current is not None and type(current) is not HttpLayer:
        parent, current = current, getattr(current, "child_layer", None)
    if current is None:
        return chosen
    new = replacement(current, recorder)
    if parent is None:
        return new
    parent.child_layer = new
    return chosen


def replacement(old: HttpLayer, recorder: Recorder) -> CacheHttpLayer:
    """Our layer in the place of ``old`` in its context."""
    new = CacheHttpLayer(old.context, old.mode, recorder)
    recorder.layer_chosen(old.context.client, new)
    layers = old.context.layers
    layers.remove(new)
    layers[layers.index(old)] = new
    return new
