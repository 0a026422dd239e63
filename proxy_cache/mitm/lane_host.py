"""The fast lane's view of mitmproxy: when it is open, which client it is for, and how its requests end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from mitmproxy import ctx
from mitmproxy.connection import Client, ConnectionState
from mitmproxy.proxy import mode_specs

from ..caching.cache import Cache
from ..downstream.respond import send_interim
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.policy import Policy
from ..wire.requests import Request, absolute_target
from .filters import flow_of

if TYPE_CHECKING:
    from .accept import Clients


async def _unless_disarmed(watchdog: Any, callback: Callable[[], Awaitable[None]]) -> None:
    """In place of the callback of mitmproxy's watchdog over a connection, which looks only before it falls asleep
    whether it has been disarmed."""
    if watchdog.blocker:
        await watchdog.watch()
    else:
        await callback()


Base: TypeAlias = tuple[str, str, int] | None
"""Scheme, host and port of all requests, where the proxy stands in for an origin."""


class Targets:
    """The targets of request lines. They are remembered until an option changes."""

    def __init__(self) -> None:
        self._known: dict[Base, dict[bytes, tuple[Request, Target, str]]] = {}
        self._onboarding_host: str | None = None
        self._keep_host = False

    def known(self, base: Base) -> dict[bytes, tuple[Request, Target, str]]:
        """Requests that need not be looked at again, of all lanes with this base."""
        return self._known.setdefault(base, {})

    def forget(self) -> None:
        for known in self._known.values():
            known.clear()
        self._onboarding_host = None

    def find(self, text: str, base: Base) -> Target | None:
        """The target of a request line; ``None`` if mitmproxy has to answer it."""
        if base is None:
            target = absolute_target(text)
        elif text.startswith("/"):
            target = Target.of(*base, text)
        else:
            target = None
        if target is None or not self.is_for_origin(target) or (base is not None and self._keep_host):
            return None
        return target

    def is_for_origin(self, target: Target) -> bool:
        """Whether a GET is of no interest to mitmproxy's own services: its onboarding site and its revocation list."""
        if self._onboarding_host is None:  # mitmproxy makes a copy of an option each time
            self._onboarding_host = str(ctx.options.onboarding_host)
            self._keep_host = bool(ctx.options.keep_host_header)
        return target.host != self._onboarding_host and not target.path.endswith(".crl")


class ClientLane:
    """The :class:`~downstream.host.Host` of one client's lane."""

    def __init__(self, clients: Clients, mode: mode_specs.ProxyMode, transport: Any) -> None:
        self._clients = clients
        self._app = app = clients.app
        self.via = app.via
        self.admission, self.accounts, self.failed = app.admission, app.accounts, app.failed
        peername = transport.get_extra_info("peername")
        self.client = str(peername[0]) if peername else "unknown"
        self.sends, self.ends = app.sends, app.ends
        self.head_limits = app.head_limits
        """As they were when the client connected: each request of a lane looks at them."""
        self.end_reading: Callable[[], None] = lambda: None
        self.absolute = isinstance(mode, (mode_specs.RegularMode, mode_specs.UpstreamMode))
        self.base: Base = None
        if isinstance(mode, mode_specs.ReverseMode) and mode.scheme in ("http", "https"):
            self.base = (mode.scheme, *mode.address)
        self.known = clients.targets.known(self.base)
        self._mode = mode
        self._transport = transport
        self._client: Client | None = None
        self._watchdog: Any = None
        self._disarmed = contextlib.ExitStack()

    @property
    def has_requests(self) -> bool:
        """Whether requests of this mode of mitmproxy's may be the cache's."""
        return self.absolute or self.base is not None

    def attached(self, client: Client, handler: Any) -> None:
        """mitmproxy has heard of this client."""
        self._client = client
        self._watchdog = watchdog = handler.timeout_watchdog
        watchdog.callback = partial(_unless_disarmed, watchdog, watchdog.callback)

    def lane_lost(self) -> None:
        self.end_reading()
        self._clients.lost(self)

    def lane_is_detached(self) -> None:
        self._disarmed.close()

    def lane_is_back(self) -> None:
        # mitmproxy counts the seconds since the last bytes that it has seen, and sees none of a lane's.
        if self._watchdog is not None:
            self._disarmed.enter_context(self._watchdog.disarm())

    def lane_cache(self) -> Cache | None:
        return self._clients.lane_cache() if self._client is None or self._client.error is None else None

    @property
    def asks_clients(self) -> bool:
        settings = self._app.settings
        return settings is None or settings.rules.ask_clients

    @property
    def half_closed_clients(self) -> bool:
        return self._app.half_closed_clients

    def lane_hit(self, target: Target, status: int, size: int, started: float) -> None:
        app = self._app
        app.metrics.hit(size)
        if app.accounts.is_logged:
            app.access_log.hit(target.shown, status, size, time.monotonic() - started, self.client)

    def lane_target(self, text: str) -> Target | None:
        return self._clients.targets.find(text, self.base)

    def lane_policy(self, request: Request, target: Target) -> Policy:
        assert self._app.settings is not None
        rules = self._app.settings.rules
        if rules.are_none:
            return rules.base
        return rules.policy(target, b"GET", lambda: flow_of(self._client or self._unheard_of(), target, request.lines))

    def _unheard_of(self) -> Client:
        """The client as mitmproxy would see it, for the filters of rules."""
        info = self._transport.get_extra_info
        return Client(
            peername=info("peername"), sockname=info("sockname"), timestamp_start=time.time(),
            proxy_mode=self._mode, state=ConnectionState.OPEN,
        )  # fmt: skip

    def lane_child_is_idle(self, handed: int) -> bool:
        layer = self._clients.layer_of(self._client) if self._client is not None else None
        return layer is not None and layer.is_idle_after(handed)

    def lane_interim(self, http11: bool) -> Callable[[int, Headers], None] | None:
        return partial(send_interim, self._transport) if http11 else None
