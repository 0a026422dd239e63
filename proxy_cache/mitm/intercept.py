"""Hosts that are intercepted (option ``intercept_hosts``): their CONNECTs are answered here, and TLS ends in the lane.

From there on it is a lane like any other, of a client that asks ``https://host:port`` for everything; what the lane
leaves to mitmproxy goes, as plaintext, to mitmproxy's own reverse proxy for that origin. A connection that turns out to
be none of ours is a tunnel after all: mitmproxy is given its CONNECT, and what has come since.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import islice, takewhile
from typing import Any, Final, Literal

from mitmproxy import ctx, exceptions
from mitmproxy.proxy import mode_specs

from ..app import App
from ..downstream.admission import Route
from ..downstream.handshake import UNRECOGNIZED_NAME, Handshake
from ..downstream.lane import Lane
from ..downstream.tls import TlsTransport
from ..settings import is_one_of
from ..wire.client_hello import NO_TLS, ClientHello
from ..wire.connect import ESTABLISHED, Connect, parse_connect
from . import compat
from .lane_host import ClientLane
from .leaves import Leaves, ca_problem

FALLBACK: Final = 600.0
"""Seconds for which the connections of a client that does not trust us are tunnelled."""
HASTY: Final = 10.0
"""Seconds. A client that looks at the certificate after the handshake (GnuTLS leaves that to the program) closes the
connection without a word."""
TOLD_FOR: Final = 60.0
"""Seconds for which the log says no more of a client and its host, but that it doesn't trust us."""
REMEMBERED: Final = 10_000
"""Clients and their hosts."""
MAX_SPECS: Final = 4096
"""Targets that mitmproxy remembers for good, if nobody makes it forget them."""

logger = logging.getLogger(__name__)

_instances = compat.find("mitmproxy.proxy.mode_servers:ServerInstance")
_server_spec = compat.find("mitmproxy.net.server_spec:parse")


def ca_file(confdir: str) -> str:
    """The certificate that clients have to trust."""
    return os.path.join(os.path.expanduser(confdir), "mitmproxy-ca-cert.pem")


def check_ca() -> None:
    """Whether clients could trust the CA at all. Raises ``OptionsError``."""
    store = getattr(ctx.master.addons.get("tlsconfig"), "certstore", None)
    if store is not None and (problem := ca_problem(store)):
        file = os.path.join(os.path.expanduser(ctx.options.confdir), "mitmproxy-ca.pem")
        raise exceptions.OptionsError(f"intercept_hosts: no client can trust the CA in {file}: {problem}")


