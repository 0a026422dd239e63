"""Which addresses are this machine's."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Final

_ELSEWHERE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""For documentation (RFC 5737, RFC 3849): hardly a machine has these."""


def is_here(address: str, port: int, listening: Iterable[tuple[str, int]]) -> bool:
    """Whether whoever connects to this address and port gets to one of our listeners, which are given as
    ``(address, port)``: an address of ``""``, ``0.0.0.0`` or ``::`` is all of them."""
    return any(
        listens_at == port and (is_wildcard(on) or ipaddress.ip_address(on) == ipaddress.ip_address(address))
        for on, listens_at in listening
    ) and is_local(address)


def is_wildcard(address: str) -> bool:
    return not address or ipaddress.ip_address(address).is_unspecified


def is_local(address: str) -> bool:
    """Whether a connection to this IP address stays on the machine. Sends nothing."""
    ip = ipaddress.ip_address(address)
    if ip.is_loopback:
        return True
    if ip.is_unspecified or ip.is_multicast:
        return False
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    if not _can_bind(family, address):
        return False
    # The kernel may have been told to bind anything (net.ipv4.ip_nonlocal_bind, on machines with addresses that move).
    return not _can_bind(family, _ELSEWHERE[family]) or _is_own_source(family, address)


def _can_bind(family: socket.AddressFamily, address: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _is_own_source(family: socket.AddressFamily, address: str) -> bool:
    """To itself a machine speaks from the very address. (Connecting a datagram socket only looks up the route.)"""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == ipaddress.ip_address(address)
    except OSError:
        return False
