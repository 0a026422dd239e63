"""The raw relay behind a CONNECT."""

from __future__ import annotations

from dataclasses import dataclass

from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import _events as http_events
from mitmproxy.proxy.layers.tcp import TCPLayer

from .tunnels import Tunnels


@dataclass
class TunnelReady(commands.Command):
    """The target of a CONNECT was dialled: ``error`` is why that failed."""

    error: str | None


class Tunnel(TCPLayer):
    """A raw tunnel: relayed, counted, looked at by nobody."""

    def __init__(self, context: Context, tunnels: Tunnels) -> None:
        super().__init__(context, ignore=True)
        self._tunnels = tunnels
        self._handle_event = self._dial

    def _dial(self, event: events.Event) -> layer.CommandGenerator[None]:
        error = yield commands.OpenConnection(self.context.server)
        self._handle_event = self.done if error else self._relay
        yield TunnelReady(error)

    def _relay(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.DataReceived):
            client = self.context.client
            self._tunnels.data(client, event.connection is client, len(event.data))
        yield from self.relay_messages(event)


class Relay(TCPLayer):
    """A connection after a 101: bytes both ways, kept by nobody."""


def connection_event(event: events.Event, context: Context) -> events.Event:
    """An event of a client's stream, as one of its connection."""
    if isinstance(event, http_events.RequestData):
        return events.DataReceived(context.client, event.data)
    if isinstance(event, http_events.RequestEndOfMessage):
        return events.ConnectionClosed(context.client)
    return event
