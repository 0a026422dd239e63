"""The fast lane's view of mitmproxy: when it is open, which client it is for, and what its requests come to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from mitmproxy import ctx, http
from mitmproxy.connection import Client, Server
from mitmproxy.proxy import mode_specs

from .addon_flows import address, interim_sender
from .answers import Answer, Exchange
from .cache import Cache
from .delivery import InFlight
from .http1 import Request, absolute_target
from .lane import Lane
from .layers import CacheHttpLayer
from .loop import read_at_once
from .options import Settings
from .semantics.headers import Headers
from .semantics.keys import Target
from .semantics.policy import Policy

if TYPE_CHECKING:
    from .addon import CacheAddon


def open_lane(addon: CacheAddon, client: Client) -> None:
    """Put a lane before mitmproxy's protocol of a connection that has just been accepted, if it can have one."""
    handler = ctx.master.addons.get("proxyserver").connections.get(client.id)
    transport = handler.transports.get(client) if handler is not None else None
    reader = transport.reader if transport is not None else None
    writer = transport.writer if transport is not None else None
    if not isinstance(reader, asyncio.StreamReader) or not isinstance(writer, asyncio.StreamWriter):
        return  # not a socket of asyncio's
    if reader.at_eof() or reader.exception() is not None or writer.transport.is_closing():
        return
    host = ClientLane(addon, client, handler)
    if host.base is None and not host.absolute:
        return
    inner: Any = writer.transport.get_protocol()
    lane = Lane(host, writer, inner)
    writer.transport.set_protocol(lane)
    loop = asyncio.get_running_loop()

    def begin(early: bytes) -> None:
        if early:
            lane.data_received(early)
        if not lane.lost and not writer.transport.is_closing():
            host.lane_lost = read_at_once(loop, writer.transport)

    # What came before is in the stream's buffer, where mitmproxy has not begun to read yet. It goes to the lane first.
    buffer: Any = getattr(reader, "_buffer", None)
    if buffer:
        early = bytes(buffer)
        buffer.clear()
        loop.call_soon(begin, early)  # nothing is to be read before that
    else:
        begin(b"")


Base: TypeAlias = tuple[str, str, int] | None
"""Scheme, host and port of all requests, where the proxy stands in for an origin."""


class Targets:
    """Which requests are the cache's. What has been found out holds until an option changes."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self._known: dict[Base, dict[bytes, tuple[Request, Target]]] = {}
        self._onboarding_host: str | None = None
        self._keep_host = False

    def known(self, base: Base) -> dict[bytes, tuple[Request, Target]]:
        """Requests that need not be looked at again, of all lanes with this base."""
        return self._known.setdefault(base, {})

    def forget(self) -> None:
        for known in self._known.values():
            known.clear()
        self._onboarding_host = None

    def find(self, text: str, base: Base) -> Target | None:
        """What the target of a request line stands for, if that is for the cache to answer."""
        if self._onboarding_host is None:  # mitmproxy makes a copy of an option each time
            self._onboarding_host = str(ctx.options.onboarding_host)
            self._keep_host = bool(ctx.options.keep_host_header)
        if base is None:
            target = absolute_target(text)
        elif text.startswith("/") and not self._keep_host:
            target = Target.of(*base, text)
        else:
            target = None
        if (
            target is None
            or self.settings is None
            or target.host == self._onboarding_host
            or target.path.endswith(".crl")
            or not self.settings.caches(target.host, target.port)
        ):
            return None
        return target


class ClientLane:
    """What :class:`~.lane.Lane` asks, answered for one client's connection."""

    def __init__(self, addon: CacheAddon, client: Client, handler: Any) -> None:
        self.addon = addon
        self.via = addon.via
        self.client = address(client)
        self.sends, self.ends = addon.sends, addon.ends
        self.lane_lost: Callable[[], None] = lambda: None
        self._client = client
        self._watchdog = handler.timeout_watchdog
        mode = client.proxy_mode
        self.absolute = isinstance(mode, (mode_specs.RegularMode, mode_specs.UpstreamMode))
        self.base: Base = None
        if isinstance(mode, mode_specs.ReverseMode) and mode.scheme in ("http", "https"):
            self.base = (mode.scheme, *mode.address)
        self.known = addon.lane_targets.known(self.base)

    def lane_cache(self) -> Cache | None:
        return self.addon.lane_cache() if self._client.error is None else None

    @property
    def by_the_book(self) -> bool:
        settings = self.addon.settings
        return settings is not None and settings.rules.are_none

    def lane_hit(self, target: Target, status: int, size: int, started: float) -> None:
        self._watchdog.register_activity()
        addon = self.addon
        addon.metrics.hit(size)
        if addon.settings is not None and addon.settings.access_log:
            addon.access_log.hit(target.shown, status, size, time.monotonic() - started, self.client)

    def lane_target(self, text: str) -> Target | None:
        return self.addon.lane_targets.find(text, self.base)

    def lane_policy(self, request: Request, target: Target) -> Policy:
        assert self.addon.settings is not None
        rules = self.addon.settings.rules
        if rules.are_none:
            return rules.base
        flow = http.HTTPFlow(self._client, Server(address=(target.host, target.port)))
        headers = http.Headers([(b"Host", target.authority.encode()), *request.fields.headers.fields])
        flow.request = http.Request(
            target.host, target.port, b"GET", target.scheme.encode(), b"", target.path.encode(), b"HTTP/1.1",
            headers, b"", None, 0.0, 0.0,
        )  # fmt: skip
        return rules.policy_for(flow)

    def lane_child_is_idle(self, handed: int) -> bool:
        layer = self.addon.http_layers.get(self._client.id)
        return isinstance(layer, CacheHttpLayer) and layer.is_idle_after(handed)

    def lane_interim(self, http11: bool) -> Callable[[int, Headers], None] | None:
        return interim_sender(self._client, "HTTP/1.1" if http11 else "HTTP/1.0")

    def lane_begin(self, exchange: Exchange) -> InFlight:
        self._watchdog.register_activity()
        return self.addon.begin(exchange)

    def lane_answered(self, exchange: Exchange, answer: Answer) -> None:
        self.addon.metrics.answered(answer.source, exchange.collapsed)

    def lane_end(self, state: InFlight, answer: Answer | None, note: str) -> None:
        self._watchdog.register_activity()
        self.addon.end(state, answer, self.client, note)

    def failed(self, error: Exception) -> None:
        self.addon.failed(error)
