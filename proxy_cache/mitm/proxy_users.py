"""mitmproxy's option ``proxyauth`` and the fast lane: one memory of who may pass, on both ways.

mitmproxy's own addon stays responsible for flows. It is asked here in our words: what it would check by itself, on the
event loop and for each request anew, :class:`~..downstream.users.Users` has checked in a thread before, and remembers.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from mitmproxy import ctx, exceptions, http
from mitmproxy.connection import Client
from mitmproxy.proxy import mode_specs

from ..app import App
from ..semantics.headers import Headers
from ..semantics.peer_fields import taken_off
from .compat import PROXY_USERS, find
from .flows import address, refusal, target_of

FIELD: Final = "Proxy-Authorization"
LOOK_EVERY: Final = 1.0
"""Seconds between looks at a password file."""
ASK_AGAIN_AFTER: Final = 300.0
"""Seconds for which a directory's word counts: it tells nobody of accounts that are closed."""
_PROXIES: Final = (mode_specs.RegularMode, mode_specs.UpstreamMode)

logger = logging.getLogger(__name__)
_parse = find("mitmproxy.addons.proxyauth:parse_http_basic_auth")
_HTPASSWD = find("mitmproxy.addons.proxyauth:Htpasswd")
_LDAP = find("mitmproxy.addons.proxyauth:Ldap")


def _parts(credential: str) -> tuple[str, str]:
    """User and password of a field's value. Raises ``ValueError``."""
    _, user, password = _parse(credential)
    return user, password


class _Validator:
    """In place of mitmproxy's own, within its addon."""

    def __init__(self, accepts: Callable[[str, str], bool]) -> None:
        self._accepts = accepts

    def __call__(self, username: str, password: str) -> bool:
        return self._accepts(username, password)


