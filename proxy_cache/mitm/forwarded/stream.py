"""Requests that mitmproxy forwards: clean heads both ways, and what their clients are told when it goes wrong.

mitmproxy's flow objects stay untouched; the copies that leave are without hop-by-hop fields and with ``Via`` (RFC 9110
§7.6).
"""

from __future__ import annotations

from mitmproxy import flow, http
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import DropStream, HTTPMode, SendHttp
from mitmproxy.proxy.layers.http import _events as http_events
from mitmproxy.proxy.layers.http import _hooks as http_hooks

from ...caching.headers import NAME
from ...downstream.body_sender import reset_at_close
from ...downstream.respond import interim_head
from ...semantics.headers import Headers
from ...semantics.status_fields import cache_status
from ...semantics.texts import brief
from ...wire.head_checks import RefusedHead, why_malformed_response
from ..compat import BROKEN_OFF, CANCELLED, client_writer
from ..connect import TunnellingStream
from ..flows import forward_reason, host_is_the_clients
from ..metadata import HAS_BODY
from . import heads
from .early import is_http1
from .requests import check_binary
from .sent import ConnectionExpired
from .trailers import MalformedTrailers


class ForwardingStream(TunnellingStream):
    """A request on its way to its origin, and the response on its way back."""

    has_body = False
    """Whether the request has a body, which HTTP/2 says without a field."""

    def outgoing_request(self, request: http.Request) -> http.Request:
        """The copy of ``request`` that leaves. Raises if it would not be the one that is meant."""
        kept = request.host_header if host_is_the_clients(self.flow) else None
        return heads.for_origin(
            request,
            self.flows.app.via,
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
        """Requests and responses of HTTP/1 have been checked, line by line, where they were read."""
        if request and not self.is_http1:
            names_target = self.mode is not HTTPMode.transparent
            try:
                check_binary(self.flow.request, self.flows.app.head_limits, names_target=names_target)
            except RefusedHead as refused:
                yield from self._refuse(refused)
                return True
            if self.has_body and "content-length" not in self.flow.request.headers:
                self.flow.metadata[HAS_BODY] = True
        elif not request and not is_http1(self.context.server.alpn):
            assert self.flow.response is not None
            fields = self.flow.response.headers.fields
            why = why_malformed_response(self.flow.response.status_code, fields)
            error = "http_protocol_error" if why else "http_response_header_section_size"
            why = why or self.flows.app.head_limits.why_too_large(fields)
            if why is not None:
                self.flow.response = None
                yield SendHttp(http_events.RequestProtocolError(self.stream_id, why, CANCELLED), self.context.server)
                yield from self.handle_protocol_error(
                    http_events.ResponseProtocolError(self.stream_id, f"{error}: {why}", BROKEN_OFF)
                )
                return True
        return (yield from super().check_invalid(request))

    def _refuse(self, refused: RefusedHead) -> layer.CommandGenerator[None]:
        """Answer a request that no hook has seen, over HTTP/2."""
        response = self.flows.refused(self.context.client, refused.status, refused.error, refused.detail)
        self.flow.live = False
        self.client_state = self.server_state = self.state_errored
        yield from self.send_own(response)
        yield DropStream(self.stream_id)

    def outgoing_response(self, response: http.Response) -> http.Response:
        status = response.status_code
        fwd = cache_status(NAME, fwd=forward_reason(self.flow), fwd_status=status) if status >= 200 else ""
        return heads.for_client(response, self.flow.request, self.flows.app.via, fwd)

    def pass_interim(self, response: http.Response) -> layer.CommandGenerator[None]:
        """RFC 9110 §15.2: "A proxy MUST forward 1xx responses unless the proxy itself requested the generation of the
        1xx response", and "a server MUST NOT send a 1xx response to an HTTP/1.0 client". There is no 100 that anybody
        has asked for: mitmproxy answers what expects one. Nor are there heads for HTTP/2 to be made here."""
        if (
            response.status_code != 100
            and self.flow.request.http_version == "HTTP/1.1"
            and self.server_state == self.state_wait_for_response_headers
        ):
            head = interim_head(response.status_code, response.reason, Headers(response.headers.fields))
            yield commands.SendData(self.context.client, head)

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
            and heads.ends_with_connection(self.flow.request, response)
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
        self.flow.response = response = self.flows.unreachable(self.flow, event.message)
        yield http_hooks.HttpErrorHook(self.flow)
        if (yield from self.check_killed(False)):
            return
        complete = self.client_state == self.state_done
        if not complete:  # the rest of an upload is read by nobody
            response.headers["Connection"] = "close"
        yield from self.send_own(response)
        self.server_state = self.state_errored
        self.flow.live = False
        yield DropStream(self.stream_id)
        if not complete:
            yield from self.stop_reading()
