"""Outgoing connections: name → addresses → check → TCP → TLS, directly or through a parent proxy.

No other module opens a socket outward (tests/unit/test_rooms.py), so the same rules hold for all connections: of fills,
of requests that mitmproxy forwards, of tunnels. :class:`.names.Names` bounds the time of the look-up. Successive
connections rotate through the addresses of a name, and among several addresses the first to answer wins (RFC 8305).
Cancelling a caller in any phase leaves no socket behind.
"""

from __future__ import annotations

import asyncio
import errno
import re
import select
import socket
import ssl
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from ..semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from ..wire.outgoing import request_head
from ..wire.responses import OriginError, parse_head
from .access import Access, Denied
from .destinations import Way
from .names import Names, NameTimeout
from .opening import Opening
from .trust import name_in_tls, tls_error

ADDRESSES_KEPT_FOR: Final = 25.0
"""Seconds for which the addresses of a name are rotated. With :data:`.names.KEPT_FOR` that makes half a minute."""
ADDRESSES_KEPT_MAX: Final = 1000
"""Names whose addresses are rotated."""
NAMES_FIRST: Final = 0.5
"""Seconds that connecting is given beyond the time of its name look-up, so that the error tells which one timed out."""
ATTEMPT_DELAY: Final = 0.25
"""Seconds between attempts at the addresses of a name, as RFC 8305 §5 recommends."""
INTERIM_MAX: Final = 64
"""1xx responses before the final one to a CONNECT."""

_SHORT_IPV4: Final = re.compile(r"[0-9.]+")

Endpoint: TypeAlias = tuple[int, int, int, tuple[str, int] | tuple[str, int, int, int]]
"""Address family, socket type, protocol, and the address as the kernel takes it."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A proxy for all connections. ``fields``: further fields for it, such as credentials."""

    scheme: str
    host: str
    port: int
    fields: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def from_url(cls, url: str, fields: tuple[tuple[str, str], ...] = ()) -> Parent:
        """From ``http://host:port``."""
        parts = urlsplit(url)
        return cls(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), fields)

    @property
    def lines(self) -> bytes:
        """The fields as bytes."""
        return b"".join(f"{name}: {value}\r\n".encode() for name, value in self.fields)


