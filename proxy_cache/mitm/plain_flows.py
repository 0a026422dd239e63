"""The proxy without layers of its own (``compat.LAYERS`` is off): by mitmproxy's hooks alone.

Whatever has to be done to a flow is done to its request and response, where other addons see it. Bodies of answers are
held until they are complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mitmproxy import http
from mitmproxy.proxy import mode_specs

from ..caching.headers import NAME
from ..semantics.limits import HeadLimits
from ..semantics.status_fields import cache_status
from ..wire.head_checks import checked_request
from .compat import find
from .flows import host_is_the_clients
from .forwarded import heads
from .forwarded.framing import settle_framing
from .forwarded.requests import check_binary

if TYPE_CHECKING:
    from mitmproxy.proxy.layer import NextLayer


def check_request(request: http.Request, limits: HeadLimits) -> None:
    """Refuse what others would read otherwise, as our own layers do when a head is read; here mitmproxy has read it.
    Raises :class:`RefusedHead`."""
    if request.is_http2 or request.is_http3:
        check_binary(request, limits, names_target=False)
        return
    first = b"%b %b %b" % (request.data.method, request.data.path or b"/", request.data.http_version)
    checked_request([first, *(b"%b: %b" % field for field in request.headers.fields)], limits)


def clean_request(flow: http.HTTPFlow, via: str, *, has_body: bool) -> None:
    """Make the request one that may leave (RFC 9110 §7.6): without hop-by-hop fields, with ``Via`` and the Host of its
    target. Raises :class:`wire.outgoing.Mismatch` if another one than the one that is meant would leave."""
    request = flow.request
    kept = request.host_header if host_is_the_clients(flow) else None
    to_parent = isinstance(flow.client_conn.proxy_mode, mode_specs.UpstreamMode)
    binary = bool(request.is_http2 or request.is_http3)
    cleaned = heads.for_origin(
        request, via, to_parent=to_parent, binary=False,
        host=kept.encode("utf-8", "surrogateescape") if kept is not None else None, has_body=has_body,
    )  # fmt: skip
    if binary:  # mitmproxy says of it what HTTP/1 has to be told, once it knows that it is HTTP/1
        cleaned.headers.pop("transfer-encoding", None)
    request = request.copy()  # the connection still goes by the original
    request.headers = cleaned.headers
    request.stream = flow.request.stream
    flow.request = request


def clean_response(flow: http.HTTPFlow, via: str, reason: str) -> None:
    """The same for an origin's response on its way to the client. Raises :class:`RefusedHead` if nobody can tell where
    it ends."""
    assert flow.response is not None
    stream = flow.response.stream
    fwd = cache_status(NAME, fwd=reason, fwd_status=flow.response.status_code)
    response = flow.response.copy()
    response.headers = heads.for_client(response, flow.request, via, fwd).headers
    settle_framing(response)
    response.stream = stream
    flow.response = response


_TCP: Any = find("mitmproxy.proxy.layers.tcp:TCPLayer") or find("mitmproxy.proxy.layers:TCPLayer")
can_relay = _TCP is not None


def relay(data: NextLayer) -> None:
    """Relay what follows a CONNECT as it is. mitmproxy would look into it."""
    try:
        data.layer = _TCP(data.context, ignore=True)
    except TypeError:
        data.layer = _TCP(data.context)
