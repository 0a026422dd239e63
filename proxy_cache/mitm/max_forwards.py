"""Max-Forwards (RFC 9110 §7.6.2): how far an OPTIONS or TRACE may go, and the answer where it may go no further."""

from __future__ import annotations

import time
from collections.abc import Set

from mitmproxy import http
from mitmproxy.proxy.mode_specs import ReverseMode

from ..semantics import methods
from ..semantics.credentials import is_credential
from ..semantics.dates import format_http_date
from ..semantics.keys import Target

ALLOW = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, CONNECT"


def hops_left(request: http.Request) -> int | None:
    """How many more may forward the request, see :func:`~..semantics.methods.hops_left`."""
    return methods.hops_left(request.method, request.headers.get("max-forwards", ""))


def final_answer(flow: http.HTTPFlow, via: str, credentials: Set[str] = frozenset()) -> http.Response:
    """RFC 9110 §7.6.2: "If the received value is zero (0), the intermediary MUST NOT forward the request; instead, the
    intermediary MUST respond as the final recipient of the request"."""
    fields = {"Date": format_http_date(time.time()), "Via": f"1.1 {via}"}
    if flow.request.method == "OPTIONS":
        return http.Response.make(200, b"", {**fields, "Allow": ALLOW, "Content-Length": "0"})
    fields |= {"Content-Type": "message/http", "Cache-Control": "no-store"}
    return http.Response.make(200, _head_of(flow, credentials), fields)


def _head_of(flow: http.HTTPFlow, credentials: Set[str]) -> bytes:
    """The request as it was received, as far as mitmproxy has kept that."""
    request = flow.request
    target = request.path
    if not isinstance(flow.client_conn.proxy_mode, ReverseMode):
        target = Target.of(request.scheme, request.host, request.port, target).url
    lines = [f"{request.method} {target} {request.http_version}".encode("utf-8", "surrogateescape")]
    lines += [b"%b: %b" % field for field in request.headers.fields if not _is_sensitive(field[0], credentials)]
    return b"\r\n".join([*lines, b"", b""])


def _is_sensitive(name: bytes, credentials: Set[str]) -> bool:
    """RFC 9110 §9.3.8: "A client MUST NOT generate fields in a TRACE request containing sensitive data", and "The final
    recipient of the request SHOULD exclude any request fields that are likely to contain sensitive data"."""
    return is_credential(name.lower().decode("latin-1"), credentials)
