"""The process around the proxy: its connections at the end, its limits at the start."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from mitmproxy import ctx

from ..runtime.loop import accept_in_turns, take_short_turns
from .accept import Clients
from .compat import ACCEPT, CLOSING, LISTENING
from .flows import address
from .lanes import Lanes

logger = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel takes the smaller of this and net.core.somaxconn."""
FILES_MAX = 65536
"""Descriptors that the limit is raised to at the start."""


async def stop_listening(proxyserver: Any) -> None:
    """Close what listens. If it is a script that ends, and not the process, it may be loaded again, and is to be found
    where it was: a port that was mitmproxy's choice (``listen_port`` 0) is its port from then on."""
    if not LISTENING.is_on:
        return
    if not ctx.master.should_exit.is_set() and ctx.options.listen_port == 0:
        for server in proxyserver.servers:
            if server.mode.custom_listen_port is None and server.listen_addrs:
                ctx.options.update(listen_port=server.listen_addrs[0][1])
                break
    await proxyserver.servers.update([])


async def listen_again(proxyserver: Any) -> None:
    """Have mitmproxy listen where it was told to, if nothing does: an earlier instance has closed it all. It says in
    the log what it could not open."""
    if LISTENING.is_on and not len(proxyserver.servers):
        await proxyserver.setup_servers()


def addresses_of(proxyserver: Any) -> list[tuple[str, int]]:
    """The addresses and ports on which clients are served."""
    if not LISTENING.is_on:
        return [(ctx.options.listen_host, ctx.options.listen_port or 8080)]
    return [(str(host), int(port)) for server in proxyserver.servers for host, port, *_ in server.listen_addrs]


async def close_connections(proxyserver: Any, lanes: Lanes) -> None:
    """End all connections, idle or cut, in an orderly way, so that mitmproxy has nothing to complain about."""
    for handler in list(proxyserver.connections.values()) if CLOSING.is_on else ():
        transport = handler.transports.get(handler.client)
        if transport is not None and transport.handler is not None:
            transport.handler.cancel("shutting down")
    deadline = time.monotonic() + 1
    await lanes.close(deadline)
    while CLOSING.is_on and proxyserver.connections and time.monotonic() < deadline:  # noqa: ASYNC110 - mitmproxy has no event for it
        await asyncio.sleep(0.01)


def close_refused(proxyserver: Any, lanes: Lanes, serves: Callable[[str], bool]) -> None:
    """End the connections of clients that are not served any more."""
    lanes.close_refused(serves)
    for handler in list(proxyserver.connections.values()) if CLOSING.is_on and proxyserver is not None else ():
        transport = handler.transports.get(handler.client)
        if transport is not None and transport.handler is not None and not serves(address(handler.client)):
            transport.handler.cancel("access_clients")


def raise_file_limit() -> None:
    """Thousands of agents need thousands of sockets; the soft limit is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(hard, FILES_MAX) if hard != resource.RLIM_INFINITY else FILES_MAX
    if soft < limit:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError) as error:
            logger.warning("open files stay limited to %d: %s", soft, error)


def welcome_bursts(proxyserver: Any, clients: Clients, *, tuned: bool) -> None:
    """asyncio lets 100 connections wait to be accepted, so that the 101st agent of a burst would try again after a
    second; and it accepts them all in one go, which holds up everybody else. ``tuned``: the option
    ``tune_event_loop``."""
    if tuned:
        take_short_turns(asyncio.get_running_loop())
    for server in proxyserver.servers if ACCEPT.is_on else ():
        for listener in getattr(server, "_servers", ()):
            for listening in getattr(listener, "sockets", ()):
                if listening.type == socket.SOCK_STREAM:
                    with socket.fromfd(listening.fileno(), listening.family, listening.type) as same:
                        same.listen(BACKLOG)
            if tuned and isinstance(listener, asyncio.Server):
                accept_in_turns(asyncio.get_running_loop(), listener, partial(clients.wrap_factory, server.mode))
