"""Parses request targets, for all kinds of requests (RFC 3986, RFC 9110 §4, RFC 9112 §3.2).

Hosts are lower-cased and otherwise unchanged: DNS and Host use ``xn--`` names, and decoding and encoding one can yield
another. Invalid targets are refused, never repaired (RFC 9112 §3.2: a recipient "SHOULD NOT attempt to autocorrect and
then process the request").
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final, TypeAlias

from .keys import Target

AUTHORITY_MAX: Final = 300
"""Characters of a host with its port. (A name has at most 253, RFC 1035 §2.3.4.)"""
_LABEL_MAX: Final = 63
_NAME_MAX: Final = 253
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_ABSOLUTE: Final = re.compile(r"(https?)://([^/?#]*+)([^#]*+)", re.IGNORECASE)
# The part of RFC 3986 §3.2.2 that can be looked up. (Percent-encoding would be a second spelling.)
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]++\]|[0-9A-Za-z._-]++)(?::([0-9]*+))?+")
_HOST_FIELD: Final = re.compile(
    r"(?:\[[0-9A-Za-z:._~!$&'()*+,;=-]*+\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*+)(?::[0-9]*+)?+"
)

Address: TypeAlias = tuple[str, int]
"""Host (lower case, an IPv6 address without its brackets) and port."""


class TargetError(ValueError):
    """An invalid target. The message is for the client."""


def absolute(text: str, method: str = "GET") -> Target:
    """The target of a request to a forward proxy in absolute form (RFC 9112 §3.2.2). Raises :class:`TargetError`."""
    found = _ABSOLUTE.match(text)
    if found is None:
        raise TargetError("the target is no http or https URL")
    scheme, authority, path = found[1].lower(), found[2], found[3]
    host, port = (_address if len(authority) <= AUTHORITY_MAX else address)(authority, _DEFAULT_PORTS[scheme])
    if not path.startswith("/"):
        # RFC 9112 §3.2.4: for an OPTIONS of a URI without path and query "the last proxy on the request chain MUST send
        # a request-target of '*'". RFC 9110 §4.2.3: else an empty path is the same as "/".
        path = "*" if method == "OPTIONS" and not path else "/" + path
    return Target(scheme, host, port, path)


def of_request(method: str, text: str, host: str, scheme: str) -> Target:
    """The target of any request to a forward proxy but CONNECT. ``host`` is its Host field, which counts where the
    target has none, and ``scheme`` that of the connection. Raises :class:`TargetError`."""
    if text.startswith("/") or (text == "*" and method == "OPTIONS"):
        if not host:
            raise TargetError("neither the target nor Host names a host")
        return Target(scheme, *address(host, _DEFAULT_PORTS[scheme]), text.partition("#")[0])
    return absolute(text, method)


def of_connect(text: str) -> Address:
    """The target of a CONNECT (RFC 9112 §3.2.3). RFC 9110 §9.3.6: "A server MUST reject a CONNECT request that targets
    an empty or invalid port number". Raises :class:`TargetError`."""
    return address(text, None)


def address(authority: str, default_port: int | None) -> Address:
    """Host and port of an authority (RFC 3986 §3.2). ``default_port``: ``None`` if the port is required. Raises
    :class:`TargetError`."""
    if len(authority) > AUTHORITY_MAX:
        raise TargetError(f"a host of more than {_NAME_MAX} characters")
    return _address(authority, default_port)


@lru_cache(maxsize=4096)
def _address(authority: str, default_port: int | None) -> Address:
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        if "@" in authority:
            # RFC 9110 §4.2.4: "a recipient SHOULD parse for userinfo and treat its presence as an error; it is likely
            # being used to obscure the authority for the sake of phishing attacks".
            raise TargetError("userinfo in the target")
        if not authority.isascii():
            raise TargetError("a host that is not ASCII: international names are written as xn--…")
        raise TargetError("no host in the target" if not authority else "an invalid host or port in the target")
    host = found[1].lower()
    if host.startswith("["):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise TargetError("an invalid IPv6 address in the target") from None
    else:
        labels = host.removesuffix(".").split(".")
        if not all(0 < len(label) <= _LABEL_MAX for label in labels) or len(host) > _NAME_MAX + 1:
            raise TargetError("a host with an empty label, or one that is too long")
    digits = (found[2] or "").lstrip("0")
    if not found[2]:
        if default_port is None:
            raise TargetError("no port in the target")
        return host, default_port
    # RFC 3986 §3.2.3 allows any number of digits in a port. Nothing can listen on port 0.
    if not digits or len(digits) > 5 or int(digits) > 65535:
        raise TargetError("a port outside 1 to 65535 in the target")
    return host, int(digits)


def is_host_field(value: str) -> bool:
    """Whether a Host field has a valid value (RFC 9110 §7.2), possibly empty. It need not be a host that exists: a
    proxy that gets an absolute target generates its own."""
    return _HOST_FIELD.fullmatch(value) is not None
