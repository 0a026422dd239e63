"""Where clients may have the proxy go: the operator's rules, and what is denied without any.

Pure functions: no look-up, no clock.

Two layers decide, and both have to agree:

- the rules (``access_destinations``), in order; the first that matches counts, and without a match all is allowed;
- what is denied by itself: special addresses (:mod:`.special_addresses`), the proxy's own listeners, and for anything
  but CONNECT low ports. A rule lifts that only if it names it: an address for an address, a port for a port. A rule by
  name alone does not, since whoever owns the name's zone may point it anywhere (DNS rebinding).

A name is asked about twice: at the door without an address, where some rules can't be answered yet; and with each of
its addresses before one is dialled, see :mod:`.access`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from .special_addresses import METADATA_NAMES, IPAddress, IPNetwork, embedded, is_local_name, of_host, why_special

LOW_PORTS: Final = 1024
"""Ports below belong to services of the system: mail, remote shells, databases' names."""
WEB_PORTS: Final = (80, 443)
ALL_PORTS: Final = range(1, 65536)


class Way(Enum):
    """How a client asks to go there."""

    REQUEST = "request"
    """By any request but CONNECT."""
    CONNECT = "connect"
    UNKNOWN = "unknown"
    """mitmproxy opens a connection, and what for is not known here: that was checked at the door."""


@dataclass(frozen=True, slots=True)
class Denial:
    """Why somebody may not go somewhere. ``reason``: for the metrics; ``error``: the proxy error type (RFC 9209 §2.3);
    ``why``: for the log, never for the client, who would learn an address; ``option``: that which decides."""

    reason: str
    error: str
    why: str = ""
    option: str = "access_destinations"

    @property
    def detail(self) -> str:
        """For the client: what to ask the operator for."""
        return f"{_DETAILS[self.reason]}, see the proxy's option {self.option}"


_DETAILS: Final = {
    "rule": "this proxy does not go there",
    "address": "this proxy does not go there",
    "listener": "this proxy does not go there",
    "port": "this proxy does not go to this port",
    "client": "this client is not served",
}
CLIENT: Final = Denial("client", "http_request_denied", "not in access_clients", "access_clients")


@dataclass(frozen=True, slots=True)
class Rule:
    """``allow`` or ``deny`` with a pattern: a ``name`` (matched with the host as it is written), a ``network``, or
    neither for all hosts; ``ports``, or all."""

    allows: bool
    text: str
    name: re.Pattern[str] | None = None
    network: IPNetwork | None = None
    ports: range | None = None

    @property
    def is_by_name(self) -> bool:
        return self.name is not None

    def matches(self, host: str, port: int, address: IPAddress | None) -> bool | None:
        """``None``: it takes the address to tell."""
        if self.ports is not None and port not in self.ports:
            return False
        if self.name is not None:
            return self.name.match(host) is not None
        if self.network is None:
            return True
        return None if address is None else self.covers(address)

    def covers(self, address: IPAddress) -> bool:
        """A rule that denies an IPv4 network does so also where IPv6 addresses stand for its own. One that allows does
        not: what such an address leads to is for a gateway to say."""
        network = self.network
        if network is None:
            return True
        among = (address,) if self.allows else (address, *embedded(address))
        return any(each.version == network.version and each in network for each in among)


