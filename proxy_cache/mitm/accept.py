"""Clients, from the moment they connect.

What mitmproxy does for a connection before its first byte (a handler, three tasks, two hooks for forty addons) takes
four times as long as a hit. A client that is only going to be answered by its lane has no need of it: it gets the lane
at once, and mitmproxy hears of the client when the lane has something to hand over.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from mitmproxy.connection import Client
from mitmproxy.proxy import mode_specs

from ..app import App
from ..downstream.lane import Lane
from ..downstream.turned_away import TurnedAway
from ..runtime.loop import ProtocolFactory, read_at_once
from ..wire.connect import Connect
from . import compat
from .backpressure import GatedReader, gate_of, with_gate
from .filters import shown_authority
from .intercept import Interceptor
from .lane_host import ClientLane
from .lanes import Lanes
from .observers import FlowObservers

ADMITTED = 10_000
"""Addresses that are remembered."""

logger = logging.getLogger(__name__)
_connection_log = logging.getLogger("mitmproxy.proxy.server")


class Clients:
    """Gives connections their lanes; knows the addresses that get one without mitmproxy's knowing."""

    def __init__(self, app: App, observers: FlowObservers) -> None:
        self.app = app
        self.lanes = Lanes(app, observers)
        self.interceptor = Interceptor(app, self.open_inside, observers.watch_connects)
        self.lanes.take_connect = self.interceptor.take
        self._observers = observers
        self._admitted: set[str] = set()
        """Addresses that mitmproxy (its options ``block_global`` and ``block_private``) has let in."""
        self._has_looked = False
        """Whether mitmproxy's objects for a client were checked to have the shape that lanes expect."""
        self._half_closed: dict[str, GatedReader] = {}
        """Readers of clients, known to mitmproxy, that send no more and wait for an answer."""

    def configure(self) -> None:
        """An option has changed: new clients are shown to mitmproxy again."""
        self._admitted.clear()
        self.lanes.configure()

    def turn_away(self, transport: Any) -> asyncio.Protocol | None:
        """What answers a new connection of a client that is not served (``access_clients``); ``None``: it is."""
        peername, settings = transport.get_extra_info("peername"), self.app.settings
        client = str(peername[0]) if peername else "unknown"
        if settings is None or settings.serves(client):
            return None
        return TurnedAway(transport, client, self.app.heads, self.app.accounts, self.app.access)

    def layer_chosen(self, client: Client, layer: Any) -> None:
        self.lanes.layers.setdefault(client.id, layer)

    def wrap_factory(self, mode: mode_specs.ProxyMode, factory: ProtocolFactory) -> ProtocolFactory:
        """The protocol that asyncio makes for a new connection, around the one of mitmproxy's ``factory``."""
        return lambda: AcceptProtocol(self, mode, factory)

    def arrived(self, transport: Any, mode: mode_specs.ProxyMode, inner: Any) -> bool:
        """Give a new connection its lane, if mitmproxy need not hear of it yet."""
        peername = transport.get_extra_info("peername")
        if (
            not peername
            or not compat.LANE.is_on
            or peername[0] not in self._admitted
            or self.lanes.cache() is None
            or self._observers.watch_connections()
            or _connection_log.isEnabledFor(logging.INFO)
        ):
            return False
        host = ClientLane(self.lanes, mode, transport)
        if not host.has_requests:
            return False
        writer = asyncio.StreamWriter(transport, inner, None, asyncio.get_running_loop())
        self._open(host, Lane(host, writer, inner, attached=False), transport)
        return True

    def open_inside(self, mode: mode_specs.ProxyMode, transport: Any, inner: Any, outer: ClientLane) -> None:
        """Give what is inside a connection a lane of its own. mitmproxy has let the connection in, and need not hear of
        this before the lane has something to hand over."""
        host = ClientLane(self.lanes, mode, transport, outer=outer)
        writer = asyncio.StreamWriter(transport, inner, None, asyncio.get_running_loop())
        self._open(host, Lane(host, writer, inner, attached=False), transport)

    def intercept(self, client: Client, host: str, port: int, user: str) -> bool:
        """Take over a connection whose CONNECT mitmproxy has, and is going to answer with 200, if it is to be
        intercepted. ``user``: who has asked for it."""
        lane = self._lane_of(client)
        if lane is None:
            return False
        name = shown_authority(host).lower()  # mitmproxy has decoded what came as a name of IDNA
        return self.interceptor.take_from_flow(lane.host, lane, Connect(name, port, 0), user)

    def connect_is_answered(self, client: Client) -> bool:
        """Whether a client has had its 200 before mitmproxy got its CONNECT."""
        lane = self._lane_of(client)
        return lane is not None and isinstance(lane.host, ClientLane) and lane.host.connect_is_answered

    def _lane_of(self, client: Client) -> Lane | None:
        writer = compat.client_writer(client)
        lane: Any = writer.transport.get_protocol() if isinstance(writer, asyncio.StreamWriter) else None
        return lane if isinstance(lane, Lane) else None

    def connected(self, client: Client) -> None:
        """mitmproxy has heard of a client: of one that has a lane already, or is to have one before mitmproxy's
        protocol if it can."""
        if not (compat.LANE.is_on or compat.BACKPRESSURE.is_on):
            return
        handler = compat.handler_of(client)
        if not self._has_looked and handler is not None:
            self._has_looked = True
            self._look(handler, client)
        if handler is None:
            return
        io = handler.transports.get(client)
        if io is not None:
            # A tunnel ends in one direction at a time (RFC 9110 §9.3.6), and this client may think that it has one.
            with_gate(io, lambda: self.app.half_closed_clients or self.connect_is_answered(client))
        reader, writer = (io.reader, io.writer) if io is not None else (None, None)
        if isinstance(reader, GatedReader):
            reader = reader.reader
        if (
            client.error is not None
            or not compat.LANE.is_on
            or not isinstance(reader, asyncio.StreamReader)
            or not isinstance(writer, asyncio.StreamWriter)  # not a socket of asyncio's
        ):
            return
        if len(self._admitted) >= ADMITTED:
            self._admitted.clear()
        if client.peername:
            self._admitted.add(client.peername[0])
        transport: Any = writer.transport
        inner: Any = transport.get_protocol()
        if isinstance(inner, Lane):
            assert isinstance(inner.host, ClientLane)
            inner.host.attached(client, handler)
            return
        host = ClientLane(self.lanes, client.proxy_mode, transport)
        if not host.has_requests or reader.at_eof() or reader.exception() is not None or transport.is_closing():
            return
        host.attached(client, handler)
        host.lane_is_back()
        # Earlier bytes are in the stream's buffer, where mitmproxy has not started to read yet. They go to the lane.
        buffer: Any = getattr(reader, "_buffer", b"")
        early = bytes(buffer)
        if early:
            buffer.clear()
        self._open(host, Lane(host, writer, inner), transport, early)

    def _look(self, handler: Any, client: Client) -> None:
        """Check on the first client whether an instance has the attributes that its class doesn't show."""

        def for_gate() -> None:
            io = handler.transports[client]
            _ = io.handler, io.reader, io.writer

        def for_lane() -> None:
            for_gate()
            watchdog = handler.timeout_watchdog
            _ = watchdog.callback, watchdog.blocker, watchdog.disarm, watchdog.watch

        compat.LANE.guard(logger, for_lane)
        compat.BACKPRESSURE.guard(logger, for_gate)

    def _open(self, host: ClientLane, lane: Lane, transport: Any, early: bytes = b"") -> None:
        transport.set_protocol(lane)
        self.lanes.opened(host, lane)
        loop = asyncio.get_running_loop()

        def begin() -> None:
            if early:
                lane.data_received(early)
            if not lane.lost and not transport.is_closing():
                host.end_reading = read_at_once(loop, transport)

        if early:
            loop.call_soon(begin)  # nothing is to be read before that
        else:
            begin()

    def still_listens(self, client: Client) -> bool:
        """Whether a client that has sent a FIN is to have its answers (option ``half_closed_clients``). It may leave at
        any time from now on, and mitmproxy, which reads it no more, has to be told."""

        def gone() -> None:
            io = compat.io_of(client, client)
            if io is not None and io.handler is not None:
                io.handler.cancel("reset by the client")

        gate = gate_of(client)
        if gate is None or not gate.is_half_closed(gone):
            return False
        self._half_closed[client.id] = gate
        return True

    def disconnected(self, client: Client) -> None:
        """mitmproxy has done with a client."""
        self.lanes.layers.pop(client.id, None)
        gate = self._half_closed.pop(client.id, None)
        if gate is not None:
            gate.end_watch()


class AcceptProtocol(asyncio.Protocol):
    """A connection that has just been accepted: decides whose it is."""

    def __init__(self, clients: Clients, mode: mode_specs.ProxyMode, factory: ProtocolFactory) -> None:
        self._clients, self._mode, self._factory = clients, mode, factory

    def connection_made(self, transport: Any) -> None:
        away = self._clients.turn_away(transport)
        if away is not None:
            transport.set_protocol(away)
            return
        inner: Any = self._factory()
        try:
            if self._clients.arrived(transport, self._mode, inner):
                return
        except Exception as error:  # mitmproxy's then
            self._clients.app.failed(error)
        transport.set_protocol(inner)
        inner.connection_made(transport)
