"""Values of the option ``cache_peers``: a peer, or where peers are listed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import unquote

from .peer import SCHEMES, Peer, as_address, host_and_port

_VALUE_MAX: Final = 80
"""Characters of a value that an error shows."""


@dataclass(frozen=True, slots=True)
class InDns:
    """``dns://name:port``: all A and AAAA records of a name."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"dns://{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class InFile:
    """``file:///path``: a file as Prometheus' file_sd has them."""

    path: Path

    def __str__(self) -> str:
        return self.path.as_uri()


Listing: TypeAlias = Peer | InDns | InFile


def parse(values: Iterable[str]) -> tuple[Listing, ...]:
    """The values of the option, each once. Raises ``ValueError`` with one line, which names the value and what is wrong
    with it."""
    return tuple(dict.fromkeys(parse_one(value) for value in values))


def parse_one(value: str) -> Listing:
    """``http://host:port``, ``https://host:port``, ``dns://name:port`` or ``file:///path``. Raises ``ValueError``."""
    try:
        return _parse(value)
    except ValueError as error:
        scheme, at, host = value.rpartition("@")
        shown = f"{scheme.partition('://')[0]}://…@{host}" if at else value  # no password gets into a log
        shown = shown if len(shown) <= _VALUE_MAX else shown[:_VALUE_MAX] + "…"
        raise ValueError(f"{shown!r}: {error}") from None


def parse_peer(value: str) -> Peer:
    """``http://host:port`` or ``https://host:port`` (``cache_peer_self``). Raises ``ValueError``."""
    listing = parse_one(value)
    if not isinstance(listing, Peer):
        raise ValueError(f"{value[:_VALUE_MAX]!r}: this is to be one peer, http://host:port")
    return listing


def _parse(value: str) -> Listing:
    if not value.isprintable() or " " in value:
        raise ValueError("it has spaces or control characters")
    scheme, separator, rest = value.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in (*SCHEMES, "dns", "file"):
        raise ValueError("it begins with none of http://, https://, dns:// and file:///")
    if scheme == "file":
        return InFile(_path(rest))
    if "@" in rest:
        raise ValueError("it has a user or a password: peers share a token instead")
    authority = rest.removesuffix("/")
    if any(character in authority for character in "/?#"):
        raise ValueError("it has more than a host and a port")
    host, port = host_and_port(authority)
    if scheme != "dns":
        return Peer(scheme, host, port)
    if as_address(host) is not None:
        raise ValueError(f"{host} is an address and needs no look-up: http://{authority}")
    # A name with a dot at the end is not tried with the search domains of resolv.conf.
    return InDns(host + "." if authority.rpartition(":")[0].endswith(".") else host, port)


def _path(rest: str) -> Path:
    if not rest.startswith("/"):
        raise ValueError("a path from the root is needed: file:///etc/peers.json")
    if "?" in rest or "#" in rest:
        raise ValueError("? and # in a path are written %3F and %23")
    if "*" in rest:
        raise ValueError("it is to be one file, not a pattern")
    path = unquote(rest)
    if "\0" in path:
        raise ValueError("it has a zero byte")
    if path.endswith("/"):
        raise ValueError("it is a folder, not a file")
    return Path(path)
