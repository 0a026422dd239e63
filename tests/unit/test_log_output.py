"""Logs that can't be written, and text that must not be logged."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from proxy_cache.observe.log_output import WAITING_MAX, LogOutput, make_records_safe, output_for

LINE = "a line of the log, as long as most of them are\n"


class Pipe:
    """A log that is read when the test says so."""

    def __init__(self) -> None:
        self.read_end, write_end = os.pipe()
        self.stream: TextIO = os.fdopen(write_end, "w", encoding="utf-8")
        self.lost = 0
        self.output = LogOutput(self.stream, self._lost)

    def _lost(self, lines: int) -> None:
        self.lost += lines

    def read(self) -> str:
        return os.read(self.read_end, 1 << 20).decode()

    def close(self) -> None:
        os.close(self.read_end)
        self.stream.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_threads_may_write_at_the_same_time(pipe: Pipe) -> None:
    """Those of the disk tell of their trouble themselves."""
    threads, lines = 4, 3_000
    read: list[str] = []

    def write(name: int) -> None:
        for number in range(lines):
            pipe.output.write(f"{name} {number} {LINE}")

    async def run() -> None:
        reading = asyncio.create_task(asyncio.to_thread(read_all))
        await asyncio.gather(*(asyncio.to_thread(write, name) for name in range(threads)))
        while not reading.done():
            pipe.output.flush()
            await asyncio.sleep(0.01)

    def read_all() -> None:
        while sum(text.count("\n") for text in read) < threads * lines:
            read.append(pipe.read())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        asyncio.run(run())
    finally:
        sys.setswitchinterval(interval)
    found = "".join(read).splitlines()
    assert sorted(found) == sorted(f"{name} {number} {LINE}"[:-1] for name in range(threads) for number in range(lines))
    assert not pipe.lost


def test_a_reader_that_has_stalled_holds_nobody_up_and_misses_nothing_at_first(pipe: Pipe) -> None:
    async def write() -> str:
        lines = 5_000  # more than a pipe takes
        for number in range(lines):
            pipe.output.write(f"{number} {LINE}")
        text = pipe.read()
        while text.count("\n") < lines:
            await asyncio.sleep(0.01)  # it is tried again now and then
            text += await asyncio.to_thread(pipe.read)
        return text

    text = asyncio.run(write())
    assert [line.split()[0] for line in text.splitlines()] == [str(number) for number in range(5_000)]
    assert not pipe.lost


def test_what_waits_is_bounded_and_the_log_says_what_is_missing(pipe: Pipe) -> None:
    lines = 3 * WAITING_MAX // len(LINE)
    for _ in range(lines):
        pipe.output.write(LINE)
    assert 0 < pipe.lost < lines
    text = ""
    while "missing" not in text:
        text += pipe.read()
        pipe.output.flush()
    assert text.count(LINE) == lines - pipe.lost
    assert f"proxy-cache: {pipe.lost} log lines are missing here\n" in text
    pipe.output.write("and it goes on\n")
    assert pipe.read().endswith("and it goes on\n")


def test_a_reader_that_has_gone_and_one_that_comes_back(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    lost: list[int] = []
    with open(tmp_path / "log", "w") as stream:
        output = LogOutput(stream, lost.append)
        os.close(reader)
        for _ in range(3):
            output.write(LINE)
        assert sum(lost) == 3
        reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
        output.write(LINE)
        assert os.read(reader, 1 << 16).decode().startswith(LINE)
        os.close(reader)


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    lost: list[int] = []
    with open("/dev/full", "w", buffering=1) as stream:
        output = LogOutput(stream, lost.append)
        output.write(LINE * 3)
        output.write(LINE)
        output.close()
    assert sum(lost) == 4


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_no_character_is_too_odd(tmp_path: Path, encoding: str) -> None:
    with open(tmp_path / "log", "w", encoding=encoding) as stream:
        output = LogOutput(stream)
        output.write("\udcff é €\n")
        output.write("next\n")
    text = (tmp_path / "log").read_text(encoding)
    assert text.splitlines()[0].startswith("\\udcff ")
    assert text.splitlines()[1] == "next"


def test_what_is_no_file_is_left_alone() -> None:
    assert output_for(None, print) is None
    assert output_for(object(), print) is None


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, Kept]]:
    logger = logging.getLogger("proxy_cache.some_part")
    kept = Kept()
    logger.addHandler(kept)
    end = make_records_safe(["proxy_cache"])
    yield logger, kept
    end()
    logger.removeHandler(kept)


def test_records_have_no_secrets_and_forge_no_lines(log: tuple[logging.Logger, Kept]) -> None:
    logger, kept = log
    logger.warning(
        "cannot get %s", "http://u:hush@example.com/?token=hush\r\nGET http://example.com/ 200 \x1b[2J \udcff"
    )
    logger.warning("100 %")
    logger.warning("100 %d", "no number")
    logger.warning("x" * 100_000)
    assert kept.lines[0] == (
        "cannot get http://example.com/?token=***\\r\\nGET http://example.com/ 200 \\x1b[2J \\udcff"
    )
    assert kept.lines[1] == "100 %"
    assert len(kept.lines) == 4
    assert len(kept.lines[3]) < 10_000


def test_tracebacks_keep_their_lines_and_nothing_else(log: tuple[logging.Logger, Kept]) -> None:
    logger, kept = log
    try:
        raise ValueError("http://example.com/?token=hush \x1b[2J")
    except ValueError:
        logger.exception("it failed")
    (text,) = kept.lines
    assert text.splitlines()[-1] == "ValueError: http://example.com/?token=*** \\x1b[2J"
    assert len(text.splitlines()) >= 4


@pytest.mark.parametrize("text", ["x" * 5_000_000, "x\n" * 2_500_000, "x" * 20_000 + "\n" + "y" * 20_000])
def test_errors_and_tracebacks_are_bounded(log: tuple[logging.Logger, Kept], text: str) -> None:
    logger, kept = log
    logger.error("an error: %s, and its end", text)
    assert kept.lines[0].startswith("an error: x")
    try:
        raise ValueError(f"{text} and its end")
    except ValueError:
        logger.exception("it failed")
    assert kept.lines[1].startswith("it failed\nTraceback (most recent call last):\n")
    assert "ValueError: x" in kept.lines[1]
    assert max(map(len, kept.lines)) < 40_000


def test_a_trace_that_somebody_has_written_is_safe_as_well(log: tuple[logging.Logger, Kept]) -> None:
    logger, kept = log
    record = logger.makeRecord(logger.name, logging.ERROR, "a.py", 1, "it failed", (), None)
    record.exc_text = "ValueError: http://a.example/?token=hush\x1b[2J" + "x" * 100_000
    logger.handle(record)
    assert "hush" not in kept.lines[0]
    assert "\x1b" not in kept.lines[0]
    assert len(kept.lines[0]) < 20_000


def test_a_secret_is_not_shown_since_a_message_was_cut_there(log: tuple[logging.Logger, Kept]) -> None:
    logger, kept = log
    for before in range(8_100, 8_192, 7):
        for level in (logging.WARNING, logging.ERROR):
            logger.log(level, "%s", "x" * before + f" http://user:{'hush' * 100}@a.example/")
    for before in range(16_200, 16_384, 7):
        logger.error("%s", "x\n" * (before // 2) + f"http://user:{'hush' * 100}@a.example/" + "\nx" * 40_000)
        logger.error("%s", "x\n" * 40_000 + f"http://user:{'hush' * 100}@a.example/" + "\nx" * (before // 2))
    assert "hush" not in "".join(kept.lines)
