"""Ports: whether they can be listened on, now. Each is bound and let go of; nothing is accepted."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator, Sequence
from typing import Final

from ..mitm.offline import Listen
from .finding import FAULT, OK, WARNING, Finding

_ALL: Final = ("0.0.0.0", "::")


def check(listeners: Sequence[Listen], metrics: tuple[str, int] | None) -> Iterator[Finding]:
    taken: dict[tuple[str, int], str] = {}
    for one in listeners:
        if one.port is None:
            yield Finding("mode", OK, f"{one.mode} listens on no port")
        else:
            subject = "listen_port" if "@" not in one.mode else "mode"
            yield _checked(subject, one.mode, one.host, one.port, taken, is_tcp=one.is_tcp)
    if metrics is None:
        yield Finding("metrics_listen", WARNING, "off: no metrics, no status, and none of the other commands")
        return
    host, port = metrics
    found = _checked("metrics_listen", "metrics", host, port, taken)
    if found.level == OK and not _is_loopback(host):
        found = Finding("metrics_listen", WARNING, f"{found.text}; whoever reaches it can read what is stored for whom")
    yield found


def _checked(
    subject: str, what: str, host: str, port: int, taken: dict[tuple[str, int], str], *, is_tcp: bool = True
) -> Finding:
    where = f"{what} on {f'[{host}]' if ':' in host else host or 'all addresses'}:{port or 'any free port'}"
    if port and (other := taken.get((host, port))):
        return Finding(subject, FAULT, f"{where}: {other} has that port")
    taken[host, port] = what
    for address in (host,) if host else _ALL:
        if problem := _problem(address, port, socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM):
            return Finding(subject, FAULT, f"{where}: {problem}")
    return Finding(subject, OK, where)


def _problem(host: str, port: int, kind: socket.SocketKind) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        return f"{host} is no address of this machine: {getattr(error, 'strerror', None) or error}"
    for family, _, _, _, address in found:
        try:
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
                if kind == socket.SOCK_STREAM:
                    probe.listen(1)
        except OSError as error:
            if host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                continue  # without IPv6 it listens on IPv4 alone
            if error.errno == errno.EADDRINUSE:
                return "the port is taken"
            if error.errno == errno.EACCES:
                return "ports below 1024 are for root, or take the capability CAP_NET_BIND_SERVICE"
            return error.strerror or str(error)
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
