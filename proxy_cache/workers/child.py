"""One worker, as the parent has it: a process, and another one when that has died."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from .channel import Channel
from .role import VARIABLE, Role, admin_socket
from .slots import MachineSlots, WorkerSlots

NOTIFY: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID")
"""What a service manager tells the parent alone. (How often it wants to hear of it holds for workers, too.)"""

OWED_MAX: Final = 10_000
"""Messages that wait for a worker that is just being started again."""


class Child:
    """``on_message`` is called for what a worker says: its word, the worker, and the rest. ``on_state`` when it has
    become ready, or is no longer."""

    def __init__(
        self, index: int, slots: MachineSlots, on_message: Mapping[str, Callable[..., None]],
        on_state: Callable[[], None],
    ) -> None:  # fmt: skip
        self.index = index
        self.process: asyncio.subprocess.Process | None = None
        self.is_open = self.is_ready = False
        """Whether the other workers may ask it, and whether it has told that it is ready, which it does a bit later."""
        self.is_reading_options = False
        """Since a SIGHUP."""
        self.last_pid: int | None = None
        self.lives = 0
        self.heard_at = 0.0
        """By the monotonic clock: of a worker that feeds a watchdog."""
        self.started_at = 0.0
        """By the monotonic clock."""
        self._machine = slots
        self._on_message, self._on_state = on_message, on_state
        self._channel: Channel | None = None
        self._slots: WorkerSlots | None = None
        self._is_stopping = False
        self._owed: dict[int, tuple[Any, ...]] = {}
        """Messages that a worker has to get in its next life, if it has not in this one."""

    async def live(self, role: Role, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """One life: start the process, and wait for its end. Returns its exit status, negative for a signal. Raises
        ``OSError`` if it can't be started."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(admin_socket(role.folder, role.index))
        ours, theirs = socket.socketpair()
        notified = _notified_at(str(role.folder / f"notify-{role.index}"))
        loop = asyncio.get_running_loop()
        try:
            with theirs:
                ours.sendall(role.line())
                own = {name: value for name, value in environment.items() if name not in NOTIFY}
                own |= {VARIABLE: str(theirs.fileno()), "NOTIFY_SOCKET": notified.getsockname()}
                # A process group of its own: Ctrl-C is the parent's to hear, which tells all.
                # It is born with SIGHUP blocked: until it has a handler for it, the signal would end it.
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
                try:
                    self.process = await asyncio.create_subprocess_exec(
                        *command, env=own, pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL,
                        process_group=0,
                    )  # fmt: skip
                finally:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
            self.last_pid = self.process.pid
            self.lives += 1
            self.started_at = time.monotonic()
            loop.add_reader(notified.fileno(), self._hear, notified)
            channel = self._channel = Channel(lambda: None)
            self._slots = slots = self._machine.worker(channel.send)
            channel.handle(slots.messages)
            for word, handler in self._on_message.items():
                channel.handle({word: _bound(handler, self)})
            await channel.open(ours)
            for message in self._owed.values():
                channel.send(*message)
            if self._is_stopping:
                self.stop()
            status = await self.process.wait()
        finally:
            loop.remove_reader(notified.fileno())
            notified.close()
            self._has_ended()
        return status

    def _has_ended(self) -> None:
        self.process = None
        self.is_open = self.is_ready = self.is_reading_options = False
        if self._slots is not None:
            self._machine.lost(self._slots)
            self._slots = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._on_state()

    def send(self, *message: Any) -> None:
        if self._channel is not None:
            self._channel.send(*message)

    def owe(self, number: int, *message: Any) -> None:
        """Send it, in each of its lives until it :meth:`is_settled`: what was sent may die unread."""
        if len(self._owed) >= OWED_MAX:  # so many that the easiest is to have nothing from before
            self._owed.clear()
            number, message = 0, ("purge", 0, ["all"], False)
        self._owed[number] = message
        self.send(*message)

    def is_settled(self, number: int) -> None:
        self._owed.pop(number, None)

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def stop(self) -> None:
        """Also if its process is just being started."""
        self._is_stopping = True
        self.signal(signal.SIGTERM)

    def reload(self) -> None:
        if self.is_ready:
            self.is_reading_options = True
        self.signal(signal.SIGHUP)

    def _hear(self, notified: socket.socket) -> None:
        """What a service manager would be told."""
        with contextlib.suppress(BlockingIOError):
            while told := notified.recv(4096).split(b"\n"):
                self.heard_at = time.monotonic()
                if told == [b"WATCHDOG=1"]:
                    continue
                if b"READY=1" in told:
                    self.is_ready, self.is_reading_options = True, False
                elif b"STOPPING=1" in told:
                    self.is_ready = False
                self._on_state()


def _notified_at(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.setblocking(False)
    notified.bind(path)
    return notified


def _bound(handler: Callable[..., None], child: Child) -> Callable[..., None]:
    return lambda *arguments: handler(child, *arguments)
