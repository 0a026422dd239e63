"""A mitmproxy script for tests: sets options while mitmproxy runs, as a user's ``:set`` would.

Listens on loopback, tells its port in the log, and takes one ``name=value`` per line; answers ``ok`` or the error.
"""

from __future__ import annotations

import asyncio
import logging

from mitmproxy import ctx, exceptions


class Control:
    def __init__(self) -> None:
        self.server: asyncio.Server | None = None

    async def running(self) -> None:
        if self.server is None:
            self.server = await asyncio.start_server(self.talk, "127.0.0.1", 0)
            logging.info("test control on port %d", self.server.sockets[0].getsockname()[1])

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode().strip():
            try:
                ctx.options.set(line)
            except (exceptions.OptionsError, KeyError, ValueError) as error:
                answer = f"{type(error).__name__}: {error}"
            else:
                answer = "ok"
            writer.write(answer.replace("\n", " ").encode() + b"\n")
        writer.close()

    def done(self) -> None:
        if self.server is not None:
            self.server.close()


addons = [Control()]