class Dialler:
    """Opens connections, all on the event loop: wherever ``access`` lets clients go. Without one it is for connections
    that the operator has chosen."""

    def __init__(self, names: Names | None = None, access: Access | None = None) -> None:
        self._names = names or Names()
        self._access = access
        self._kept: OrderedDict[tuple[str, int], tuple[float, deque[Endpoint]]] = OrderedDict()
        """By host and port: expiry (monotonic clock), and the addresses, the next one first."""

    # -- for fills ----------------------------------------------------------------------------------------------

    async def open(
        self,
        scheme: str,
        authority: str,
        *,
        timeout: float,
        tls: Callable[[str], ssl.SSLContext],
        accepted_within: float | None = None,
        parent: Parent | None = None,
        limits: HeadLimits = DEFAULT_HEAD_LIMITS,
    ) -> asyncio.Transport:
        """A connection for requests to ``authority`` (ASCII). The caller has to set its protocol before awaiting
        anything else. ``timeout``: seconds for TCP, TLS and a parent's tunnel together; the name look-up has as many of
        its own, and half a second is added to the sum. ``tls`` makes the TLS context for a host. ``accepted_within``:
        seconds for TCP at one address, by what the kernel knows then. Raises :class:`OriginError`."""
        host, port = _host_and_port(scheme, authority)
        first, first_host, first_port = scheme, host, port
        if parent is not None:
            first, first_host, first_port = parent.scheme, parent.host, parent.port
        first_tls = tls(first_host) if first == "https" else None
        try:
            async with asyncio.timeout(timeout + NAMES_FIRST) as limit:
                untried = await self._addresses(first_host, first_port, Way.REQUEST if parent is None else None)
                ends_at = asyncio.get_running_loop().time() + timeout
                if ends_at < (limit.when() or 0.0):
                    limit.reschedule(ends_at)
                opening = await self._open_first(
                    first_host, first_port, untried, first_tls, timeout, accepted_within
                )  # fmt: skip
                if parent is not None and scheme == "https":
                    opening = await _through(opening, parent, host, port, tls(host), timeout, limits)
        except TimeoutError as error:
            raise OriginError("connection_timeout", f"Connection timeout to host {scheme}://{authority}/") from error
        except NameTimeout as error:
            raise OriginError("dns_timeout", error.why) from error
        except Denied as error:
            raise OriginError(error.denial.error, error.denial.detail) from error
        except OSError as error:
            raise _origin_error(error, f"{first_host}:{first_port}") from error
        except ValueError as error:
            raise OriginError("http_request_error", str(error)) from error
        return opening.handed_over()

    async def _open_first(
        self,
        host: str,
        port: int,
        untried: list[Endpoint],
        tls: ssl.SSLContext | None,
        timeout: float,
        accepted_within: float | None,
    ) -> Opening:
        """Connect to the first address where TLS works, too, if there is any: one of several machines behind a name may
        have an expired certificate."""
        while True:
            try:
                connection = await _connect_first(untried, accepted_within=accepted_within)
                return await _transport(connection, tls, host, timeout)
            except OSError:
                if not untried:
                    self._kept.pop((host, port), None)  # the host may have moved
                    raise

    # -- for mitmproxy ------------------------------------------------------------------------------------------

    async def open_stream(
        self, host: str, port: int, *, local_addr: tuple[str, int] | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Like :func:`asyncio.open_connection`. Only the name look-up has a time limit. Raises ``OSError``."""
        local = None if local_addr is None else await self._find(*local_addr[:2])
        try:
            connection = await _connect_first(await self._addresses(host, port, Way.UNKNOWN), local)
        except OSError as error:
            if not isinstance(error, Denied):
                self._kept.pop((host, port), None)
            raise
        try:
            return await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise

    async def address_for(self, host: str, port: int) -> str:
        """An address of this host that may be dialled, for others who do; the host itself where the operator has named
        it. Raises ``OSError``."""
        if self._access is None or self._access.destinations.is_named(host, port):
            return host
        return _address_of((await self._addresses(host, port, Way.UNKNOWN))[0])

    # -- addresses ----------------------------------------------------------------------------------------------

    async def _addresses(self, host: str, port: int, way: Way | None) -> list[Endpoint]:
        """The addresses to try, in order, and no others. ``way``: ``None`` if no client has chosen this host. Raises
        :class:`Denied`, or another ``OSError``."""
        endpoints = await self._in_turn(host, port)
        if self._access is not None and way is not None:
            # Between look-up and first packet: the checked address is the dialled one, whatever the name resolves to a
            # moment later.
            endpoints = self._access.allowed(host, port, way, endpoints, _address_of)
        return _interleaved(endpoints) if len(endpoints) > 1 else endpoints

    async def _in_turn(self, host: str, port: int) -> list[Endpoint]:
        literal = _literal(host, port)
        if literal is not None:
            return [literal]
        key = host, port
        kept = self._kept.get(key)
        if kept is None or time.monotonic() >= kept[0]:
            found = deque(await self._find(host, port))
            kept = self._kept.get(key)  # another look-up may have ended meanwhile: continue its rotation
            if kept is None or time.monotonic() >= kept[0]:
                kept = self._kept[key] = time.monotonic() + ADDRESSES_KEPT_FOR, found
                if len(self._kept) > ADDRESSES_KEPT_MAX:
                    self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        endpoints = list(kept[1])
        kept[1].rotate(-1)
        return endpoints

    async def _find(self, host: str, port: int) -> list[Endpoint]:
        literal = _literal(host, port)
        if literal is not None:
            return [literal]
        # RFC 3493 §6.1: no IPv6 addresses, and no queries for them, on a machine without IPv6. Loopback addresses don't
        # count, so the flag is not for names that only have those (RFC 6761 §6.3).
        flags = 0 if host == "localhost" or host.endswith(".localhost") else socket.AI_ADDRCONFIG
        found = await self._names.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
        return [(family, kind, protocol, address) for family, kind, protocol, _, address in found]  # type: ignore[misc]


def _host_and_port(scheme: str, authority: str) -> tuple[str, int]:
    """Host and port to dial for an authority. Raises :class:`OriginError`."""
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        port = port[1:]
    else:
        host, _, port = authority.partition(":")
    if not host:
        raise OriginError("http_request_error", f"{scheme}://{authority}/")
    if _SHORT_IPV4.fullmatch(host) and _literal(host, 0) is None:
        # 127.1, 2130706433: the system reads them as 127.0.0.1, others as names.
        raise OriginError("http_request_error", f"{host} is not a canonical IPv4 address")
    if host.endswith(".."):
        host = host.rstrip(".") + "."
    return host, int(port or (443 if scheme == "https" else 80))


def _literal(host: str, port: int) -> Endpoint | None:
    """The endpoint of an IP address, without a look-up. (One with a zone, ``fe80::1%eth0``, needs the system.)"""
    try:
        if ":" in host:
            socket.inet_pton(socket.AF_INET6, host)
            return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, (host, port, 0, 0)
        socket.inet_pton(socket.AF_INET, host)
    except (OSError, ValueError):
        return None
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, (host, port)


def _address_of(endpoint: Endpoint) -> str:
    return endpoint[3][0]


def _interleaved(endpoints: list[Endpoint]) -> list[Endpoint]:
    """Alternate the address families, beginning with that of the first address (RFC 8305 §4)."""
    families: dict[int, deque[Endpoint]] = {}
    for endpoint in endpoints:
        families.setdefault(endpoint[0], deque()).append(endpoint)
    ordered: list[Endpoint] = []
    while families:
        for family, left in list(families.items()):
            ordered.append(left.popleft())
            if not left:
                del families[family]
    return ordered


# -- TCP ------------------------------------------------------------------------------------------------------------


async def _connect_first(
    untried: list[Endpoint], local: list[Endpoint] | None = None, accepted_within: float | None = None
) -> socket.socket:
    """A connection to the first address that answers (RFC 8305 §5). The next address is tried when one fails, or, in
    parallel, when it has not answered for a while. Addresses that failed, and the one that answered, are removed from
    ``untried``. Raises ``OSError``."""
    if len(untried) == 1:
        return await _connect(untried.pop(), local, accepted_within)
    loop = asyncio.get_running_loop()
    waiting = deque(untried)
    attempts: dict[asyncio.Task[socket.socket], Endpoint] = {}
    errors: list[OSError] = []
    try:
        while waiting or attempts:
            if waiting:
                endpoint = waiting.popleft()
                attempts[loop.create_task(_connect(endpoint, local, accepted_within))] = endpoint
            done, _ = await asyncio.wait(
                attempts, timeout=ATTEMPT_DELAY if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                error = attempt.exception()
                if error is None or not isinstance(error, OSError):
                    untried.remove(attempts.pop(attempt))
                    return attempt.result()
                untried.remove(attempts.pop(attempt))
                errors.append(error)
    finally:
        for attempt in attempts:
            # Two may have answered in one turn of the loop: close the second.
            if not attempt.cancel() and not attempt.cancelled() and attempt.exception() is None:
                attempt.result().close()
    raise _as_one(errors)


async def _connect(endpoint: Endpoint, local: list[Endpoint] | None, accepted_within: float | None) -> socket.socket:
    family, kind, protocol, address = endpoint
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)
        if local is not None:
            own = next((one[3] for one in local if one[0] == family), None)
            if own is None:
                raise OSError(errno.EADDRNOTAVAIL, "no local address of this family is to be used")
            connection.bind(own)
        try:
            async with asyncio.timeout(accepted_within):
                await asyncio.get_running_loop().sock_connect(connection, address)
        except TimeoutError:
            # A loop that is late (stopped, or short of CPU time) finds the answer and the end of its time at once.
            if not _is_connected(connection):
                raise
    except BaseException:
        connection.close()
        raise
    return connection


def _is_connected(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    return bool(poll.poll(0)) and connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def _as_one(errors: list[OSError]) -> OSError:
    if len({str(error) for error in errors}) == 1:
        return errors[0]
    message = f"Multiple exceptions: {', '.join(str(error) for error in errors)}"
    # With an errno Python picks the subclass: if all were refused, this makes a ConnectionRefusedError.
    return OSError(errors[0].errno, message) if len({error.errno for error in errors}) == 1 else OSError(message)


# -- TLS and tunnels ------------------------------------------------------------------------------------------------


async def _transport(connection: socket.socket, tls: ssl.SSLContext | None, host: str, timeout: float) -> Opening:
    opening = Opening()
    loop = asyncio.get_running_loop()
    # asyncio closes the socket if this is cancelled or fails.
    if tls is None:
        await loop.create_connection(lambda: opening, sock=connection)
    else:
        await loop.create_connection(
            lambda: opening, sock=connection, ssl=tls, server_hostname=name_in_tls(host),
            ssl_handshake_timeout=_longer(timeout),
        )  # fmt: skip
    return opening


async def _through(
    opening: Opening,
    parent: Parent,
    host: str,
    port: int,
    tls: ssl.SSLContext,
    timeout: float,
    limits: HeadLimits,
) -> Opening:
    """A connection to an origin through the one to a parent proxy (RFC 9110 §9.3.6)."""
    outer = opening.transport
    assert outer is not None
    inner = Opening()
    try:
        await _ask_for_tunnel(opening, outer, parent, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", limits)
        inner.transport = await asyncio.get_running_loop().start_tls(
            outer, inner, tls, server_hostname=name_in_tls(host), ssl_handshake_timeout=_longer(timeout)
        )
        if inner.transport is None:
            raise ConnectionResetError("the connection was closed in the middle of a handshake")
    except OSError as error:
        outer.abort()
        raise _origin_error(error, f"{host}:{port}") from error
    except BaseException:
        outer.abort()
        raise
    return inner


async def _ask_for_tunnel(
    opening: Opening, transport: asyncio.Transport, parent: Parent, authority: str, limits: HeadLimits
) -> None:
    name = authority.encode()
    transport.write(request_head(b"CONNECT", name, name, b"Host: %b\r\n" % name + parent.lines, 1 + len(parent.fields)))
    received = b""
    interims = 0
    while True:
        head = parse_head(received, limits) if received else None
        if head is None:
            received += await opening.read()
            continue
        received = received[head.size :]
        if head.status >= 200 or head.status == 101:
            break
        interims += 1
        if interims > INTERIM_MAX:
            raise OriginError("http_protocol_error", f"more than {INTERIM_MAX} interim responses")
    if not 200 <= head.status <= 299:
        raise OriginError("http_protocol_error", f"{head.status} {head.reason} from the parent proxy for CONNECT")
    if received:
        # In TLS the client speaks first. Bytes that somebody injected here must not become part of the tunnel.
        raise OriginError("http_protocol_error", "something came through the tunnel before TLS")


def _longer(timeout: float) -> float:
    """A limit for asyncio's own timer of handshakes (60 s by default), which must not fire before ours."""
    return timeout + 10


def _origin_error(error: OSError, peer: str) -> OriginError:
    """An error with the proxy error type (RFC 9209 §2.3) of a failed connection."""
    detail = f"Cannot connect to host {peer} [{error.strerror or str(error) or type(error).__name__}]"
    match error:
        case ssl.SSLError():
            kind = tls_error(error) or ""
        case socket.gaierror():
            kind = "dns_error"
        case ConnectionRefusedError():
            kind = "connection_refused"
        case _:
            kind = "destination_unavailable"
    return OriginError(kind, detail)
