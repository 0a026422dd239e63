"""A mitmproxy script for tests: sets options while mitmproxy runs, as a user's ``:set`` would.

Listens on loopback, tells its port in the log, and takes one ``name=value`` per line; answers ``ok`` or the error.
``?name`` asks for an option's default, as JSON, and ``=name`` for its value.
"""

from __future__ import annotations

import asyncio
import json
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
                answer = self.obey(line)
            except (exceptions.OptionsError, KeyError, ValueError) as error:
                answer = f"{type(error).__name__}: {error}"
            writer.write(answer.replace("\n", " ").encode() + b"\n")
        writer.close()

    def obey(self, line: str) -> str:
        if line.startswith("?"):
            return json.dumps(ctx.options.default(line[1:]))
        if line.startswith("="):
            return json.dumps(getattr(ctx.options, line[1:]))
        ctx.options.set(line)
        return "ok"

    def done(self) -> None:
        if self.server is not None:
            self.server.close()


addons = [Control()]
