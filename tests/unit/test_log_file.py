"""The access log's own file: written behind, rotated without a loss, on disks that are full or have stalled."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy_cache.observe import log_file
from proxy_cache.observe.access_log import AccessLog, LogSettings
from proxy_cache.observe.log_file import WAITING_MAX, LogFile

LINES = 20_000


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., LogFile]]:
    files = []

    def open_file(name: str = "access.log", on_lost: Callable[[int], None] = lambda lines: None) -> LogFile:
        files.append(LogFile(tmp_path / name, on_lost))
        return files[-1]

    yield open_file
    for file in files:
        file.close(10)


def test_lines_are_appended(opened: Callable[..., LogFile], tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("before\n")
    file = opened()
    file.write("one\ntwo\udcff\n", 2)
    file.close(10)
    assert path.read_text() == "before\none\ntwo\\udcff\n"


def test_a_new_file_is_not_for_everybody(opened: Callable[..., LogFile], tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        opened()
    finally:
        os.umask(before)
    assert (tmp_path / "access.log").stat().st_mode & 0o777 == 0o640


def test_rotations_lose_no_line_and_have_none_twice(opened: Callable[..., LogFile], tmp_path: Path) -> None:
    file, path = opened(), tmp_path / "access.log"
    rotations = 20
    for number in range(LINES):
        file.write(f"{number}\n", 1)
        if number % (LINES // rotations) == 0:
            # One after the other, as a signal and its handler are: the next rename needs the new file.
            done = threading.Event()
            path.rename(tmp_path / f"access.log.{number // (LINES // rotations)}")
            file.reopen()
            wait_for_file(path, done)
    file.close(10)
    found = [int(line) for one in tmp_path.glob("access.log*") for line in one.read_text().split()]
    assert sorted(found) == list(range(LINES))


def wait_for_file(path: Path, done: threading.Event) -> None:
    for _ in range(10_000):
        if path.exists():
            return
        done.wait(0.001)
    raise AssertionError("no new file")


def test_lines_before_the_signal_go_into_the_old_file(opened: Callable[..., LogFile], tmp_path: Path) -> None:
    file, path = opened(), tmp_path / "access.log"
    path.chmod(0o600)
    path.rename(tmp_path / "old")
    file.write("before\n", 1)
    file.reopen()
    file.write("after\n", 1)
    file.close(10)
    assert (tmp_path / "old").read_text() == "before\n"
    assert path.read_text() == "after\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_opened_anew_goes_on_where_it_was(
    opened: Callable[..., LogFile], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, path = opened(), tmp_path / "access.log"
    path.rename(tmp_path / "old")
    path.mkdir()
    file.reopen()
    file.write("after\n", 1)
    file.close(10)
    assert (tmp_path / "old").read_text() == "after\n"
    assert "access_log_file goes on where it was" in caplog.text


def test_a_full_disk_is_told_once_and_lines_are_whole_again_afterwards(tmp_path: Path) -> None:
    """A limit of the file's size is as good as a full disk (in a process of its own: it is for all files)."""
    script = f"""
import logging, pathlib, resource, signal, sys
from proxy_cache.observe.log_file import LogFile
logging.basicConfig(format="%(message)s", stream=sys.stdout)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
lost = []
path = pathlib.Path({str(tmp_path / "access.log")!r})
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (25, hard))
file = LogFile(path, lost.append)
for _ in range(4):
    file.write("123456789\\n", 1)
while sum(lost) < 2:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
file.write("afterwards\\n", 1)
file.close(10)
print(sum(lost), path.read_text().split())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    told = done.stdout.splitlines()
    assert told[-1] == "2 ['123456789', '123456789', '12345', 'afterwards']"
    assert [line.partition("access.log: ")[2] for line in told[:-1]] == [
        "File too large: lines are lost", "2 lines are missing",
    ]  # fmt: skip


def test_a_stalled_disk_holds_nobody_up(opened: Callable[..., LogFile], monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[int] = []
    stalled, goes_on = threading.Event(), threading.Event()
    write = os.write

    def stall(descriptor: int, data: bytes) -> int:
        stalled.set()
        goes_on.wait(30)
        return write(descriptor, data)

    file = opened(on_lost=lost.append)
    monkeypatch.setattr(log_file.os, "write", stall)
    text = "x" * 1023 + "\n"
    file.write(text, 1)
    assert stalled.wait(30)
    more = WAITING_MAX // len(text) + 10
    for _ in range(more):
        file.write(text, 1)  # returns at once, or this never ends
    goes_on.set()
    file.close(10)
    assert sum(lost) == more + 1 - WAITING_MAX // len(text)
    assert file.path.stat().st_size == WAITING_MAX


@pytest.mark.parametrize("name", ["missing/access.log", "folder", "pipe"])
def test_what_is_no_file_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError):
        log_file.check(tmp_path / name)
    log_file.check(tmp_path / "could-be.log")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_cannot_be_opened_is_an_error_that_names_the_option(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = AccessLog()
    log.configure(LogSettings("json", tmp_path))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert caplog.text.count(f"access_log_file: {tmp_path}: Is a directory") == 1