class ProxyUsers:
    """Ties mitmproxy's addon to :attr:`App.users`. ``forget``: called when known requests have to be looked at
    again."""

    def __init__(self, app: App, forget: Callable[[], None]) -> None:
        self._app = app
        self._users = app.users
        self._forget_known = forget
        self._addon: Any = None
        self._spec = ""
        self._stamp: object = None
        self._watching: asyncio.Task[None] | None = None
        self._is_unreadable = False

    def configure(self) -> None:
        """An option has changed. (mitmproxy's addon has heard of it before: it is earlier in the chain.)"""
        addon: Any = ctx.master.addons.get("proxyauth") if PROXY_USERS.is_on else None
        validator = getattr(addon, "validator", None)
        if isinstance(validator, _Validator):
            return
        if validator is None:
            if self._users.is_on:
                self._end_watch()
                self._users.switch_off()
                self._forget_known()
            return
        if self._addon is None:
            self._addon = addon
            addon.requestheaders = partial(self._before, addon.requestheaders)
            addon.http_connect = partial(self._before, addon.http_connect)
        self._spec, self._is_unreadable = str(ctx.options.proxyauth), False
        self._end_watch()
        if isinstance(validator, _HTPASSWD):
            self._stamp = _stamp(self._spec)
            with suppress(exceptions.OptionsError):
                validator = _HTPASSWD(self._spec)  # as it was when it was looked at
            self._watch(self._look_at_file, LOOK_EVERY)
        elif isinstance(validator, _LDAP):
            self._watch(self._forget, ASK_AGAIN_AFTER)
            validator = _without_patterns(validator)
        addon.validator = _Validator(self._users.accepts)
        self._use(validator)

    def _use(self, validator: Callable[[str, str], bool]) -> None:
        self._users.use(_parts, validator)
        self._forget_known()

    def _forget(self) -> None:
        self._users.forget()
        self._forget_known()

    def stop(self) -> None:
        """Where it is only the script that ends, mitmproxy's addon is its own again."""
        self._end_watch()
        if self._addon is None or ctx.master.should_exit.is_set():
            return
        addon, self._addon = self._addon, None
        for hook in ("requestheaders", "http_connect"):
            with suppress(AttributeError):
                delattr(addon, hook)
        with suppress(Exception):
            addon.configure({"proxyauth"})  # a validator of its own

    # -- flows ----------------------------------------------------------------------------------------------------

    async def _before(self, hook: Callable[[http.HTTPFlow], None], flow: http.HTTPFlow) -> None:
        """In place of a hook of mitmproxy's addon. What it would have to wait for has been waited for, off the
        event loop."""
        if not self._users.is_on or flow.response is not None:
            hook(flow)
            return
        try:
            if self._is_from_peer(flow):
                return
            is_proxy = isinstance(flow.client_conn.proxy_mode, _PROXIES)
            credential = flow.request.headers.get(FIELD if is_proxy else "Authorization")
            # In a tunnel whose CONNECT has proven the user that is one of the origin's, and not ours to look at.
            if credential is not None and (is_proxy or flow.client_conn not in self._addon.authenticated):
                await self._users.ask(credential, address(flow.client_conn))
        except Exception as error:  # the hook answers for itself
            self._app.failed(error)
        try:
            hook(flow)
            if flow.response is None:
                flow.request.headers.pop(FIELD, None)  # it was for us. (mitmproxy leaves it after a CONNECT)
        except Exception as error:  # mitmproxy would let the request through
            self._app.failed(error)
            flow.response = refusal(self._app.heads, 502, "proxy_internal_error", type(error).__name__)

    def connect_failed(self, client: Client) -> None:
        """There will be no tunnel. mitmproxy would take all that comes next on the connection for that user's."""
        if self._addon is not None:
            self._addon.authenticated.pop(client, None)

    def _is_from_peer(self, flow: http.HTTPFlow) -> bool:
        """A peer has asked its own client for a credential."""
        request = flow.request
        proof = request.headers.get("cache-peer")
        if proof is None or request.method != "GET" or not isinstance(flow.client_conn.proxy_mode, _PROXIES):
            return False
        _, element, _ = taken_off(Headers(request.headers.fields))
        return self._app.peer_requests.proves(proof, element, target_of(flow), address(flow.client_conn))

    # -- what a credential is checked by --------------------------------------------------------------------------

    def _watch(self, look: Callable[[], Any], every: float) -> None:
        async def watch() -> None:
            while True:
                await asyncio.sleep(every)
                found = look()
                if asyncio.iscoroutine(found):
                    await found

        with suppress(RuntimeError):  # no loop: a test of options alone
            self._watching = asyncio.get_running_loop().create_task(watch())

    def _end_watch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _look_at_file(self) -> None:
        spec = self._spec
        stamp = await asyncio.to_thread(_stamp, spec)
        if stamp == self._stamp or spec != self._spec:
            return
        try:
            validator = await asyncio.to_thread(_HTPASSWD, spec)
        except Exception:
            # mitmproxy's message, and a traceback, may quote a line. It is read again when it has changed again.
            self._stamp = stamp
            if not self._is_unreadable:
                self._is_unreadable = True
                logger.error("proxyauth: %s cannot be read; what was there before is kept", spec[1:])
            return
        self._stamp, self._is_unreadable = stamp, False
        self._use(validator)
        logger.info("proxy-cache: proxyauth: %s read again: it has changed", spec[1:])


def _without_patterns(validator: Callable[[str, str], bool]) -> Callable[[str, str], bool]:
    """mitmproxy before 12 puts the user's name into the search as it is (RFC 4515 §3): ``*`` would be anybody."""
    if hasattr(_LDAP, "make_search_filter"):
        return validator
    return lambda user, password: not set(user) & set("*()\\\0") and validator(user, password)


def _stamp(spec: str) -> object:
    """Differs if the file does."""
    try:
        found = os.stat(os.path.expanduser(spec[1:]))
    except OSError as error:
        return error.errno
    return found.st_ino, found.st_mtime_ns, found.st_size
