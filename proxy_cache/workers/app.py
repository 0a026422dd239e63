"""A worker's proxy: an :class:`~..app.App` that has its share of the limits, and does with the other workers what a
single process does by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from ..app import App, StartError
from ..caching.limiter import OriginLimiter
from ..settings import Settings
from ..upstream.peers.client import PeerClient
from ..upstream.peers.fleet import PeerFleet
from ..upstream.peers.settings import FleetSettings, Keeping
from ..upstream.source import Source
from .channel import Channel
from .limiter import WorkerLimiter
from .purging import PurgesOfAll
from .role import take_role
from .share import folder_of, folder_of_any, problem_with, share_of
from .siblings import Siblings, SiblingSource

logger = logging.getLogger(__name__)


class WorkerApp(App):
    """``parent_has_gone()`` is called when nobody would start this process again, or stop it."""

    def __init__(self, environment: Mapping[str, str], parent_has_gone: Callable[[], None]) -> None:
        self.role, end = take_role(environment)
        self._channel = Channel(self._parent_has_gone)
        self._has_gone = parent_has_gone
        super().__init__()
        self.accounts.counts_peers = False
        self._metrics_listen: tuple[str, int] | None = None
        """As the operator has set it: it is the parent that listens there."""
        self._beside: list[tuple[str, int]] = []
        """Where the parent listens."""
        self.found_port = 0
        """The port for clients, if it was left to mitmproxy."""
        self._reply: asyncio.Future[tuple[str, list[tuple[str, int]]]] | None = None
        self._channel.handle({"open": self._may_open})
        self._opening = asyncio.get_running_loop().create_task(self._channel.open(end))

    # -- what an App has by itself ------------------------------------------------------------------------------------

    def _make_limiter(self) -> OriginLimiter:
        limiter = WorkerLimiter(self.metrics.queue_waited, self._channel.send)
        self._channel.handle(limiter.messages)
        return limiter

    def _make_fleet(self) -> PeerFleet:
        return Siblings(self.role, self.names)

    def _peers(self, settings: FleetSettings) -> tuple[Source, ...]:
        self.peers = PeerClient(settings.client, self.peer_dialler)
        self.peer_requests.is_on = True
        self.keeping = Keeping(settings.keep)
        self._siblings = SiblingSource(self.fleet, self.peers, self.keeping, self.metrics)
        return (self._siblings,)

    def _listeners(self) -> list[tuple[str, int]]:
        return [*super()._listeners(), *self._beside]

    def problem_with(self, settings: Settings) -> str:
        return problem_with(settings)

    def configure(self, settings: Settings) -> None:
        if settings.fleet.client.tokens != (self.role.token,):  # (App.open hands on what it has once more)
            self._metrics_listen = settings.metrics_listen
            self._channel.send("admin", [pattern.pattern for pattern in settings.admin.hosts])
            settings = share_of(settings, self.role)
        super().configure(settings)

    async def open(self) -> None:
        self._look_for_leftovers()
        self._reply = asyncio.get_running_loop().create_future()
        self._channel.send("opening", self.found_port, self._metrics_listen)
        problem, self._beside = await self._reply
        if problem:
            raise StartError(problem)
        await super().open()
        self.metrics_at = "the parent's port" if self._beside else "off"
        assert self.cache is not None
        assert self.store is not None
        assert self.fills is not None
        self.cache.on_invalidated = lambda key: self._channel.send("invalidate", key)
        self.purger = purger = PurgesOfAll(self.store, self.fills, self._siblings, self._channel.send)
        self._channel.handle({**purger.messages, "invalidate": self._invalidate, "there": self._are_there})
        self._channel.send("opened")

    def _look_for_leftovers(self) -> None:
        """What nobody uses of the folder, since there were other numbers of workers."""
        assert self.settings is not None
        folder, used = self.settings.cache_dir.parent, {folder_of(index) for index in range(self.role.count)}
        found = [path.name for path in folder.glob(folder_of_any()) if path.name not in used]
        found += ["index.sqlite"] if (folder / "index.sqlite").exists() else []
        if found and self.role.index == 0:
            logger.warning(
                "proxy-cache: cache_dir %s has what %d workers don't use, and don't count: %s",
                folder, self.role.count, ", ".join(sorted(found)[:5]),
            )  # fmt: skip

    async def close(self) -> None:
        await super().close()
        self._channel.close()

    def _parent_has_gone(self) -> None:
        self._may_open("the process that has started this worker has gone", [])
        self._has_gone()

    # -- what the parent says -----------------------------------------------------------------------------------------

    def _may_open(self, problem: str, addresses: list[Any]) -> None:
        """It listens at ``addresses`` for all workers, unless there is a ``problem`` with that."""
        if self._reply is not None and not self._reply.done():
            self._reply.set_result((problem, [(str(host), int(port)) for host, port in addresses]))

    def _are_there(self, indices: list[int]) -> None:
        """All workers that answer."""
        assert isinstance(self.fleet, Siblings)
        self.fleet.are_there(indices)

    def _invalidate(self, number: int, key: str) -> None:
        """An unsafe method has changed it, by way of another worker."""
        assert self.fills is not None
        assert self.store is not None
        self.fills.doom(key)
        self.store.remove_key(key)
        self._channel.send("invalidated", number)
