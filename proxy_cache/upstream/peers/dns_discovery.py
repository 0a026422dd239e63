"""``dns://name:port``: all addresses of a name, as a headless Service in Kubernetes has them."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Final

from ..names import Names
from .listings import InDns
from .peer import Peer, as_address
from .watch import Unreadable

EVERY: Final = 10.0
"""Seconds between look-ups."""
FIRST_EVERY: Final = 2.0
"""Seconds, as long as there has been no answer: a Service has no addresses before its first pods are ready."""

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_NONE_THERE: Final = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
}
"""Errors that say that there are no such addresses. Others say that nobody could tell."""


class DnsDiscovery:
    """The A and AAAA records of one name are looked up by themselves, by the system's resolver: a server that fails for
    one kind takes away no addresses of the other, nor the last ones of that kind.

    Not with ``AI_ADDRCONFIG``: a node without IPv6 has to have the same list as all others.
    """

    def __init__(self, listing: InDns, names: Names) -> None:
        self._listing = listing
        self._names = names
        self._last: dict[int, tuple[str, ...]] = {}
        """The addresses of a family at its last answer."""
        self.partly = ""

    @property
    def every(self) -> float:
        return EVERY if any(self._last.values()) else FIRST_EVERY

    async def look(self) -> list[Peer]:
        results = await asyncio.gather(*(self._find(family) for family in _FAMILIES), return_exceptions=True)
        found: dict[int, tuple[str, ...]] = {}
        none_there: list[str] = []
        failed: list[str] = []
        for family, result in zip(_FAMILIES, results, strict=True):
            if isinstance(result, tuple):
                found[family] = result
            elif not isinstance(result, OSError):
                raise result
            elif result.errno in _NONE_THERE:
                none_there.append(result.strerror or str(result))
            else:
                failed.append(result.strerror or str(result))
                found[family] = self._last.get(family, ())
        if len(failed) == len(_FAMILIES) or not any(found.values()):
            # An empty answer takes down no fleet: it is what servers say while they start.
            raise Unreadable((failed or none_there or ["it has no addresses that a peer could have"])[0])
        self._last, self.partly = found, f"of one kind of address: {failed[0]}" if failed else ""
        return [Peer("http", address, self._listing.port) for addresses in found.values() for address in addresses]

    async def _find(self, family: int) -> tuple[str, ...]:
        """Those that can be a peer's. Raises ``OSError``."""
        found = await self._names.getaddrinfo(
            self._listing.name, self._listing.port, family=family, type=socket.SOCK_STREAM
        )
        return tuple({address for *_, sockaddr in found if (address := _usable(sockaddr[0])) is not None})


def _usable(text: str) -> str | None:
    address = as_address(text.partition("%")[0])
    if address is None:
        return None
    parsed = ipaddress.ip_address(address)
    # Link-local addresses need a zone, which means something else on each machine. 0.0.0.0 is how some servers say no.
    return None if parsed.is_unspecified or parsed.is_multicast or parsed.is_link_local else address
