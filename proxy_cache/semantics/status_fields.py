"""Cache-Status (RFC 9211) and Proxy-Status (RFC 9209): fields that explain a response."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from .texts import brief

# RFC 8941 §3.3.4 and §3.3.3
_SF_TOKEN: Final = re.compile(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*+")
_NOT_IN_STRING: Final = re.compile(r"[^\x20-\x7e]")

PROXY_ERRORS: Final[Mapping[str, int]] = MappingProxyType(
    {
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
        "http_request_error": 400,
        "http_request_denied": 403,
        "http_response_incomplete": 502,
        "http_response_header_section_size": 502,
        "http_response_header_size": 502,
        "http_response_body_size": 502,
        "http_response_trailer_section_size": 502,
        "http_response_trailer_size": 502,
        "http_response_transfer_coding": 502,
        "http_response_content_coding": 502,
        "http_response_timeout": 504,
        "http_upgrade_failed": 502,
        "http_protocol_error": 502,
        "proxy_internal_error": 500,
        "proxy_configuration_error": 500,
        "proxy_loop_detected": 502,
    }
)
"""The registered error types and the status recommended with each (RFC 9209 §2.3)."""


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
    """One member of Cache-Status. On a hit, ``fwd`` and its companions are left out (§2.2)."""
    value = _remembered(name)
    if hit:
        value += "; hit"
    elif fwd is not None:
        value += f"; fwd={_remembered(fwd)}"
        if fwd_status is not None:
            value += f"; fwd-status={fwd_status}"
        if stored:
            value += "; stored"
        if collapsed:
            value += "; collapsed"
    if ttl is not None:
        value += f"; ttl={ttl}"
    if detail is not None:
        value += f"; detail={_item(brief(detail))}"
    return value


def proxy_status(
    name: str,
    error: str,
    *,
    detail: str | None = None,
    received_status: int | None = None,
    next_hop: str | None = None,
) -> str:
    """One member of Proxy-Status. ``error`` is a key of :data:`PROXY_ERRORS`."""
    value = f"{_item(name)}; error={_item(error)}"
    if next_hop is not None:
        value += f"; next-hop={_item(next_hop)}"
    if received_status is not None:
        value += f"; received-status={received_status}"
    if detail is not None:
        value += f"; details={_string(brief(detail))}"  # RFC 9209 §2.1.5: a String, also where a Token would do
    return value


def _item(text: str) -> str:
    """A Token if possible, else a String."""
    return _remembered(text) if len(text) <= 64 else _token_or_string(text)


def _token_or_string(text: str) -> str:
    return text if _SF_TOKEN.fullmatch(text) else _string(text)


_remembered = lru_cache(maxsize=256)(_token_or_string)


def _string(text: str) -> str:
    escaped = _NOT_IN_STRING.sub("?", text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
