"""Whether a client's connection goes on, as it is told (RFC 9112 §9)."""

from __future__ import annotations

from mitmproxy import http
from mitmproxy.net.http import http1

from ...semantics.headers import connection_options
from .heads import is_chunked


def with_persistence(request: http.Request, response: http.Response) -> http.Response:
    """Tell the client of its connection: that it ends with this response (RFC 9112 §9.6), or that one which spoke
    HTTP/1.0 may go on (§9.3). mitmproxy decides it, by the same functions and by what the response says, and adds
    nothing to that."""
    if response.status_code < 200 or request.method == "CONNECT" or not request.http_version.startswith("HTTP/1"):
        return response
    if request.is_http10 and is_chunked(response):
        # RFC 9112 §6.1: "A server MUST NOT send a response containing Transfer-Encoding unless the corresponding
        # request indicates HTTP/1.1". Without it mitmproxy makes no chunks, and closes the connection after the body.
        response = response.copy()
        del response.headers["Transfer-Encoding"]
    if "connection" in response.headers:
        return response
    try:
        to_the_end = http1.expected_http_body_size(request, response) == -1
    except ValueError:
        to_the_end = False
    ends = http1.connection_close(request.http_version, request.headers)  # it knows no options but in small letters
    if to_the_end or ends or "close" in connection_options(request.headers.get_all("connection")):
        told = "close"
    elif request.http_version == "HTTP/1.0":
        told = "keep-alive"
    else:
        return response
    response = response.copy()
    response.headers["Connection"] = told
    return response
