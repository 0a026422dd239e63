"""Between mitmproxy's flows and the cache's terms: from a request to its target, from an answer to a response."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable

from mitmproxy import ctx, http
from mitmproxy.connection import Client
from mitmproxy.proxy import mode_specs

from ..caching.answers import Answer
from ..caching.headers import Heads
from ..downstream.body_sender import BodySender
from ..downstream.respond import framed, has_content, send_interim
from ..semantics.client_names import user_name
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.status_fields import PROXY_ERRORS
from ..wire.requests import repeatable
from .compat import client_writer
from .metadata import FORWARD_REASON, HAS_BODY, USER


def means_its_target(flow: http.HTTPFlow) -> bool:
    """Whether the origin is asked for what the key says.

    Where the client's Host goes on, it chooses the resource and is no part of the key: a request with another name than
    the target's is not cached, nor does the answer to it say anything about stored responses. A path that is no UTF-8
    has no key.
    """
    if host_is_the_clients(flow) and flow.request.host_header != target_of(flow).authority:
        return False
    return flow.request.data.path.isascii() or _is_text(flow.request.data.path)


def _is_text(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True


def host_is_the_clients(flow: http.HTTPFlow) -> bool:
    """Whether the Host that the client has written goes on: in reverse mode if ``keep_host_header`` says so, and where
    mitmproxy has nothing but an address (its modes ``transparent``, ``socks5`` and their like)."""
    mode = flow.client_conn.proxy_mode
    if isinstance(mode, mode_specs.ReverseMode):
        return bool(ctx.options.keep_host_header)
    return not isinstance(mode, (mode_specs.RegularMode, mode_specs.UpstreamMode))


def method_of(flow: http.HTTPFlow) -> str:
    """The method as it came: mitmproxy shows it in capital letters, whatever it is."""
    return flow.request.data.method.decode("ascii", "replace")


def has_body(flow: http.HTTPFlow) -> bool:
    """Whether a body follows the request's header (RFC 9112 §6.3)."""
    headers = flow.request.headers
    return (
        "transfer-encoding" in headers or headers.get("content-length", "0").strip() != "0" or HAS_BODY in flow.metadata
    )


def target_of(flow: http.HTTPFlow) -> Target:
    """The request target. Never the Host header: a client may write anything into that."""
    request = flow.request
    return Target.of(request.scheme, request.host, request.port, request.path)


def headers_for_origin(flow: http.HTTPFlow, via: str) -> Headers:
    """The request's header as a fill repeats it."""
    return repeatable(Headers(flow.request.headers.fields)).add("Via", f"1.1 {via}")


def address(client: Client) -> str:
    """A client's address without the port."""
    return str(client.peername[0]) if client.peername else "unknown"


def client_of(flow: http.HTTPFlow) -> str:
    """The client of a request, for fairness and the log: the user that it has proven to be, or its address."""
    found = flow.metadata.get(USER)
    return user_name(str(found[0])) if found else address(flow.client_conn)


def response_for(flow: http.HTTPFlow, answer: Answer, *, last: bool) -> http.Response:
    """The answer as a response: bytes as content, everything else as a :class:`BodySender` in ``stream``.

    ``last``: the connection is closed after it (RFC 9112 §9.6).
    """
    request = flow.request
    return _as_response(answer, http11=request.http_version == "HTTP/1.1", head=request.method == "HEAD", last=last)


def _as_response(answer: Answer, *, http11: bool, head: bool, last: bool) -> http.Response:
    fields, chunked, _ = framed(answer, http11=http11, head=head)
    headers = http.Headers(fields.fields)
    if last:
        headers["Connection"] = "close"
    content = answer.body if head and isinstance(answer.body, bytes) else answer.content()
    response = http.Response(
        b"HTTP/1.1", answer.status, answer.reason_phrase.encode("latin-1", "replace"), headers, content, None,
        time.time(), None,
    )  # fmt: skip
    if not isinstance(answer.body, bytes):
        response.stream = BodySender(answer.body, answer.length, chunked=chunked)
    return response


KILLED = "Connection killed: "
"""mitmproxy's words before those of a ``server_connect`` hook that has refused."""


def error_type(message: str) -> str:
    """The proxy error type (RFC 9209 §2.3) for a message of mitmproxy's, or of our ends of its connections."""
    named = message.removeprefix(KILLED).partition(": ")[0]
    if named in PROXY_ERRORS:
        return named
    message = message.lower()
    if message.startswith(f"[errno {socket.EAI_AGAIN}] no answer for ") or "too many names are" in message:
        return "dns_timeout"
    if "certificate verify failed" in message:
        return "tls_certificate_error"
    if "agree on a tls version" in message or (
        "alert" in message and message.startswith(("openssl", "sslv3 ", "tlsv1 ", "ssl/tls "))
    ):
        return "tls_alert_received"
    if "openssl" in message or "does not speak tls" in message:
        return "tls_protocol_error"
    if "refused" in message or f"[errno {errno.ECONNREFUSED}]" in message:
        return "connection_refused"
    if "getaddrinfo" in message or "name or service" in message or "name resolution" in message:
        return "dns_error"
    if "cannot parse" in message or "protocol error" in message:
        return "http_protocol_error"
    if "closed" in message or "disconnected" in message or "reset" in message:
        return "connection_terminated"
    return "destination_unavailable"


def refusal(heads: Heads, status: int, error: str, detail: str, fwd: str = "bypass") -> http.Response:
    """An error of our own where the cache has no answer to give. ``error`` is a proxy error type (RFC 9209 §2.3)."""
    unavailable = status == 503
    answer = heads.error(status, error, fwd, detail=detail, retry_after=1 if unavailable else None)
    return _as_response(answer, http11=True, head=False, last=unavailable)


def interim_sender(client: Client, http_version: str) -> Callable[[int, Headers], None] | None:
    """Takes a 1xx to a client while its answer is waited for; ``None`` if it can't be told.

    Not to HTTP/1.0 (RFC 9110 §15.2), nor through TLS or HTTP/2, where the bytes are not ours to write.
    """
    if http_version != "HTTP/1.1" or client.tls:
        return None

    def send(status: int, headers: Headers) -> None:
        writer = client_writer(client)
        if isinstance(writer, asyncio.StreamWriter):
            send_interim(writer.transport, status, headers)

    return send


def forward_reason(flow: http.HTTPFlow) -> str:
    """Why mitmproxy's own connection is used for this request, as Cache-Status has it (RFC 9211 §2.2)."""
    return str(flow.metadata.get(FORWARD_REASON, "bypass" if flow.request.method in ("GET", "HEAD") else "method"))


def is_bodiless(flow: http.HTTPFlow) -> bool:
    """Whether the response has no content, whatever it says (RFC 9112 §6.3)."""
    return flow.request.method == "HEAD" or (flow.response is not None and not has_content(flow.response.status_code))
