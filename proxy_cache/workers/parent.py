"""The process that starts the workers, keeps them running, and hands signals on. No client's request passes here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..runtime import hangup, notify
from .child import Child
from .door import reserve
from .metrics_port import MetricsPort, MetricsPortError
from .purges import Purges
from .role import Role
from .slots import MachineSlots

logger = logging.getLogger(__name__)

AGAIN_FIRST: Final = 0.1
"""Seconds until a worker that has died is started again,"""
AGAIN_MAX: Final = 30.0
"""and twice as many each time that it dies, up to this,"""
WELL_AFTER: Final = 60.0
"""unless it has lived so long."""

PLACE_MAX: Final = 70
"""Bytes of a folder's name: the address of a Unix socket has 107 at the most (unix(7))."""


class Parent:
    """``command`` starts a worker."""

    def __init__(self, count: int, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command, self._environment = list(command), dict(environment)
        self._token = secrets.token_hex(32)
        self._folder = _folder_for_sockets(environment)
        self._reserved: list[socket.socket] = [reserve() for _ in range(count)]
        self._ports = tuple(each.getsockname()[1] for each in self._reserved)
        self._listen_port = 0
        self._slots = MachineSlots()
        self._purges = Purges()
        messages: dict[str, Callable[..., None]] = {
            "opening": self._opening, "admin": self._admin, "opened": self._opened, "invalidate": self._invalidate,
            "invalidated": Child.is_settled, "purge": self._purges.asked, "purged": self._purges.told,
        }  # fmt: skip
        self._children = [Child(index, self._slots, messages, self._state_changed) for index in range(count)]
        self._purges.children = self._children
        self._changed = asyncio.Event()
        self._metrics_port: MetricsPort | None = None
        self._metrics_problem = ""
        self._hosts: list[str] = []
        self._opening_port: asyncio.Task[None] | None = None
        self._has_started = self._is_stopping = self._is_reloading = False
        self._status = 0

    async def run(self) -> int:
        """Returns an exit status: that of a worker that could not be started, or 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        hangup.listen(self._hung_up)
        try:
            await self._run()
        finally:
            if self._metrics_port is not None:
                await self._metrics_port.stop()
            for each in self._reserved:
                each.close()
            shutil.rmtree(self._folder, ignore_errors=True)
        return self._status

    async def _run(self) -> None:
        first, *others = self._children
        # One alone at first: what is wrong with an option, a port or a folder is said once, and ends it all.
        keepers = [asyncio.create_task(self._keep(first, is_first=True))]
        await self._until_ready([first], keepers)
        if not self._is_stopping:
            keepers += [asyncio.create_task(self._keep(child)) for child in others]
            await self._until_ready(self._children, keepers)
        if not self._is_stopping:
            self._has_started = True
            logger.info(
                "proxy-cache: %d workers answer, metrics %s", len(self._children),
                f"on {self._metrics_port.url}" if self._metrics_port is not None else "off",
            )  # fmt: skip
            notify.ready()
            notify.feed_watchdog()
            self._watch(notify.watchdog_interval())
        await asyncio.gather(*keepers)
        logger.info("proxy-cache: all workers have stopped")

    async def _until_ready(self, children: Sequence[Child], keepers: Sequence[asyncio.Task[None]]) -> None:
        while not (self._is_stopping or all(child.is_ready for child in children)):
            self._changed.clear()
            await self._changed.wait()

    # -- each worker ------------------------------------------------------------------------------------------------

    async def _keep(self, child: Child, *, is_first: bool = False) -> None:
        """Start it, and start it again when it has died, until all are to stop."""
        again = AGAIN_FIRST
        while not self._is_stopping:
            role = Role(
                child.index, len(self._children), self._ports, self._folder, self._token, self._listen_port, is_first
            )
            is_first, began = False, time.monotonic()
            try:
                status = await child.live(role, self._command, self._environment)
            except OSError as error:
                status = 1
                logger.error("proxy-cache: %s cannot be started: %s", self._command[0], error.strerror)
            if self._metrics_port is not None:
                self._metrics_port.lost(child.index)
            self._tell_who_is_there()
            if self._is_stopping:
                return
            if not self._has_started:
                self._status = status if status > 0 else 1
                self._stop()
                return
            if time.monotonic() - began >= WELL_AFTER:
                again = AGAIN_FIRST
            logger.warning(
                "proxy-cache: worker %d (pid %s) has died (%s): started again in %.1f s",
                child.index, child.last_pid, f"signal {-status}" if status < 0 else f"exit status {status}", again,
            )  # fmt: skip
            await self._pause(again)
            again = min(AGAIN_MAX, again * 2)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._is_stopping:
                    self._changed.clear()
                    await self._changed.wait()

    def _state_changed(self) -> None:
        self._changed.set()
        if self._is_reloading and not any(child.is_reading_options for child in self._children):
            self._is_reloading = False
            notify.ready()

    def _watch(self, interval: float | None) -> None:
        """A service manager that would take a single process for hung after so many seconds has each worker looked at
        in the same way."""
        if interval is None or self._is_stopping:
            return
        for child in self._children:
            if child.is_ready and time.monotonic() - child.heard_at > interval:
                logger.error("proxy-cache: worker %d has said nothing for %.0f s: killed", child.index, interval)
                child.signal(signal.SIGKILL)
        asyncio.get_running_loop().call_later(interval / 4, self._watch, interval)

    # -- signals ----------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            notify.stopping()
        for child in self._children:
            child.stop()
        self._changed.set()

    def _hung_up(self) -> None:
        if hangup.terminal_is_gone() and not hangup.was_ignored():
            self._stop()
            return
        if self._has_started and not self._is_stopping:
            self._is_reloading = True
            notify.reloading()
        for child in self._children:
            child.reload()

    # -- what workers say -------------------------------------------------------------------------------------------

    def _opening(self, child: Child, found_port: int, metrics_listen: list[Any] | None) -> None:
        """A worker listens for clients, and is about to open its folder."""
        self._listen_port = self._listen_port or found_port
        if self._opening_port is None:
            self._opening_port = asyncio.create_task(self._open_port(metrics_listen))
        self._opening_port.add_done_callback(lambda _: self._may_open(child))

    def _may_open(self, child: Child) -> None:
        addresses = self._metrics_port.addresses if self._metrics_port is not None else []
        child.send("open", self._metrics_problem, addresses)

    async def _open_port(self, metrics_listen: list[Any] | None) -> None:
        if metrics_listen is None:
            return
        host, port = metrics_listen
        metrics_port = MetricsPort(self._children, self._folder)
        metrics_port.allow(self._hosts)
        try:
            await metrics_port.start(str(host), int(port))
        except MetricsPortError as error:
            self._metrics_problem = str(error)
        else:
            self._metrics_port = metrics_port

    def _opened(self, child: Child) -> None:
        child.is_open = True
        self._tell_who_is_there()

    def _tell_who_is_there(self) -> None:
        there = [child.index for child in self._children if child.is_open]
        for child in self._children:
            child.send("there", there)

    def _admin(self, child: Child, hosts: list[str]) -> None:
        """``admin_hosts``, as expressions."""
        self._hosts = hosts
        if self._metrics_port is not None:
            self._metrics_port.allow(hosts)

    def _invalidate(self, child: Child, key: str) -> None:
        for other in self._children:
            if other is not child:
                number = self._purges.new_number()
                other.owe(number, "invalidate", number, key)


def _folder_for_sockets(environment: Mapping[str, str]) -> Path:
    """A new one, which nobody else can look into. Raises ``OSError``."""
    # What a service manager or a login has made for that, unless its name leaves no room in a socket's address.
    places = [environment.get("RUNTIME_DIRECTORY", ""), environment.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir()]
    for place in [place for place in places if place and len(place) <= PLACE_MAX]:
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix="proxy-cache-", dir=place))
    return Path(tempfile.mkdtemp(prefix="proxy-cache-", dir="/tmp"))


def log_like_mitmproxy() -> None:
    """The lines of the workers, and those of the parent between them, look the same."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("[%(asctime)s.%(msecs)03d] %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("asyncio").setLevel(logging.WARNING)
