"""One of several processes that are one proxy (``proxy-cache run --workers``), as mitmproxy runs it: it shares its port
with the others, and has another one at which they are its clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from mitmproxy import ctx
from mitmproxy.proxy import mode_specs

from ..workers.app import WorkerApp
from ..workers.door import ADDRESS, open_door
from .accept import Clients
from .compat import find
from .lifecycle import Lifecycle
from .listening import addresses_of

logger = logging.getLogger(__name__)

READ_LIMIT = 64 * 1024
"""Bytes that are read ahead of mitmproxy, as with its own listeners."""


class Worker:
    """What such a process does beside what every proxy does."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.app = WorkerApp(environment, self._parent_has_gone)
        self._clients: Clients | None = None
        self._door: asyncio.Server | None = None

    def join(self, clients: Clients, lifecycle: Lifecycle) -> None:
        self._clients = clients
        clients.peers_port = self.app.role.port
        lifecycle.says_what_is_next = self.app.role.index == 0
        lifecycle.listen_beside, lifecycle.close_beside = self._open_door, self._close_door

    def load(self, options: Any) -> None:
        """Whether these options are for several processes."""
        for mode in options.mode:
            if mode_specs.ProxyMode.parse(mode).custom_listen_port == 0:
                logger.error("mode: %s: port 0 is another one for each worker: name a port", mode)

    def serves(self, clients: Callable[[str], bool]) -> Callable[[str], bool]:
        """Whose connections stay when ``access_clients`` changes: not those of the other workers are to break off."""
        return lambda client: client == ADDRESS or clients(client)

    async def _open_door(self, proxyserver: Any) -> None:
        assert self._clients is not None
        role, loop = self.app.role, asyncio.get_running_loop()
        if ctx.options.listen_port == 0:
            self.app.found_port = next((port for _, port in addresses_of(proxyserver)), 0)
        server = find("mitmproxy.proxy.mode_servers:ServerInstance").make(f"regular@{ADDRESS}:{role.port}", proxyserver)

        def mitmproxys() -> asyncio.BaseProtocol:
            reader = asyncio.StreamReader(READ_LIMIT, loop)
            return asyncio.StreamReaderProtocol(reader, server.handle_stream, loop)

        self._door = await open_door(
            role.port, role.greeting, self._clients.wrap_factory(server.mode, mitmproxys)
        )  # fmt: skip

    def _close_door(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None

    def _parent_has_gone(self) -> None:
        if not self.app.is_draining:
            logger.error("proxy-cache: the process that has started this worker has gone: stopping")
            ctx.master.shutdown()