class _Unknown(Exception):
    """It takes the address to tell."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """All rules. ``origins``: hosts and ports that this proxy stands in for (reverse mode), and ``parents``: those of
    parent proxies, which resolve names then. Both are the operator's choice; a parent may be dialled, and is no
    destination for clients."""

    rules: tuple[Rule, ...] = ()
    connect_ports: tuple[range, ...] = (range(443, 444),)
    origins: frozenset[tuple[str, int]] = frozenset()
    parents: frozenset[tuple[str, int]] = frozenset()

    def is_named(self, host: str, port: int) -> bool:
        """Whether the operator has named it, so that it may be dialled whatever the rules are."""
        return (host.lower(), port) in self.origins or (host.lower(), port) in self.parents

    @property
    def has_parent(self) -> bool:
        return bool(self.parents)

    def at_door(
        self, host: str, port: int, way: Way, is_own: Callable[[IPAddress], bool] = lambda address: False
    ) -> Denial | None:
        """By what the request says. What is not denied here may still be, by its address. ``is_own``: whether one of
        our own listeners is at an address that is written there."""
        if (host, port) in self.origins:
            return None
        name = plain_name(host)
        if (denial := self._by_port(name, port, way)) is not None:
            return denial
        if (address := of_host(host)) is not None:
            return self.of_address(host, port, address, way, lambda: is_own(address))
        try:
            rule = self._first(name, port, None)
        except _Unknown:
            rule = None
        if rule is not None and not rule.allows:
            return Denial("rule", "http_request_denied", f"rule {rule.text!r}")
        return self._by_known_name(name, port, way)

    def of_address(
        self, host: str, port: int, address: IPAddress, way: Way, is_own: Callable[[], bool] = lambda: False
    ) -> Denial | None:
        """With an address that the host has. ``is_own``: whether one of our own listeners is there."""
        name = plain_name(host)
        if (denial := self._by_port(name, port, way, address)) is not None:
            return denial
        rule = self._first(name, port, address)
        if rule is not None and not rule.allows:
            error = "http_request_denied" if rule.network is None else "destination_ip_prohibited"
            return Denial("rule", error, f"rule {rule.text!r}, address {address}")
        lifting = next((one for one in self.rules if not one.is_by_name and one.matches(name, port, address)), None)
        is_named = lifting is not None and lifting.allows
        if not is_named and (kind := why_special(address)) is not None:
            why = f"{address} is {kind}, and no rule of access_destinations allows it"
            return Denial("address", "destination_ip_prohibited", why)
        if not self._names_port(port, lambda one: not one.is_by_name and one.covers(address)) and is_own():
            return Denial("listener", "destination_ip_prohibited", f"this proxy itself listens on {address}")
        return None

    def _by_port(self, name: str, port: int, way: Way, address: IPAddress | None = None) -> Denial | None:
        if way is Way.CONNECT:
            is_open = self._may_connect(port)
        elif port >= LOW_PORTS or port in WEB_PORTS:
            is_open = True
        else:
            is_open = self._names_port(port, lambda one: one.matches(name, port, address) is not False) or (
                way is Way.UNKNOWN and self._may_connect(port)
            )
        if is_open:
            return None
        if way is Way.CONNECT:
            why, option = f"port {port} is not in access_connect_ports", "access_connect_ports"
            return Denial("port", "http_request_denied", why, option)
        return Denial("port", "http_request_denied", f"no rule of access_destinations allows port {port}")

    def _may_connect(self, port: int) -> bool:
        return any(port in ports for ports in self.connect_ports)

    def _names_port(self, port: int, applies: Callable[[Rule], bool]) -> bool:
        """Whether a rule that applies allows this very port."""
        return any(
            rule.allows and rule.ports is not None and port in rule.ports and applies(rule) for rule in self.rules
        )

    def _first(self, name: str, port: int, address: IPAddress | None) -> Rule | None:
        """The rule that counts. Raises :class:`_Unknown`."""
        for rule in self.rules:
            matches = rule.matches(name, port, address)
            if matches is None and not self.has_parent:
                raise _Unknown
            if matches:
                return rule
        return None

    def _by_known_name(self, name: str, port: int, way: Way) -> Denial | None:
        """Of a name whose addresses are known without a look-up; where a parent proxy looks it up there is no other
        way."""
        addresses: Iterable[str] = ()
        if is_local_name(name):
            addresses = ("127.0.0.1", "::1")
        elif self.has_parent and name in METADATA_NAMES:
            addresses = ("169.254.169.254",)
        denials = [self.of_address(name, port, ipaddress.ip_address(each), way) for each in addresses]
        return denials[0] if denials and all(denials) else None


def plain_name(host: str) -> str:
    """A host as rules see it: in small letters, without the dot of a complete name, an address in its usual form."""
    host = host.lower().rstrip(".")
    if ":" in host or (host[-1:].isalnum() and host[:1].isdigit()):
        address = of_host(host)
        return str(address) if address is not None else host
    return host
