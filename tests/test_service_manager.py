"""What a service manager is told (sd_notify(3), systemd's ``Type=notify``), by a real mitmdump."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.origin import PATIENCE, Gate, Origin, Reply
from tests.support.proxy import START_TIMEOUT, Proxy


class Manager:
    """The socket, and what came to it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0"))

    def told(self, timeout: float = PATIENCE) -> dict[str, str]:
        """The next message. Raises ``TimeoutError``."""
        self._socket.settimeout(timeout)
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.close()


def test_start_reload_and_stop(start_proxy: Callable[..., Proxy], origin: Origin, manager: Manager) -> None:
    proxy = start_proxy(environment={"NOTIFY_SOCKET": manager.address}, shutdown_grace=60)
    assert manager.told(START_TIMEOUT)["READY"] == "1"
    gate = Gate()
    fetch = proxy.start_get(origin.serve("/x", Reply(size=100_000, body_gate=gate, gate_at=50_000)), expect=100_000)
    fetch.received(50_000)
    proxy.signal(signal.SIGHUP)
    reloading = manager.told()
    assert reloading["RELOADING"] == "1"
    assert int(reloading["MONOTONIC_USEC"]) > 0
    assert manager.told()["READY"] == "1"
    proxy.signal(signal.SIGTERM)
    assert manager.told()["STOPPING"] == "1", "while a response is finished"
    gate.open()
    assert fetch.result().ok
    assert proxy.wait() == 0


def test_the_watchdog_is_fed(start_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    """Over an abstract address, as containers have it."""
    manager = Manager(f"@{tmp_path}")
    start_proxy(environment={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"})
    assert "READY" in manager.told(START_TIMEOUT)
    for _ in range(3):
        assert manager.told() == {"WATCHDOG": "1"}
    manager.close()


def test_a_watchdog_of_another_process_is_not(start_proxy: Callable[..., Proxy], manager: Manager) -> None:
    proxy = start_proxy(environment={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"})
    assert "READY" in manager.told(START_TIMEOUT)
    proxy.signal(signal.SIGTERM)
    assert "STOPPING" in manager.told()


def test_a_start_that_fails_is_never_ready(tmp_path: Path, manager: Manager) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        proxy = Proxy(tmp_path, listen_port=taken.getsockname()[1], environment={"NOTIFY_SOCKET": manager.address})
        proxy.launch()
        try:
            assert proxy.wait(START_TIMEOUT) == 1
        finally:
            proxy.close()
    try:
        assert "READY" not in manager.told(0.01)
    except TimeoutError:
        pass


def test_a_socket_that_is_gone_hurts_nothing(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> None:
    proxy = start_proxy(environment={"NOTIFY_SOCKET": str(tmp_path / "gone")})
    proxy.wait_for_log("the service manager was not told READY=1: ")
    assert proxy.get(origin.url("/x")).ok
