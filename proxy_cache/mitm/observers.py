"""Other addons in mitmproxy that see our flows.

A flow's four hooks are eight trips through mitmproxy's forty addons, most of what a hit costs. Where no other addon
does anything with a plain GET, our own hooks are called directly instead (see ``CacheHttpLayer``); any script with
such a hook, and any option that makes a built-in addon look at flows, brings the trips back.
"""

from __future__ import annotations

import time
from typing import Any

from mitmproxy import ctx

from ..downstream.users import Users
from .compat import NEIGHBOURS, find

UPGRADE_HOOKS = (
    "websocket_start",
    "websocket_message",
    "websocket_end",
    "tcp_start",
    "tcp_message",
    "tcp_end",
    "tcp_error",
)
"""Hooks for a connection that is no longer HTTP."""
CONNECTION_HOOKS = ("client_connected", "client_disconnected")
CONNECT_HOOKS = ("http_connect", "http_connected")
ADDON_NAME = "proxy_cache"
REQUESTS_NAME = "proxy_cache_requests"
"""The part of ours that is an addon of its own, see :mod:`.late_hooks`."""
HOOKS = ("requestheaders", "request", "responseheaders", "response", "error", "update")
GOOD_FOR = 1.0
"""Seconds. mitmproxy itself looks for changed scripts once a second."""

IDLE_WITHOUT: dict[str, tuple[str, ...]] = {
    "anticache": ("anticache",),
    "anticomp": ("anticomp",),
    "blocklist": ("block_list",),
    "maplocal": ("map_local",),
    "mapremote": ("map_remote",),
    "modifybody": ("modify_body",),
    "modifyheaders": ("modify_headers",),
    "proxyauth": ("proxyauth",),
    "save": ("save_stream_file",),
    "savehar": ("hardump",),
    "serverplayback": ("server_replay",),
    "stickyauth": ("stickyauth",),
    "stickycookie": ("stickycookie",),
    "upstreamauth": ("upstream_auth",),
    "dumper": ("flow_detail",),
    # These act on requests that are never answered directly, see `Targets.is_for_origin`.
    "disableh2c": (),
    "onboarding": (),
    "tlsconfig": (),
    # Only for responses of a reverse proxy's own connection.
    "updatealtsvc": (),
    # Its `update` is not a hook.
    "proxyserver": (),
}
"""mitmproxy's own addons with hooks for flows, and the options without which these do nothing."""


_traverse = find("mitmproxy.addonmanager:traverse")
_BLOCK = find("mitmproxy.addons.block:Block")


class FlowObservers:
    """Tells, from one second to the next, whether we are alone with our flows."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._why: str | None = "not looked yet"
        self._watch_connections = self._watch_connects = True
        self._until = 0.0

    def forget(self) -> None:
        """Something was configured: look again."""
        self._until = 0.0

    def has_observers(self) -> bool:
        """Whether flows have to take the way through all hooks: also to mitmproxy's own for ``proxyauth``."""
        return self.found() is not None or self._users.is_on

    def found(self) -> str | None:
        """Another addon that does something with flows, in words; ``None`` if there is none but that for ``proxyauth``:
        lanes know by themselves who may pass."""
        if time.monotonic() >= self._until:  # asked for every hit
            self._look()
        return self._why

    def watch_connections(self) -> bool:
        """Whether an addon has to hear of every client that comes or goes. mitmproxy's own one decides by the address,
        see :mod:`.accept`."""
        self.found()
        return self._watch_connections

    def watch_connects(self) -> bool:
        """Whether an addon has to hear of every CONNECT."""
        self.found()
        return self._watch_connects

    def _look(self) -> None:
        now = time.monotonic()
        if not NEIGHBOURS.is_on:
            self._why, self._until = "mitmproxy's other addons can't be seen", now + 60.0
            self._watch_connections = self._watch_connects = True
            return
        found = map(self._what_it_does, _traverse(ctx.master.addons.chain))
        self._why = next((what for what in found if what is not None), None)
        self._watch_connections = any(
            callable(getattr(addon, hook, None)) and not self._is_known(addon)
            for addon in _traverse(ctx.master.addons.chain)
            for hook in CONNECTION_HOOKS
        )
        self._watch_connects = any(
            self._what_it_does(addon, CONNECT_HOOKS) for addon in _traverse(ctx.master.addons.chain)
        )
        self._until = now + GOOD_FOR

    def _is_known(self, addon: Any) -> bool:
        return isinstance(addon, _BLOCK) or getattr(addon, "name", None) == ADDON_NAME

    def watch_upgrades(self) -> bool:
        """Whether an addon looks at what follows a 101. Not remembered: it is asked once an upgrade."""
        return not NEIGHBOURS.is_on or any(
            self._what_it_does(addon, UPGRADE_HOOKS) for addon in _traverse(ctx.master.addons.chain)
        )

    def _what_it_does(self, addon: Any, which: tuple[str, ...] = HOOKS) -> str | None:
        hooks = [hook for hook in which if callable(getattr(addon, hook, None))]
        name = getattr(addon, "name", type(addon).__name__.lower())
        if not hooks or name in (ADDON_NAME, REQUESTS_NAME):
            return None
        options = IDLE_WITHOUT.get(name) if type(addon).__module__.startswith("mitmproxy.addons.") else None
        if options is None:
            return f"addon {name} has the hook {hooks[0]}"
        if name == "proxyauth" and self._users.is_on:
            return None
        return next((f"option {option} is set" for option in options if getattr(ctx.options, option, None)), None)
