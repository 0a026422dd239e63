"""Heads of forwarded messages, as they leave: copies, so that other addons see the originals.

Without hop-by-hop fields and with ``Via`` (RFC 9110 §7.6), for the next hop's version and ours and not the last one's
(RFC 9112 §2.3), and with what a client has to know of its connection (RFC 9112 §9).
"""

from __future__ import annotations

import time

from mitmproxy import http

from ...semantics.dates import format_http_date
from ...semantics.headers import Headers, end_to_end
from ...semantics.keys import Target
from ...wire.head_checks import why_malformed_request
from ...wire.outgoing import Mismatch, authority_of, path_of, request_head
from ..max_forwards import hops_left


def for_origin(
    request: http.Request, via: str, *, to_parent: bool, binary: bool, host: bytes | None = None, has_body: bool = False
) -> http.Request:
    """A request as it goes on, to an origin or a parent proxy: method and fields as they came, all else from the target
    that is the key in the cache. Raises :class:`Mismatch` if another request would leave.

    ``to_parent``: to a parent proxy. ``binary``: over HTTP/2 or 3. ``host``: a Host that is the client's choice, where
    that is wanted. ``has_body``: of a request that came over HTTP/2, where no field need say so.
    """
    target = Target.of(request.scheme, request.host, request.port, request.path)
    authority = authority_of(target) if host is None else host
    path = path_of(target)
    headers = _forwarded(request.headers, via, "upgrade" in request.headers)
    if to_parent and "proxy-authorization" in request.headers:
        headers["Proxy-Authorization"] = request.headers["proxy-authorization"]
    hops = hops_left(request)
    if hops:
        headers["Max-Forwards"] = str(hops - 1)
    data = request.data
    came_binary = _is_binary(request)
    if binary:
        headers.pop("host", None)
        form = path
    else:
        _set_host(headers, authority)
        if came_binary:
            _as_http1(headers, has_body)
        # To a parent in absolute form (RFC 9112 §3.2.2), through whatever tunnel in origin form.
        absolute = to_parent and target.scheme == "http"
        form = b"http://" + authority + (path if path != b"*" else b"") if absolute else path
        request_head(data.method, form, authority, bytes(headers), len(headers.fields))  # raises
    if binary and (why := why_malformed_request(data.method, target.scheme.encode(), authority, path, headers.fields)):
        raise Mismatch(why)
    return http.Request(
        data.host, data.port, data.method, target.scheme.encode(),
        authority if binary or form is not path else b"",
        b"" if form is not path and path == b"*" else path,
        data.http_version if binary and came_binary else b"HTTP/1.1", headers,
        data.content, data.trailers, data.timestamp_start, data.timestamp_end,
    )  # fmt: skip


def _as_http1(headers: http.Headers, has_body: bool) -> None:
    """Put into fields of HTTP/1 what HTTP/2 says otherwise, or in more of them."""
    cookies = headers.get_all("cookie")
    if len(cookies) > 1:  # RFC 9113 §8.2.3
        headers["Cookie"] = "; ".join(cookies)
    if has_body and "content-length" not in headers:
        # Without it the origin would read the body as its next request.
        headers["Transfer-Encoding"] = "chunked"


def for_client(response: http.Response, request: http.Request, via: str, fwd: str) -> http.Response:
    """An origin's response as it goes on to the client. ``fwd``: what Cache-Status is to say."""
    final = response.status_code >= 200
    headers = _forwarded(response.headers, via, not final or "upgrade" in request.headers)
    if final:
        headers.add("Cache-Status", fwd)
        if "date" not in headers:
            # RFC 9110 §6.6.1: "A recipient with a clock that receives a response message without a Date header field
            # MUST record the time it was received and append a corresponding Date header field".
            headers["Date"] = format_http_date(response.timestamp_start or time.time())
    data = response.data
    version = data.http_version if _is_binary(response) else b"HTTP/1.1"
    return http.Response(
        version, data.status_code, data.reason, headers, data.content, data.trailers,
        data.timestamp_start, data.timestamp_end,
    )  # fmt: skip


def _forwarded(headers: http.Headers, via: str, upgrade: bool) -> http.Headers:
    """End-to-end fields, the framing of the body as it came, and ``Via``."""
    fields = http.Headers(end_to_end(Headers(headers.fields)).fields)
    fields.pop("http2-settings", None)
    if upgrade and "upgrade" in headers and (protocols := _without_h2c(headers["upgrade"])):
        fields["Connection"] = "Upgrade"
        fields["Upgrade"] = protocols
    if "transfer-encoding" in headers:
        coding = headers["transfer-encoding"]
        # RFC 9112 §7: names of codings are case-insensitive. Not everybody knows.
        fields["Transfer-Encoding"] = "chunked" if coding.strip().lower() == "chunked" else coding
    fields.add("Via", f"1.1 {via}")
    return fields


def _without_h2c(protocols: str) -> str:
    """The protocols of an Upgrade without HTTP/2 over plain TCP, in whatever spelling: requests behind that would pass
    unseen. (mitmproxy takes it out if it is spelt in one way and alone.) RFC 9113 §3.1 has obsoleted it."""
    names = [name.strip() for name in protocols.split(",")]
    return ", ".join(name for name in names if name and name.lower().partition("/")[0] != "h2c")


def _set_host(headers: http.Headers, authority: bytes) -> None:
    """RFC 9112 §3.2.2: "When a proxy receives a request with an absolute-form of request-target, the proxy MUST ignore
    the received Host header field (if any) and instead replace it with the host information of the request-target"."""
    if "host" in headers:
        headers["Host"] = authority.decode(
            "utf-8", "surrogateescape"
        )  # in the place of the first one; there are no others then
    else:
        headers.insert(0, b"Host", authority)


def is_chunked(response: http.Response) -> bool:
    """Whether it comes in chunks and no other transfer coding. (No others are asked for: TE is not passed on.)"""
    coding: str = response.headers.get("transfer-encoding", "")
    return coding.strip().lower() == "chunked"


def ends_with_connection(request: http.Request, response: http.Response) -> bool:
    """Whether a client of HTTP/1 knows the end of this response's body by the end of the connection alone."""
    chunked = is_chunked(response) and not request.is_http10
    return not chunked and "content-length" not in response.headers


def _is_binary(message: http.Message) -> bool:
    """HTTP/2 or 3, which mitmproxy translates by itself."""
    return bool(message.is_http2 or message.is_http3)
