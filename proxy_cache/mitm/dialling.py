"""mitmproxy's connections to origins (forwarded requests, tunnels, parent proxies) are dialled as those of fills are.

mitmproxy opens all of them in one place, ``ConnectionHandler.open_connection``, by ``asyncio.open_connection``. In that
module ``asyncio`` stands for a copy of it from here, with another function of that name. Where mitmproxy does it
otherwise, or something else has taken the place, it goes on by itself, and the log says so: names are still looked up
within bounds (:meth:`upstream.names.Names.install`), but of several addresses a silent one holds up the others.
"""

from __future__ import annotations

import asyncio
import logging
import types
from typing import Any

from mitmproxy.connection import Server
from mitmproxy.proxy import server

from ..upstream.access import Denied
from ..upstream.dial import Dialler

logger = logging.getLogger(__name__)


class MitmproxyDialling:
    """Has mitmproxy dial by ``dialler`` between :meth:`install` and :meth:`uninstall`."""

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self._stand_in: types.ModuleType | None = None

    async def check(self, connection: Server) -> None:
        """The hook ``server_connect``: what mitmproxy opens without our dialler (UDP, or where it can't be told) is
        checked here, and its address replaced by one that was checked. What mitmproxy itself refuses (its own
        listeners) is refused in our words, if we would have done so, too."""
        if connection.address is None:
            return
        if connection.error is None and connection.transport_protocol == "tcp" and self._stand_in is not None:
            return
        host, port = connection.address[:2]
        try:
            address = await self._dialler.address_for(host, port)
        except OSError as error:
            connection.error = str(error) if isinstance(error, Denied) else connection.error or str(error)
            return
        if address != host and connection.error is None:
            connection.sni = connection.sni or host.rstrip(".")
            connection.address = (address, port)

    def install(self) -> None:
        why_not = unusable()
        if why_not is not None:
            logger.warning("proxy-cache: what is forwarded is dialled by mitmproxy itself: %s", why_not)
            return
        self._stand_in = stand_in = types.ModuleType(asyncio.__name__)
        vars(stand_in).update(vars(asyncio), open_connection=self._dialler.open_stream)
        _module().asyncio = stand_in

    def uninstall(self) -> None:
        if self._stand_in is not None and _module().asyncio is self._stand_in:
            _module().asyncio = asyncio
        self._stand_in = None


def _module() -> Any:
    return server


def unusable() -> str | None:
    """Why mitmproxy can't be told how to dial, if so."""
    code = getattr(getattr(server.ConnectionHandler, "open_connection", None), "__code__", None)
    if code is None or not {"asyncio", "open_connection"} <= set(code.co_names):
        return "its ConnectionHandler.open_connection does not call asyncio.open_connection"
    if getattr(server, "asyncio", None) is not asyncio:
        return "something else stands in for asyncio in its proxy.server"
    return None
