"""The values of ``access_destinations``, ``access_connect_ports`` and ``access_clients``, checked.

A rule that can never apply is refused with one line, as one that can't be read is: somebody relies on it.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import logging
import re
from typing import Any, Final

from mitmproxy import exceptions
from mitmproxy.proxy import mode_specs

from ..upstream.destinations import ALL_PORTS, Destinations, Rule
from ..upstream.special_addresses import IPNetwork

logger = logging.getLogger(__name__)

_BETWEEN: Final = re.compile(r"[,\n]+")
_BETWEEN_WORDS: Final = re.compile(r"[,\s]+")
_RULE: Final = re.compile(r"(allow|deny)\s+(\S+)", re.IGNORECASE)
_PORTS: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_IN_BRACKETS: Final = re.compile(r"\[([^\[\]]*:[^\[\]]*)\](?::(.*))?")
_NAME: Final = re.compile(r"[\w.*?-]+")
_NUMBERS: Final = re.compile(r"[0-9.*?/]+")
_EXAMPLE: Final = "use 'allow PATTERN' or 'deny PATTERN', such as 'allow *.example.com:443' or 'deny 10.0.0.0/8'"


def destinations(options: Any) -> Destinations:
    """From mitmproxy's options. Raises ``OptionsError`` with one line that names the option and the reason."""
    specs = [spec.strip() for value in options.access_destinations for spec in _BETWEEN.split(value) if spec.strip()]
    rules: list[Rule] = []
    for spec in specs:
        rule = _rule(spec)
        if (before := next((one for one in rules if _makes_needless(one, rule)), None)) is not None:
            raise exceptions.OptionsError(
                f"access_destinations: {spec!r} would never count: {before.text!r} before it matches all of that"
            )
        rules.append(rule)
    modes = [mode_specs.ProxyMode.parse(mode) for mode in options.mode]
    origins = [mode.address for mode in modes if isinstance(mode, mode_specs.ReverseMode)]
    parents = [mode.address for mode in modes if isinstance(mode, mode_specs.UpstreamMode)]
    return Destinations(
        tuple(rules),
        tuple(
            _ports("access_connect_ports", word)
            for value in options.access_connect_ports
            for word in _BETWEEN_WORDS.split(value)
            if word
        ),
        frozenset((host.lower(), port) for host, port in origins),
        frozenset((host.lower(), port) for host, port in parents),
    )


def clients(options: Any) -> tuple[IPNetwork, ...]:
    """Likewise."""
    words = [word for value in options.access_clients for word in _BETWEEN_WORDS.split(value) if word]
    return tuple(_network("access_clients", word) for word in words)


def _rule(spec: str) -> Rule:
    option = "access_destinations"
    match = _RULE.fullmatch(spec)
    if match is None:
        raise exceptions.OptionsError(f"{option}: {spec!r} is no rule; {_EXAMPLE}")
    allows, pattern = match[1].lower() == "allow", match[2]
    if "://" in pattern or pattern.startswith("/"):
        raise exceptions.OptionsError(f"{option}: {spec!r}: a host or a network, not a URL; {_EXAMPLE}")
    host, ports = _apart(spec, pattern)
    if host == "*":
        return Rule(allows, spec, ports=ports)
    if ":" in host or _NUMBERS.fullmatch(host):
        if "*" in host or "?" in host:
            raise exceptions.OptionsError(f"{option}: {spec!r}: addresses as a network, such as 10.0.0.0/8")
        return Rule(allows, spec, network=_network(option, host), ports=ports)
    return Rule(allows, spec, name=_name(spec, host), ports=ports)


def _apart(spec: str, pattern: str) -> tuple[str, range | None]:
    """Host and ports of a pattern."""
    option = "access_destinations"
    if (match := _IN_BRACKETS.fullmatch(pattern)) is not None:
        return match[1], _ports(f"{option}: {spec!r}", match[2]) if match[2] is not None else None
    if pattern.count(":") > 1:  # fd00::/8
        return pattern, None
    host, colon, port = pattern.partition(":")
    if not host:
        raise exceptions.OptionsError(f"{option}: {spec!r} has no host; * stands for all")
    return host, _ports(f"{option}: {spec!r}", port) if colon else None


def _ports(where: str, text: str) -> range:
    if text == "*":
        return ALL_PORTS
    match = _PORTS.fullmatch(text)
    first = int(match[1]) if match is not None else 0
    last = int(match[2] or match[1]) if match is not None else 0
    if not 1 <= first <= last <= 65535:
        raise exceptions.OptionsError(f"{where}: {text!r} is no port such as 443, nor ports such as 8000-8999, nor *")
    return range(first, last + 1)


def _network(option: str, text: str) -> IPNetwork:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise exceptions.OptionsError(
            f"{option}: {text!r} is no address and no network such as 10.0.0.0/8 or fd00::/8"
        ) from error
    if "/" in text and network.network_address != ipaddress.ip_interface(text).ip:
        raise exceptions.OptionsError(f"{option}: {text!r} is no network; did you mean {network}?")
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped  # which is dialled, and compared, as IPv4
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _name(spec: str, host: str) -> re.Pattern[str]:
    name = host.lower().rstrip(".")
    if not _NAME.fullmatch(name) or name.startswith("."):
        hint = f"; did you mean *{name}?" if name.startswith(".") else ""
        raise exceptions.OptionsError(f"access_destinations: {spec!r} is no rule for hosts{hint or f'; {_EXAMPLE}'}")
    try:
        ascii_name = ".".join(each if each.isascii() else each.encode("idna").decode() for each in name.split("."))
    except UnicodeError as error:
        raise exceptions.OptionsError(
            f"access_destinations: {spec!r} has no name of a host; write its xn-- form"
        ) from error
    return re.compile(fnmatch.translate(ascii_name))


def _makes_needless(before: Rule, rule: Rule) -> bool:
    """Whether the rule before takes all that this one could match."""
    if before.ports is not None and (rule.ports is None or not _within(rule.ports, before.ports)):
        return False
    if before.name is None and before.network is None:
        return not _lifts(rule)
    if before.name is not None or rule.name is not None:
        return before.name is not None and rule.name is not None and before.name.pattern == rule.name.pattern
    if rule.network is None or before.network is None:
        return False
    same = before.network.version == rule.network.version
    return same and rule.network.subnet_of(before.network) and not _lifts(rule)  # type: ignore[arg-type]


def _lifts(rule: Rule) -> bool:
    """Whether it lifts what is denied by itself, wherever it stands: a rule that allows a port."""
    return rule.allows and rule.ports is not None


def _within(inner: range, outer: range) -> bool:
    return inner[0] in outer and inner[-1] in outer


_beyond_parent: set[str] = set()
"""Rules that the log has told of."""


def tell_beyond_parent(found: Destinations) -> None:
    """Behind a parent proxy names are resolved there: say once which rules can't be kept for them."""
    rules = [rule.text for rule in found.rules if rule.network is not None] if found.has_parent else []
    new = [text for text in rules if text not in _beyond_parent]
    if new:
        _beyond_parent.update(new)
        logger.warning(
            "access_destinations: behind a parent proxy names are not resolved here: %s for addresses in URLs alone",
            ", ".join(map(repr, new)),
        )
