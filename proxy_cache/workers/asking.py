"""What the parent asks workers for: HTTP over their Unix sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector

from .child import Child
from .role import admin_socket

PATIENCE: Final = 5.0
"""Seconds that a worker has to answer what all are asked."""


class Workers:
    """``folder``: of their sockets."""

    def __init__(self, children: Sequence[Child], folder: Path) -> None:
        self.children = children
        self._folder = folder
        self._sessions: dict[int, ClientSession] = {}

    def session(self, index: int) -> ClientSession:
        session = self._sessions.get(index)
        if session is None:
            connector = UnixConnector(str(admin_socket(self._folder, index)), force_close=True)
            session = self._sessions[index] = ClientSession(
                connector=connector, timeout=ClientTimeout(total=None), auto_decompress=False
            )
        return session

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    def is_there(self, index: int) -> bool:
        return 0 <= index < len(self.children) and self.children[index].process is not None

    async def ask(self, index: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, str] | None:
        """GET: status and text; ``None`` if it doesn't answer."""
        if not self.is_there(index):
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                async with self.session(index).get(f"http://localhost{path}", headers=headers) as response:
                    return response.status, await response.text()
        except (ClientError, OSError, TimeoutError):
            return None

    async def ask_all(self, path: str) -> dict[int, str]:
        """What those say that answer with 200, by their numbers."""
        indices = range(len(self.children))
        replies = await asyncio.gather(*(self.ask(index, path) for index in indices))
        told = zip(indices, replies, strict=True)
        return {index: reply[1] for index, reply in told if reply is not None and reply[0] == 200}

    async def statuses(self, path: str) -> dict[int, dict[str, Any]]:
        return {index: json.loads(text) for index, text in (await self.ask_all(path)).items()}


__all__ = ["ClientError", "Workers"]