class Recent:
    """Pairs of clients and their hosts, each for some time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: OrderedDict[tuple[str, str], float] = OrderedDict()

    def __contains__(self, pair: tuple[str, str]) -> bool:
        return self._until.get(pair, 0.0) > time.monotonic()

    def clear(self) -> None:
        self._until.clear()

    def add(self, pair: tuple[str, str]) -> None:
        self._until[pair] = time.monotonic() + self._seconds
        self._until.move_to_end(pair)
        while len(self._until) > REMEMBERED:
            self._until.popitem(last=False)

    def latest(self, limit: int) -> list[tuple[str, str]]:
        """Up to so many of them, the latest first."""
        return list(islice(takewhile(self.__contains__, reversed(self._until)), limit))


class Interceptor:
    """Knows who is intercepted, and who doesn't like it."""

    def __init__(
        self,
        app: App,
        open_lane: Callable[[mode_specs.ProxyMode, Any, Any, ClientLane], None],
        has_observers: Callable[[], bool],
    ) -> None:
        """``open_lane`` gives a transport its lane, for a mode of mitmproxy's, before a protocol of mitmproxy's, inside
        of another one. ``has_observers``: whether other addons (``proxyauth``, say) have to see each CONNECT, and may
        refuse it."""
        self.app = app
        self._has_observers = has_observers
        self.open_lane = open_lane
        self.leaves = Leaves(lambda: ctx.master.addons.get("tlsconfig").certstore)
        self.distrusting = Recent(FALLBACK)
        self.trusting = Recent(24 * 3600.0)
        self._told = Recent(TOLD_FOR)

    def take(self, host: ClientLane, lane: Lane, transport: Any, data: bytes) -> bool | None:
        """Take a connection over if ``data`` begins with the CONNECT to a host that is intercepted. ``None``: more has
        to come before that is known. Where clients have to say who they are, mitmproxy asks them (407), and
        :meth:`take_from_flow` follows."""
        host.connect_is_a_tunnel = ""
        if not self.is_on or self._has_observers() or host.users.is_on:
            return False
        connect = parse_connect(data, host.head_limits)
        if not isinstance(connect, Connect):
            return None if connect is None else False
        mode = self._mode(host, connect)
        if mode is None:
            host.connect_is_a_tunnel = connect.authority
            return False
        lane.step_aside()
        Interception(self, host, lane, transport, connect, mode).answer_connect(data)
        return True

    def take_from_flow(self, host: Any, lane: Lane, connect: Connect, user: str) -> bool:
        """The same where mitmproxy has the CONNECT, and is going to answer it with a 200 now. ``user``: who has asked
        for it."""
        if not self.is_on or not isinstance(host, ClientLane) or not host.absolute:
            return False
        decided, host.connect_is_a_tunnel = host.connect_is_a_tunnel, ""
        if decided == connect.authority:
            return False
        host.client, host.proven = user, user if host.users.is_on else None
        mode = self._mode(host, connect)
        if mode is None:
            return False
        lane.step_aside()
        host.lane_is_back()
        host.connect_is_answered = True
        Interception(self, host, lane, host.transport, connect, mode)
        return True

    @property
    def is_on(self) -> bool:
        settings = self.app.settings
        return settings is not None and bool(settings.intercept.hosts) and compat.INTERCEPT.is_on

    def _mode(self, host: ClientLane, connect: Connect) -> mode_specs.ProxyMode | None:
        """mitmproxy's mode for what is in the tunnel; ``None`` if it is to stay one."""
        settings = self.app.settings
        if (
            settings is None
            or self.app.admission.route_connect(connect.host, connect.port) is not Route.TUNNEL
            or not is_one_of(settings.intercept.hosts, connect.host.removesuffix("."), connect.port)
        ):
            return None
        if settings.intercept.fallback and (host.client, connect.authority) in self.distrusting:
            self.count("fallback")
            return None
        try:
            return _mode_for(connect)
        except ValueError:
            return None  # mitmproxy knows no such host, and says so

    def count(self, outcome: str) -> None:
        self.app.metrics.intercepts.labels(outcome).inc()

    def tell(self, level: int, message: str, pair: tuple[str, str], *more: str) -> None:
        """Log something about a client and its host, unless that was just done."""
        if pair not in self._told:
            self._told.add(pair)
            logger.log(level, message, *pair, *more)

    def does_not_trust(self, client: str, connect: Connect, reason: str) -> None:
        """Say it, once in a while."""
        self.count("distrusted")
        pair = client, connect.authority
        if pair in self.distrusting:
            return
        self.distrusting.add(pair)
        settings = self.app.settings
        fallback = settings is not None and settings.intercept.fallback
        logger.warning(
            "proxy-cache: %s does not trust our certificate for %s (%s): have it trust the CA in %s, see "
            "docs/https.md%s",
            client, connect.authority, reason,
            ca_file(ctx.options.confdir),
            f"; its connections to this host are tunnelled for {FALLBACK / 60:.0f} minutes" if fallback else "",
        )  # fmt: skip


def _mode_for(connect: Connect) -> mode_specs.ProxyMode:
    """mitmproxy's mode that stands in for one origin. Raises ``ValueError``."""
    if _server_spec.cache_info().currsize > MAX_SPECS:
        _server_spec.cache_clear()
    data = f"https://{connect.authority}"
    return mode_specs.ReverseMode(f"reverse:{data}", data, None, None)


