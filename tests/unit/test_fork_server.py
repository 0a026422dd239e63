"""Forked mitmdumps are what executed ones are, and the process that forks them never stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.fork_server import ForkedProcess
from tests.support.proxy import PATIENCE, POLL, ROOT, SCRIPTS, START_TIMEOUT, Proxy, clean_environment


def told(proxy: Proxy) -> dict[str, Any]:
    """What a process says of itself."""
    proxy.folder.mkdir(exist_ok=True)
    proxy.launch()
    try:
        said = proxy.wait_for_log("process (.*)", START_TIMEOUT)[1]
    finally:
        assert proxy.terminate() == 0
        proxy.close()
    found: dict[str, Any] = json.loads(said)
    return found


def test_a_forked_process_is_like_an_executed_one(tmp_path: Path) -> None:
    """Its environment, folder, descriptors, signals: all that a program could see of who has started it."""
    options: dict[str, Any] = {
        "script": SCRIPTS / "tell_process.py",
        "environment": {"HERE": "ü", "SSL_CERT_FILE": "/no"},
        "listen_port": 0,
    }
    forked, executed = Proxy(tmp_path, **options), Proxy(tmp_path, execute=True, **options)
    seen = told(forked)
    assert isinstance(forked.process, ForkedProcess)
    assert seen == told(executed)
    assert isinstance(executed.process, subprocess.Popen)
    assert seen["ours"] == []
    assert seen["environment"]["HERE"] == "ü"


@pytest.mark.parametrize("name", ["PYTHONIOENCODING", "MALLOC_ARENA_MAX", "TZ"])
def test_what_acts_at_the_start_is_executed(tmp_path: Path, name: str) -> None:
    value = {"PYTHONIOENCODING": "latin-1", "MALLOC_ARENA_MAX": "1", "TZ": "Asia/Kolkata"}[name]
    proxy = Proxy(tmp_path, script=SCRIPTS / "tell_process.py", environment={name: value})
    assert told(proxy)["environment"][name] == value
    assert isinstance(proxy.process, subprocess.Popen)


def test_it_may_end_in_any_way(tmp_path: Path) -> None:
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)):
        proxy = Proxy(tmp_path).start()
        try:
            assert isinstance(proxy.process, ForkedProcess)
            with pytest.raises(subprocess.TimeoutExpired):
                proxy.process.wait(0.01)
            assert proxy.returncode is None
            proxy.signal(number)
            assert proxy.wait() == status
            proxy.signal(signal.SIGKILL)  # nobody is there
        finally:
            proxy.close()
    proxy = Proxy(tmp_path, origin_max_in_flight=-1)
    proxy.launch()
    assert proxy.wait(START_TIMEOUT) == 1
    assert proxy.returncode == 1


ABANDONED = """
import os, signal, sys
from pathlib import Path
from tests.support.proxy import Proxy
from tests.support import fork_server
proxy = Proxy(Path(sys.argv[1])).start()
print(fork_server.pid_of_server(), proxy.pid, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_nothing_stays_when_the_tests_have_gone(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-c", ABANDONED, str(tmp_path), how]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == (-signal.SIGKILL if how == "killed" else 0), done.stderr
    deadline = time.monotonic() + PATIENCE
    for pid in done.stdout.split():
        while is_running(pid):
            assert time.monotonic() < deadline, f"{pid} is still there"
            time.sleep(POLL)


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_nor_what_was_compiled(tmp_path: Path) -> None:
    """Where it must not be written next to the sources."""
    environment = clean_environment(PYTHONDONTWRITEBYTECODE="1", TMPDIR=str(tmp_path))
    folder = tmp_path / "proxy"
    folder.mkdir()
    command = [sys.executable, "-c", ABANDONED, str(folder), "ended"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while os.listdir(tmp_path) != ["proxy"]:
        assert time.monotonic() < deadline, os.listdir(tmp_path)
        time.sleep(POLL)
