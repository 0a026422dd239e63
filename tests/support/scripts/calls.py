"""A mitmproxy script that notes which functions of the cache are called, in the order of their first calls.

Listens on loopback, tells its port in the log, and takes one word per line: ``begin`` answers ``ok``; ``end`` answers
with all that were called since, in all threads, as JSON: ``[file, function, how often]`` each.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PACKAGE = f"{Path(__file__).resolve().parents[3] / 'proxy_cache'}/"


class Calls:
    def __init__(self) -> None:
        self.server: asyncio.Server | None = None
        self.called: dict[CodeType, int] | None = None

    def load(self, loader: Any) -> None:
        threading.setprofile(self.profile)
        sys.setprofile(self.profile)

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and self.called is not None and frame.f_code.co_filename.startswith(PACKAGE):
            self.called[frame.f_code] = self.called.get(frame.f_code, 0) + 1

    async def running(self) -> None:
        if self.server is None:
            self.server = await asyncio.start_server(self.talk, "127.0.0.1", 0)
            logging.info("calls are told on port %d", self.server.sockets[0].getsockname()[1])

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while word := (await reader.readline()).decode().strip():
            writer.write(self.obey(word).encode() + b"\n")
        writer.close()

    def obey(self, word: str) -> str:
        if word == "begin":
            self.called = {}
            return "ok"
        called, self.called = self.called or {}, None
        return json.dumps(
            [[code.co_filename.removeprefix(PACKAGE), code.co_qualname, count] for code, count in called.items()]
        )

    def done(self) -> None:
        sys.setprofile(None)
        if self.server is not None:
            self.server.close()


addons = [Calls()]
