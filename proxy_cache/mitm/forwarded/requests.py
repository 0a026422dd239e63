"""A client's request over HTTP/1 as an object of mitmproxy's, with the target that :mod:`semantics.targets` reads.

mitmproxy's own reader decodes ``xn--`` names, refuses ``http://host?query``, and, before 12, ``HTTP://``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from mitmproxy import http

from ...semantics import targets
from ...semantics.limits import HeadLimits
from ...wire.head_checks import RefusedHead, why_malformed_request


def request_of(lines: Sequence[bytes], *, forward: bool, scheme: str) -> http.Request:
    """``lines``: a head that :func:`wire.head_checks.checked_request` has let through. ``forward``: whether the client
    says where the request goes; if not, mitmproxy knows, and only the path counts. ``scheme``: of the connection.
    Raises :class:`RefusedHead` for a target that names nothing."""
    method, text, version = lines[0].split(b" ")
    fields = []
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        fields.append((name, value.strip(b" \t")))
    headers = http.Headers(fields)
    host, port, scheme_of, authority, path = "", 0, b"", b"", text
    try:
        # 8 bits are passed on where a path has them; a host has none.
        target = text.decode("latin-1")
        if method == b"CONNECT":
            host, port = targets.of_connect(target)
            authority, path = (f"[{host}]" if ":" in host else host).encode() + b":%d" % port, b""
        elif forward or not _is_path(method, text):
            found = targets.of_request(method.decode(), target, headers.get("host", ""), scheme)
            host, port, scheme_of = found.host, found.port, found.scheme.encode()
            path = found.path.encode("latin-1")
            if not _is_path(method, text):
                authority = found.authority.encode()
    except targets.TargetError as error:
        raise RefusedHead(400, "http_request_error", str(error)) from error
    return http.Request(
        host, port, method, scheme_of, authority, path, version, headers, None, None, time.time(), None,
    )  # fmt: skip


def with_brackets(request: http.Request) -> None:
    """A CONNECT that mitmproxy sends to a parent: it writes an IPv6 address as it does a name."""
    if request.host.count(":") > 1:
        request.authority = authority = f"[{request.host}]:{request.port}"
        if "host" in request.headers:
            request.headers["Host"] = authority


def check_binary(request: http.Request, limits: HeadLimits, *, names_target: bool) -> None:
    """Look at a request that came over HTTP/2 or 3 as :func:`wire.head_checks.checked_request` does at others.
    ``names_target``: whether the client says where it goes. Raises :class:`RefusedHead`."""
    data, fields = request.data, request.headers.fields
    why = why_malformed_request(data.method, data.scheme, data.authority, data.path, fields)
    if why is None and names_target:
        why = _why_no_target(request)
    if why is not None:
        raise RefusedHead(400, "http_request_error", why)
    if (why := limits.why_too_large(fields, len(data.path) + len(data.authority))) is not None:
        raise RefusedHead(431, "http_request_error", why)


def _why_no_target(request: http.Request) -> str | None:
    """Read its target in the same way (RFC 9113 §8.3.1); what is wrong with it."""
    default = None if request.method == "CONNECT" else 443 if request.scheme == "https" else 80
    text = request.data.authority or request.data.headers.get("host", "").encode("latin-1", "replace")
    try:
        request.data.host, request.data.port = targets.address(text.decode("latin-1"), default)
    except targets.TargetError as error:
        return str(error)
    return None


def _is_path(method: bytes, text: bytes) -> bool:
    """Whether the target is in origin or asterisk form (RFC 9112 §3.2.1, §3.2.4)."""
    return text.startswith(b"/") or (text == b"*" and method == b"OPTIONS")
