"""Folders of body files."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from proxy_cache.store.files import BodyFiles


def test_folders_are_spread_over_the_disk(tmp_path: Path) -> None:
    """ext4 is told that they are unrelated; on other file systems nothing happens."""
    files = BodyFiles(tmp_path)
    files.prepare()
    lsattr = shutil.which("lsattr")
    told = subprocess.run([lsattr, "-d", files.bodies, files.tmp], capture_output=True, text=True) if lsattr else None
    if told is None or told.returncode:
        pytest.skip("no lsattr, or a file system without attributes")
    assert [line.split()[0].count("T") for line in told.stdout.splitlines()] == [1, 1]
    files.prepare()  # again, as every start does


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no memory file system")
def test_a_file_system_that_knows_no_such_hint() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        files = BodyFiles(Path(folder))
        files.prepare()
        files.write_whole(1, [b"abc"])
        assert Path(files.path(1)).read_bytes() == b"abc"
        descriptor = files.create(2)
        assert Path(files.tmp_path(2)).exists()
        os.close(descriptor)
        files.discard(2)
