"""IP addresses that no client is to reach through a proxy, in all their spellings.

Most IPv6 transition mechanisms put an IPv4 address into an IPv6 one: whoever forbids 127.0.0.1 has to forbid
``::ffff:127.0.0.1`` as well, and what a NAT64 gateway would make 127.0.0.1 of.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, TypeAlias

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_SPECIAL: Final[tuple[tuple[IPNetwork, str], ...]] = tuple(
    (ipaddress.ip_network(network), kind)
    for network, kind in (
        ("169.254.169.254/32", "metadata"),  # AWS, Azure, Google, Oracle, DigitalOcean, OpenStack, …
        ("169.254.170.2/32", "metadata"),  # AWS: tasks, and
        ("169.254.170.23/32", "metadata"),  # pods
        ("100.100.100.200/32", "metadata"),  # Alibaba
        ("168.63.129.16/32", "metadata"),  # Azure, "WireServer"
        ("192.0.0.192/32", "metadata"),  # Oracle
        ("fd00:ec2::254/128", "metadata"),  # AWS,
        ("fd00:ec2::23/128", "metadata"),
        ("fd20:ce::254/128", "metadata"),  # Google
        ("fd00:c1::a9fe:a9fe/128", "metadata"),  # Oracle
        ("fd00:42::42/128", "metadata"),  # Scaleway
        ("0.0.0.0/8", "unspecified"),  # RFC 1122 §3.2.1.3: "this host on this network"; Linux takes 0.0.0.0 for itself
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),  # RFC 3927
        ("224.0.0.0/4", "multicast"),  # RFC 5771
        ("255.255.255.255/32", "broadcast"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fe80::/10", "link-local"),  # RFC 4291 §2.5.6
        ("ff00::/8", "multicast"),  # RFC 4291 §2.7
    )
)
"""What they are for, the narrower ones first."""

_MAPPED: Final = bytes(10) + b"\xff\xff"
_TRANSLATED: Final = bytes(8) + b"\xff\xff\0\0"
_NAT64: Final = b"\0\x64\xff\x9b" + bytes(8)
_NAT64_LOCAL: Final = b"\0\x64\xff\x9b\0\1"
_6TO4: Final = b"\x20\x02"
_TEREDO: Final = b"\x20\x01\0\0"
_ISATAP: Final = (b"\0\0\x5e\xfe", b"\2\0\x5e\xfe")


def canonical(text: str) -> IPAddress:
    """The address that the kernel dials: IPv4 for an IPv4-mapped IPv6 one (RFC 4291 §2.5.5.2). A zone
    (``fe80::1%eth0``) is left out. Raises ``ValueError``."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.packed.startswith(_MAPPED):
        return ipaddress.IPv4Address(address.packed[12:])
    return address


def embedded(address: IPAddress) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 one stands for on its way, or may."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    packed = address.packed
    found = []
    if packed.startswith((_MAPPED, _TRANSLATED, _NAT64)):  # RFC 4291 §2.5.5.2, RFC 2765 §2.1, RFC 6052 §2.1
        found.append(packed[12:])
    elif packed.startswith(bytes(12)) and packed[12:] not in (bytes(4), b"\0\0\0\1"):
        found.append(packed[12:])  # "IPv4-compatible" (RFC 4291 §2.5.5.1), but :: and ::1
    elif packed.startswith(_NAT64_LOCAL):  # RFC 8215: prefixes of any length in it, with the positions of RFC 6052 §2.2
        readings = (packed[12:], packed[6:8] + packed[9:11], packed[7:8] + packed[9:12], packed[9:13])
        found += [one for one in readings if one[0]]  # the others are part of a longer prefix, or its padding
    elif packed.startswith(_6TO4):  # RFC 3056 §2
        found.append(packed[2:6])
    elif packed.startswith(_TEREDO):  # RFC 4380 §4: its server, and its client with all bits turned
        found += [packed[4:8], bytes(byte ^ 0xFF for byte in packed[12:])]
    if packed[8:12] in _ISATAP:  # RFC 5214 §6.1
        found.append(packed[12:])
    yield from map(ipaddress.IPv4Address, found)


@lru_cache(maxsize=1024)
def why_special(address: IPAddress) -> str | None:
    """``loopback``, ``metadata`` and so on, also if that is what an embedded IPv4 address is; else ``None``."""
    for each in (address, *embedded(address)):
        for network, kind in _SPECIAL:
            if each.version == network.version and each in network:
                return kind
    return None


# -- as hosts are written -------------------------------------------------------------------------------------------

_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]*+|[0-9]++")


def of_host(host: str) -> IPAddress | None:
    """The address that a host is, without a look-up, in any spelling that some system takes for one: ``127.1``,
    ``0x7f.1``, ``2130706433``, ``017700000001``, with dots at the end. ``None`` for a name."""
    host = host.rstrip(".")
    try:
        return canonical(host)
    except ValueError:
        return _by_parts(host)


def _by_parts(host: str) -> ipaddress.IPv4Address | None:
    """As ``inet_aton`` reads it: one to four numbers, decimal, octal or hexadecimal, the last of which fills up the
    rest."""
    parts = host.split(".")
    if len(parts) > 4 or not all(map(_NUMBER.fullmatch, parts)) or len(host) > 64:
        return None
    try:
        *first, last = [_number(part) for part in parts]
    except ValueError:
        return None
    if any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):
        return None
    return ipaddress.IPv4Address(sum(number << (24 - 8 * place) for place, number in enumerate(first)) + last)


def _number(text: str) -> int:
    if text[:2] in ("0x", "0X"):
        return int(text[2:] or "0", 16)
    return int(text, 8) if text.startswith("0") else int(text)


def is_local_name(host: str) -> bool:
    """Whether it is a name of the machine itself, whatever it resolves to (RFC 6761 §6.3)."""
    host = host.rstrip(".").lower()
    return host in ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback") or host.endswith(
        ".localhost"
    )


METADATA_NAMES: Final = frozenset({"metadata.google.internal", "metadata.goog", "metadata", "instance-data"})
"""Names of metadata services: behind a parent proxy there is nothing else to know them by."""
