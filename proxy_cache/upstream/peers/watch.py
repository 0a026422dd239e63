"""Looking again and again at a place where peers are listed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from .peer import Peer
from .trouble import Trouble

logger = logging.getLogger(__name__)

JITTER: Final = 0.2
"""So much of an interval, more or less, so that a fleet that was started at once doesn't ask at once."""


class Discovery(Protocol):
    """Where peers are listed."""

    @property
    def every(self) -> float:
        """Seconds until the next look."""

    @property
    def partly(self) -> str:
        """Why a part of the last list is from an earlier look; empty if none is."""

    async def look(self) -> Iterable[Peer] | None:
        """The peers that it lists now, or ``None`` if they are those of the last look. Raises :class:`Unreadable`."""


class Unreadable(Exception):
    """There is no list to be had. Its text is the reason."""


class Watch:
    """One place and what it said last, which holds as long as it says nothing else."""

    def __init__(self, where: str, discovery: Discovery, on_look: Callable[[], None]) -> None:
        self.trouble = Trouble(where)
        self.peers: tuple[Peer, ...] = ()
        self.good_looks = 0
        self.looked = asyncio.Event()
        """Set after the first look, in vain or not."""
        self._discovery = discovery
        self._on_look = on_look
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    def cancel(self) -> asyncio.Task[None] | None:
        """Look no more. Returns the task that ends now, if there was one."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        return task

    async def _watch(self) -> None:
        while True:
            try:
                peers = await self._discovery.look()
            except Unreadable as error:
                self._failed(str(error))
            except Exception as error:
                # Whatever it is: nobody would look here ever again if this task ended.
                self._failed(f"{type(error).__name__}: {error}")
            else:
                if self._discovery.partly:
                    self.trouble.begins(self._discovery.partly, "what it concerns is kept")
                else:
                    self.trouble.is_over()
                self.good_looks += 1
                if peers is not None:
                    self.peers = tuple(sorted(set(peers), key=lambda peer: peer.url))
            self.looked.set()
            try:
                self._on_look()
            except Exception:
                logger.exception("proxy-cache: a change of the peers of %s", self.trouble.where)
            await asyncio.sleep(self._discovery.every * random.uniform(1 - JITTER, 1 + JITTER))

    def _failed(self, reason: str) -> None:
        kept = len(self.peers)
        self.trouble.begins(reason, f"the last list is kept ({kept})" if kept else "there are none until it says some")
