"""The view that one client's lane has of mitmproxy: its client, its rules, and how its requests end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from mitmproxy import ctx, http
from mitmproxy.connection import Client, ConnectionState
from mitmproxy.proxy import events, mode_specs

from ..caching.cache import Cache
from ..downstream.hits import MOST
from ..downstream.lane import Lane
from ..downstream.respond import send_interim
from ..downstream.users import Users
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.policy import Policy
from ..wire.request_ids import parse_with_id
from ..wire.requests import Parser, Request, parse_request
from .compat import handler_of
from .filters import flow_of
from .lanes import Lanes
from .targets import Base

_PROVEN: Final = Users()
"""Asks nobody."""


async def _unless_disarmed(watchdog: Any, callback: Callable[[], Awaitable[None]]) -> None:
    """In place of the callback of mitmproxy's watchdog over a connection, which looks only before it falls asleep
    whether it has been disarmed."""
    if watchdog.blocker:
        await watchdog.watch()
    else:
        await callback()


def _same_user(outer: Client, inner: Client) -> None:
    """Who has proved who it is with a CONNECT (option ``proxyauth``) need not do so again inside."""
    known = getattr(ctx.master.addons.get("proxyauth"), "authenticated", None)
    if known is not None and (user := known.get(outer)) is not None:
        known[inner] = user


class ClientLane:
    """The :class:`~downstream.host.Host` of one client's lane."""

    def __init__(
        self, lanes: Lanes, mode: mode_specs.ProxyMode, transport: Any, *, outer: ClientLane | None = None
    ) -> None:
        """``outer``: of the connection that this is inside of. Its client, and not the operator, has chosen the target
        of this mode."""
        self._lanes = lanes
        self._app = app = lanes.app
        self.via = app.via
        self.admission, self.accounts, self.failed = app.admission, app.accounts, app.failed
        self.peers = app.peer_requests
        self._hits = app.accounts.hits
        peername = transport.get_extra_info("peername")
        self.users = app.users
        self.address = self.client = str(peername[0]) if peername else "unknown"
        self.sends, self.ends = app.sends, app.ends
        self.head_limits = app.head_limits
        """As they were when the client connected: each request of a lane looks at them."""
        self.parse: Parser = parse_request
        if app.heads.has_request_ids:
            self.parse = parse_with_id
        self.end_reading: Callable[[], None] = lambda: None
        self.absolute = isinstance(mode, (mode_specs.RegularMode, mode_specs.UpstreamMode))
        self.base: Base = None
        if isinstance(mode, mode_specs.ReverseMode) and mode.scheme in ("http", "https"):
            self.base = (mode.scheme, *mode.address)
        self.known = lanes.targets.known_while_open(self.base) if outer else lanes.targets.known(self.base)
        self.parent: tuple[str, tuple[str, int]] | None = None
        """The proxy that all requests go through."""
        if isinstance(mode, mode_specs.UpstreamMode):
            self.parent = mode.scheme, mode.address
        self.proven: str | None = None
        """The user who has proven itself by the CONNECT of this connection, or of the one that this is inside of."""
        if outer is not None and outer.proven is not None:
            self.belongs_to(outer.proven)
        self.connect_is_a_tunnel = ""
        """Host and port of a CONNECT that mitmproxy gets, if it has been decided that it is not to be intercepted."""
        self.connect_is_answered = False
        """Whether the client has had a 200 to the CONNECT that mitmproxy gets."""
        self._mode = mode
        self.transport = self._transport = transport
        self._outer = outer
        self._client: Client | None = None
        self._watchdog: Any = None
        self._disarmed = contextlib.ExitStack()
        self._telling: asyncio.Task[None] | None = None

    def belongs_to(self, user: str) -> None:
        """All that comes on this connection is from ``user``: the CONNECT before it has proven that, and nothing in the
        tunnel does again."""
        self.client = self.proven = user
        self.users = _PROVEN

    def lane_users_changed(self, *, is_idle: bool) -> bool:
        users_are_on = self._app.users.is_on
        if is_idle and not users_are_on:
            self.client = self.address
        elif is_idle and self.proven is not None:
            self.client = self.proven
        # In a tunnel nobody can be asked any more: what stands in for an origin asks for passwords of that (401).
        return self._outer is None or self.proven is not None or not users_are_on

    @property
    def has_requests(self) -> bool:
        """Whether requests of this mode of mitmproxy's may be the cache's."""
        # Where the proxy stands in for an origin, that is who asks for passwords (401), and mitmproxy does it.
        return self.absolute or (self.base is not None and not self.users.is_on)

    def attached(self, client: Client, handler: Any) -> None:
        """mitmproxy has heard of this client."""
        self._client = client
        if self._outer is not None and self._outer._client is not None:
            _same_user(self._outer._client, client)
        self._watchdog = watchdog = handler.timeout_watchdog
        watchdog.callback = partial(_unless_disarmed, watchdog, watchdog.callback)

    def lane_lost(self) -> None:
        self.end_reading()
        self._lanes.lost(self)

    def lane_is_detached(self) -> None:
        self._disarmed.close()

    def lane_is_back(self) -> None:
        # mitmproxy counts the seconds since the last bytes that it has seen, and sees none of a lane's.
        if self._watchdog is not None:
            self._disarmed.enter_context(self._watchdog.disarm())

    def lane_cache(self) -> Cache | None:
        return self._lanes.cache() if self._client is None or self._client.error is None else None

    @property
    def asks_clients(self) -> bool:
        settings = self._app.settings
        return settings is None or settings.rules.ask_clients

    @property
    def half_closed_clients(self) -> bool:
        return self._app.half_closed_clients

    def lane_hit(self, request: Request, target: Target, status: int, size: int, started: float) -> None:
        hits = (notes := self._hits).hits
        if not hits:
            notes.begin()
        client = request.user or self.client
        hits.append((target, status, size, started, time.monotonic(), client, request.id, request))
        if len(hits) >= MOST:
            notes.flush()

    def lane_target(self, text: str) -> Target | None:
        return self._lanes.targets.find(text, self.base)

    def lane_policy(self, request: Request, target: Target) -> Policy:
        assert self._app.settings is not None
        rules = self._app.settings.rules
        if rules.are_none:
            return rules.base
        return rules.policy(target, b"GET", lambda: self._flow_of(request, target))

    def _flow_of(self, request: Request, target: Target) -> http.HTTPFlow:
        user = request.user or (self.proven if self._app.users.is_on else None)
        return flow_of(self._client or self._unheard_of(), target, request.lines, user)

    def lane_connect(self, lane: Lane, data: bytes) -> bool | None:
        return self._lanes.take_connect(self, lane, self._transport, data) if self.absolute else False

    def _unheard_of(self) -> Client:
        """The client as mitmproxy would see it, for the filters of rules."""
        info = self._transport.get_extra_info
        return Client(
            peername=info("peername"), sockname=info("sockname"), timestamp_start=time.time(),
            proxy_mode=self._mode, state=ConnectionState.OPEN,
        )  # fmt: skip

    def dial_for_silent(self) -> None:
        """mitmproxy has answered a CONNECT and dials with the client's first bytes (see ``connect.py``). This client
        waits for its server to speak first: say that there are some."""
        client = self._client
        if client is not None and (handler := handler_of(client)) is not None:
            told = handler.server_event(events.DataReceived(client, b""))
            self._telling = asyncio.get_running_loop().create_task(told)

    def lane_child_is_idle(self, handed: int) -> bool:
        layer = self._lanes.layers.get(self._client.id) if self._client is not None else None
        return layer is not None and layer.is_idle_after(handed)

    def lane_interim(self, http11: bool) -> Callable[[int, Headers], None] | None:
        return partial(send_interim, self._transport) if http11 else None
