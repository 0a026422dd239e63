"""Another version of the proxy finds a cache: an older one's is taken over, a newer one's is left alone."""

from __future__ import annotations

import contextlib
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy_cache.store.rows import SCHEMA_VERSION
from tests.support.looks import files_below
from tests.support.origin import Origin, Reply
from tests.support.proxy import ROOT, START_TIMEOUT, Proxy

SCHEMA_7 = ROOT / "tests" / "support" / "store_of_schema_7.tar.xz"
"""The folder as version 0.1.0 has left it: made by a real proxy that had asked an origin. Below are its URLs."""
ORIGIN = "http://packages.test:44975"


def index_of(folder: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(folder / "index.sqlite", isolation_level=None))


@pytest.fixture
def left_by_7(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    with tarfile.open(SCHEMA_7) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_what_version_0_1_has_stored_is_served(start_proxy: Callable[..., Proxy], left_by_7: Path) -> None:
    """Whole bodies, from a segment and a file of its own; a variant, and a piece. Nobody is asked: the name has no
    address."""
    proxy = start_proxy(cache_dir=left_by_7)
    assert "4 entries" in proxy.text()
    for path, headers, body in (
        ("/small", [], b"small" * 100),
        ("/large", [], b"large" * 40_000),
        ("/vary", [("Accept-Language", "de")], b"vary" * 10),
        ("/part", [("Range", "bytes=2000000-2000003")], b"part"),
    ):
        for _ in range(2):
            response = proxy.get(ORIGIN + path, headers=headers)
            assert response.hit, path
            assert response.body == body, path
    assert proxy.value("corrupt_entries_total") == 0
    proxy.terminate()
    with index_of(left_by_7) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def of_the_future(folder: Path) -> None:
    """What nobody can know yet."""
    with index_of(folder) as database:
        database.execute("ALTER TABLE heads RENAME TO heads_and_tails")
        database.execute("INSERT INTO meta VALUES ('clean', '0') ON CONFLICT DO UPDATE SET value = '0'")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    (folder / "tmp" / "new").mkdir(parents=True)
    (folder / "tmp" / "new" / "kind").write_bytes(b"of file")
    (folder / "bodies" / "ff").mkdir(exist_ok=True)
    (folder / "bodies" / "ff" / "00000000000000ff").write_bytes(b"a body without a row that we could read")


def back_again(folder: Path) -> None:
    with index_of(folder) as database:
        database.execute("ALTER TABLE heads_and_tails RENAME TO heads")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (found.st_mode, path.read_bytes())
        for path, found in files_below(folder)
        if path.name != "lock"
    }


def test_a_cache_of_a_newer_version_is_refused_and_left_as_it_is(
    start_proxy: Callable[..., Proxy], origin: Origin
) -> None:
    """So an operator who rolls back loses nothing: the newer version goes on with it."""
    proxy = start_proxy()
    url = origin.serve("/x", Reply(size=10_000))
    assert proxy.get(url, expect=10_000).ok
    proxy.terminate()
    of_the_future(proxy.cache_dir)
    before = contents(proxy.cache_dir)

    since = len(proxy.log)
    proxy.launch()
    assert proxy.wait(START_TIMEOUT) == 1
    (told,) = [line for line in proxy.log[since:] if "cache_dir" in line]
    assert (
        f"cache_dir {proxy.cache_dir} was written by a newer proxy-cache (schema {SCHEMA_VERSION + 1}; this one knows "
        f"{SCHEMA_VERSION}): start that one again, or name another folder, or delete this one and begin empty; nothing "
        "in it was changed"
    ) in told
    assert not any("Traceback" in line for line in proxy.log[since:])
    assert contents(proxy.cache_dir) == before

    back_again(proxy.cache_dir)
    proxy.start()
    assert proxy.get(url, expect=10_000).hit
