"""Log files that another program renames."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy_cache.observe.log_files import LogFiles


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, int, int]:
    """A file, and two descriptors for it, as stdout and stderr are."""
    path = tmp_path / "proxy.log"
    first = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    return path, first, os.dup(first)


def test_both_go_on_in_the_same_new_file(two: tuple[Path, int, int], tmp_path: Path) -> None:
    path, out, err = two
    files = LogFiles((out, err))
    os.write(out, b"one\n")
    path.rename(tmp_path / "old")
    assert files.reopen() == ["proxy.log"]
    os.write(out, b"two\n")
    os.write(err, b"three\n")
    assert (tmp_path / "old").read_text() == "one\n"
    assert path.read_text() == "two\nthree\n"
    assert files.reopen() == []
    assert os.get_inheritable(out)


def test_again_and_again(two: tuple[Path, int, int], tmp_path: Path) -> None:
    path, out, _ = two
    files = LogFiles((out,))
    for turn in range(3):
        path.rename(tmp_path / f"old{turn}")
        assert files.reopen() == ["proxy.log"]
        os.write(out, f"{turn}\n".encode())
        assert path.read_text() == f"{turn}\n"


def test_a_file_that_logrotate_has_made_is_used_as_it_is(two: tuple[Path, int, int], tmp_path: Path) -> None:
    path, out, _ = two
    files = LogFiles((out,))
    path.rename(tmp_path / "old")
    path.write_text("made by logrotate\n")
    path.chmod(0o644)
    files.reopen()
    os.write(out, b"one\n")
    assert path.read_text() == "made by logrotate\none\n"
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_cannot_be_opened_stays(two: tuple[Path, int, int], tmp_path: Path) -> None:
    path, out, err = two
    files = LogFiles((out, err))
    path.rename(tmp_path / "old")
    path.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(IsADirectoryError) as caught:
        files.reopen()
    assert caught.value.filename == str(path)
    assert len(os.listdir("/proc/self/fd")) == before
    os.write(err, b"one\n")
    assert (tmp_path / "old").read_text() == "one\n"


def test_a_pipe_is_left_alone() -> None:
    out, into = os.pipe()
    try:
        assert LogFiles((into, out)).reopen() == []
    finally:
        os.close(out)
        os.close(into)
