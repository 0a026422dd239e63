"""Several processes that listen on one port: the kernel hands each new connection to one of them (``SO_REUSEPORT``,
socket(7)). Only processes of one user can share a port, and only if all ask for it."""

from __future__ import annotations

import asyncio
from typing import Any


def share_ports(loop: asyncio.AbstractEventLoop, *, is_first: bool) -> None:
    """Have all servers that this loop makes by host and port share them. ``is_first``: nobody is to listen there yet.
    If somebody does, another proxy may have its port shared, too, and clients would get either of them: so it is opened
    alone first, which fails as it does without workers."""
    make: Any = loop.create_server

    async def create_server(factory: Any, host: Any = None, port: Any = None, **more: Any) -> asyncio.Server:
        if port is None:
            server: asyncio.Server = await make(factory, host, port, **more)
            return server
        if is_first:
            alone = await make(factory, host, port, **more)
            alone.close()
        return await make(factory, host, port, **more, reuse_port=True)  # type: ignore[no-any-return]

    setattr(loop, "create_server", create_server)  # noqa: B010 - of this one loop