class Interception:
    """One connection, from its CONNECT on: the owner of its handshake."""

    def __init__(
        self, interceptor: Interceptor, host: ClientLane, lane: Lane, transport: Any, connect: Connect,
        mode: mode_specs.ProxyMode,
    ) -> None:  # fmt: skip
        """``lane``: of the connection until now."""
        self._interceptor = interceptor
        self._host, self._lane, self._transport = host, lane, transport
        self._connect, self._mode = connect, mode
        self._head = b""
        """Of the CONNECT, if mitmproxy has not had it."""
        self._name = connect.host.removesuffix(".")
        self._established_at = 0.0
        self._is_resumed = False
        # While the client has its answer, and says hello.
        self._leaf = interceptor.leaves.context(self._name, host.client, lambda: not transport.is_closing())
        self._handshake = Handshake(transport, self)
        transport.set_protocol(self._handshake)

    def answer_connect(self, data: bytes) -> None:
        """``data``: the CONNECT, and perhaps more."""
        size = self._connect.size
        self._head = data[:size]
        self._host.connect_is_answered = True
        self._transport.write(ESTABLISHED)
        if rest := data[size:]:
            self._handshake.data_received(rest)

    def hello_arrived(self, hello: ClientHello | Literal["no TLS"]) -> None:
        if hello == NO_TLS or not hello.speaks_http1:
            self._tunnel("tunnelled")
        elif hello.server_name is not None and hello.server_name != self._name:
            self._interceptor.count("refused")
            self._interceptor.tell(
                logging.WARNING,
                "proxy-cache: %s has a tunnel to %s and asks for another host there: refused",
                (self._host.client, self._connect.authority),
            )
            self._handshake.refuse(UNRECOGNIZED_NAME)
        elif self._leaf.done():
            self._answer(self._leaf)
        else:
            self._leaf.add_done_callback(self._answer)

    def _answer(self, leaf: asyncio.Future[Any]) -> None:
        if self._transport.is_closing():
            return
        try:
            context = leaf.result()
        except Exception as error:  # the CA's key doesn't fit, the disk is full …
            self._interceptor.app.failed(error)
            self._interceptor.count("failed")
            self._handshake.refuse(INTERNAL_ERROR)
            return
        self._handshake.answer(context)

    def established(self, tls: TlsTransport, *, resumed: bool) -> None:
        if self._host.users.is_on and self._host.proven is None:  # the option has changed since its CONNECT
            self._interceptor.count("refused")
            self._transport.set_protocol(self._handshake)
            self._transport.close()
            return
        self._interceptor.count("resumed" if resumed else "intercepted")
        self._established_at, self._is_resumed = time.monotonic(), resumed
        self._interceptor.open_lane(self._mode, tls, _protocol_for(self._mode, self._host.parent), self._host)

    def is_used(self) -> None:
        pair = self._host.client, self._connect.authority
        if pair not in self._interceptor.trusting:
            self._interceptor.trusting.add(pair)
        self._established_at = 0.0

    def failed(self, reason: str, *, by_client: bool) -> None:
        if by_client:
            self._interceptor.does_not_trust(self._host.client, self._connect, reason)
        else:
            self._interceptor.count("failed")
            self._interceptor.tell(
                logging.INFO,
                "proxy-cache: no TLS with %s for %s: %s",
                (self._host.client, self._connect.authority),
                reason,
            )

    def left(self, *, has_seen_certificate: bool) -> None:
        if not (has_seen_certificate and self._may_distrust()):
            self._interceptor.count("failed")

    def _may_distrust(self) -> bool:
        """A client has left at the sight of the certificate. One that was content with it before had other reasons, and
        when the proxy stops it is us who close."""
        client, interceptor = self._host.client, self._interceptor
        if interceptor.app.is_draining or (client, self._connect.authority) in interceptor.trusting:
            return False
        interceptor.does_not_trust(client, self._connect, "it left at the sight of it")
        return True

    def connection_lost(self, error: Exception | None) -> None:
        since = self._established_at
        if since and not self._is_resumed and time.monotonic() - since < HASTY:
            self._may_distrust()
        self._lane.connection_lost(error)

    def _tunnel(self, outcome: str) -> None:
        """It is not for us: have mitmproxy dial, and relay what has come."""
        self._interceptor.count(outcome)
        received = self._handshake.give_back()
        self._host.connect_is_a_tunnel = self._connect.authority if self._head else ""
        self._transport.set_protocol(self._lane)
        first = self._head + received
        self._lane.hand_on(first)
        if not first:
            self._host.dial_for_silent()


INTERNAL_ERROR: Final = b"\x15\x03\x03\x00\x02\x02\x50"
"""A fatal alert (RFC 8446 §6.2)."""


def _protocol_for(mode: mode_specs.ProxyMode, parent: tuple[str, tuple[str, int]] | None) -> asyncio.Protocol:
    """The protocol that mitmproxy would give a client of this mode. ``parent``: the proxy that its requests go
    through."""
    instance: Any = _instances.make(mode, ctx.master.addons.get("proxyserver"))
    if parent is not None:
        instance.make_top_layer = partial(_layer_behind, instance.make_top_layer, parent)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    return asyncio.StreamReaderProtocol(reader, instance.handle_stream, loop=loop)


def _layer_behind(make: Callable[[Any], Any], parent: Any, context: Any) -> Any:
    context.server.via = parent
    return make(context)
