"""``Cache-Status`` (RFC 9211) and ``Proxy-Status`` (RFC 9209), as structured fields (RFC 8941)."""

from __future__ import annotations

import re

PROXY_ERRORS = {
    "dns_timeout": 504,
    "dns_error": 502,
    "destination_not_found": 500,
    "destination_unavailable": 503,
    "destination_ip_prohibited": 502,
    "destination_ip_unroutable": 502,
    "connection_refused": 502,
    "connection_terminated": 502,
    "connection_timeout": 504,
    "connection_read_timeout": 504,
    "connection_write_timeout": 504,
    "connection_limit_reached": 503,
    "tls_protocol_error": 502,
    "tls_certificate_error": 502,
    "tls_alert_received": 502,
    "http_request_error": 502,
    "http_request_denied": 403,
    "http_response_incomplete": 502,
    "http_response_timeout": 504,
    "http_protocol_error": 502,
    "proxy_internal_response": 502,
    "proxy_internal_error": 500,
    "proxy_configuration_error": 500,
    "proxy_loop_detected": 502,
}
"""Error types and their recommended statuses (RFC 9209 §2.3)."""

_TOKEN = re.compile(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*")


def cache_status(
    name: str,
    *,
    hit: bool = False,
    fwd: str | None = None,
    fwd_status: int | None = None,
    ttl: int | None = None,
    stored: bool = False,
    collapsed: bool = False,
    detail: str | None = None,
) -> str:
    """One member of Cache-Status. ``hit`` and ``fwd`` exclude each other (RFC 9211 §2.2)."""
    value = name
    if hit:
        value += "; hit"
    elif fwd:
        value += f"; fwd={fwd}"
        if fwd_status is not None:
            value += f"; fwd-status={fwd_status}"
        if stored:
            value += "; stored"
        if collapsed:
            value += "; collapsed"
    if ttl is not None:
        value += f"; ttl={ttl}"
    if detail is not None:
        value += f"; detail={_item(detail)}"
    return value


def proxy_status(
    name: str,
    error: str,
    *,
    detail: str | None = None,
    received_status: int | None = None,
    next_hop: str | None = None,
) -> str:
    """One member of Proxy-Status."""
    value = f"{name}; error={error}"
    if received_status is not None:
        value += f"; received-status={received_status}"
    if next_hop is not None:
        value += f"; next-hop={_item(next_hop)}"
    if detail is not None:
        value += f"; details={_string(detail)}"
    return value


def _item(text: str) -> str:
    return text if _TOKEN.fullmatch(text) else _string(text)


def _string(text: str) -> str:
    """An sf-string: printable ASCII, with quotes and backslashes escaped."""
    ascii_text = "".join(c if " " <= c <= "~" else "?" for c in text)
    return '"' + ascii_text.replace("\\", "\\\\").replace('"', '\\"') + '"'
