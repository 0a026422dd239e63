"""Several processes that listen on one port: the kernel hands each new connection to one of them (``SO_REUSEPORT``,
socket(7)). Only processes of one user can share a port, and only if all ask for it."""

from __future__ import annotations

import asyncio
from typing import Any


def share_ports(*, is_first: bool) -> None:
    """Have all servers that this process makes by host and port share them. ``is_first``: nobody is to listen there
    yet. If somebody does, that may be another proxy that shares its port, and clients would get either of them: so it
    is opened alone first, which fails as it does without workers."""
    make: Any = asyncio.BaseEventLoop.create_server

    async def create_server(loop: Any, factory: Any, host: Any = None, port: Any = None, **more: Any) -> Any:
        if port is None:
            return await make(loop, factory, host, port, **more)
        if is_first:
            alone = await make(loop, factory, host, port, **more)
            alone.close()
        return await make(loop, factory, host, port, **more, reuse_port=True)

    setattr(asyncio.BaseEventLoop, "create_server", create_server)  # noqa: B010 - mitmproxy calls it
