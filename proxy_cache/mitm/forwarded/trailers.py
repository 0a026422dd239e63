"""Trailers of HTTP/2 and 3, which mitmproxy passes on unseen. (Over HTTP/1 none are passed on.)"""

from __future__ import annotations

from typing import Final

from mitmproxy import http
from mitmproxy.proxy.layers.http._events import (
    HttpEvent,
    RequestTrailers,
    ResponseProtocolError,
    ResponseTrailers,
)

from ...semantics.headers import Headers, end_to_end
from ...semantics.limits import HeadLimits
from ...wire.head_checks import why_malformed
from ..compat import BAD_REQUEST, BAD_RESPONSE

TRAILERS: Final = (RequestTrailers, ResponseTrailers)
_NEVER: Final = ("content-length", "host", "trailer")
"""RFC 9110 §6.5.1: no trailers, since they are needed before a body, or speak of the message's framing and routing."""


class MalformedTrailers(ResponseProtocolError):
    """There will be no whole message, whichever side they came from: the client is told, and the origin as well."""

    is_request = False


def checked(event: RequestTrailers | ResponseTrailers, limits: HeadLimits) -> HttpEvent:
    """Trailers as they may go on, or :class:`MalformedTrailers`: the same rules as for a head (RFC 9113 §8.2.1; §8.1:
    they "MUST NOT include pseudo-header fields")."""
    fields = event.trailers.fields
    is_request = isinstance(event, RequestTrailers)
    why, error = why_malformed(fields), "http_request_error" if is_request else "http_protocol_error"
    if why is None and (why := limits.why_too_large(fields)) is not None and not is_request:
        error = "http_response_trailer_section_size"
    if why is not None:
        code = BAD_REQUEST if is_request else BAD_RESPONSE
        malformed = MalformedTrailers(event.stream_id, f"{error}: trailers: {why}", code)
        malformed.is_request = is_request
        return malformed
    kept = end_to_end(Headers(fields)).without(*_NEVER)
    event.trailers = http.Headers([(name.lower(), value) for name, value in kept.fields])
    return event
