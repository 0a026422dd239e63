"""Purges, in the parent: what one worker is told to purge all others purge, too."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from .child import Child

PATIENCE: Final = 60.0
"""Seconds for all others to have done it. One that is just being started again does it then, however late."""


class Purges:
    """Hands them on, and gathers what comes of them."""

    def __init__(self) -> None:
        self.children: Sequence[Child] = ()
        self._numbers = count(1)
        self._open: dict[int, asyncio.Future[list[Any]]] = {}
        """What is to be heard of others, by a number of ours."""
        self._tasks: set[asyncio.Task[None]] = set()

    def new_number(self) -> int:
        """Of what a worker is owed."""
        return next(self._numbers)

    def asked(self, child: Child, number: int, what: list[Any], soft: bool) -> None:
        """A worker has been told to purge, and does. ``number`` is its own."""
        others = [other for other in self.children if other is not child]
        task = asyncio.create_task(self._hand_on(child, number, others, what, soft))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def told(self, child: Child, number: int, *purged: Any) -> None:
        """Another one has done it."""
        child.is_settled(number)
        waiting = self._open.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(list(purged))

    async def _hand_on(self, child: Child, number: int, others: list[Child], what: list[Any], soft: bool) -> None:
        replies = []
        for other in others:
            ours = self.new_number()
            self._open[ours] = reply = asyncio.get_running_loop().create_future()
            replies.append((other, ours, reply))
            other.owe(ours, "purge", ours, what, soft)
        problem, sums = "", [0, 0, 0]
        try:
            async with asyncio.timeout(PATIENCE):
                for other, _, reply in replies:
                    failed, *counts = await reply
                    problem = problem or (f"worker {other.index}: {failed}" if failed else "")
                    sums = [one + another for one, another in zip(sums, counts, strict=True)]
        except TimeoutError:
            problem = f"a worker has not purged within {PATIENCE:.0f} s"
        for _, ours, _ in replies:
            del self._open[ours]
        child.send("purged", number, problem, *sums)
