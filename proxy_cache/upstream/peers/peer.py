"""One peer, by its address."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final

SCHEMES: Final = ("http", "https")

_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HOST_MAX: Final = 253
_LABEL_MAX: Final = 63


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy of the fleet, perhaps this one."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """An address or a name, as :func:`host_and_port` returns it; IPv6 without brackets."""
    port: int
    is_self: bool = False
    name: str = ""
    """In place of its URL in the fleet, where that doesn't last."""
    url: str = field(init=False, compare=False)
    """Its name in the fleet: ``http://host:port``, always with the port, an IPv6 address in brackets."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.name or f"{self.scheme}://{self.authority}")

    @property
    def authority(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_address(self) -> bool:
        """Whether the host is an address, not a name."""
        return as_address(self.host) is not None

    def __str__(self) -> str:
        return self.url


def as_address(host: str) -> str | None:
    """An IP address in its one spelling on all nodes (RFC 5952; an IPv4 address in IPv6, ``::ffff:192.0.2.1``, is that
    IPv4 address); ``None`` if it is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def is_private(address: str) -> bool:
    """Whether an address is of this machine or of a network of one's own (RFC 1918, RFC 4193, RFC 3927, RFC 6598)."""
    parsed = ipaddress.ip_address(address)
    return parsed.is_private or parsed.is_link_local or parsed in _SHARED


_SHARED: Final = ipaddress.ip_network("100.64.0.0/10")


def host_and_port(authority: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[address]:port``, in the one spelling that all nodes share: lower case, no
    dot at the end, addresses as :func:`as_address` has them. Raises ``ValueError`` with the reason."""
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        raise ValueError("it has no port")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:9]) < 65536 and len(port) < 9):
        raise ValueError(f"{port[:20]!r} is not a port" if port else "it has no port")
    return _host(host), int(port)


def _host(text: str) -> str:
    if not text:
        raise ValueError("it has no host")
    if text.startswith("[") or ":" in text:
        if not (text.startswith("[") and text.endswith("]")):
            raise ValueError("an IPv6 address is written in brackets: [2001:db8::1]:8080")
        if "%" in text:
            raise ValueError("an address with a zone means something else on each machine")
        address = as_address(text[1:-1]) if ":" in text else None
        if address is None:
            raise ValueError(f"{text[:60]} is not an IPv6 address")
        return _usable(address)
    address = as_address(text)
    if address is not None:
        return _usable(address)
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if not name.isascii():
        raise ValueError("a name with other letters is written in its ASCII form (xn--…)")
    if _NUMBER.fullmatch(labels[-1]):
        # 127.1, 2130706433, 0x7f.1: the system reads them as 127.0.0.1, others as names.
        raise ValueError(f"{text[:60]} is not a canonical IPv4 address")
    if len(name) > _HOST_MAX or not all(len(label) <= _LABEL_MAX and _LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text[:60]!r} is not the name of a host")
    return name


def _usable(address: str) -> str:
    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified:
        raise ValueError(f"{address} is where one listens, not where a peer is")
    if parsed.is_multicast:
        raise ValueError(f"{address} is a multicast address")
    return address
