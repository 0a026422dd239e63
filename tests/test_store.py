"""What is on the disk: crashes, little room, other processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.support.agents import results
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import START_TIMEOUT, Proxy
from tests.support.tools import Tmpfs

MB = 1_000_000
MIB = 1 << 20


def test_kill_9_in_the_middle_of_50_fills(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """What is served afterwards is right to the byte, and no file is left that no entry knows."""
    proxy = start_proxy()
    size = 300_000
    done = [f"/done/{n}" for n in range(30)]
    for target in done:
        assert proxy.get(origin.serve(target, Reply(size=size)), expect=size).ok
    proxy.wait_until_idle()
    gate = Gate()
    torn = [f"/torn/{n}" for n in range(50)]
    fetches = []
    for number, target in enumerate(torn):
        reply = Reply(size=size, chunked=bool(number % 2), body_gate=gate, gate_at=number * 5000)
        fetches.append(proxy.start_get(origin.serve(target, reply)))
    for number, fetch in enumerate(fetches):
        fetch.received(number * 5000)
    # Some of the fills end while the process is killed.
    gate.open()
    proxy.kill9()
    for response in results(fetches):
        assert not response.complete or response.body == content(torn[fetches.index(_of(fetches, response))], size)

    proxy.start()
    entries = int(proxy.value("cache_entries"))
    assert len(proxy.stored()) == entries
    stored = 0
    for target in done + torn:
        origin.serve(target, Reply(size=size))
        response = proxy.get(origin.url(target), expect=size)
        assert response.ok, (target, response)
        stored += response.hit
    assert stored == entries
    assert stored >= 25, "what was complete long before the crash is still there"


def _of(fetches: list, response: object) -> object:  # type: ignore[type-arg]
    return next(fetch for fetch in fetches if fetch.response is response)


def test_kill_9_right_after_answers(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Again and again, without waiting for anything to be written."""
    proxy = start_proxy()
    for turn in range(3):
        targets = [f"/{turn}/{n}" for n in range(40)]
        fetches = [proxy.start_get(origin.serve(t, Reply(size=50_000)), expect=50_000) for t in targets]
        for fetch in fetches[:20]:
            fetch.result()
        proxy.kill9()
        results(fetches)
        proxy.start()
        assert len(proxy.stored()) == int(proxy.value("cache_entries"))
        for target in targets:
            assert proxy.get(origin.url(target), expect=50_000).ok


def test_a_small_disk(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> None:
    """A tmpfs of 20 MB, 200 objects of 1 MB, 8 agents: all served right, and the disk never overflows."""
    with Tmpfs(tmp_path / "small", "20m") as disk:
        proxy = start_proxy(cache_dir=disk / "cache")
        try:
            limit = proxy.value("cache_capacity_bytes")
            assert 10 * MIB < limit <= 20 * MIB
            for wave in range(25):
                targets = [f"/object/{wave * 8 + n}" for n in range(8)]
                fetches = [proxy.start_get(origin.serve(t, Reply(size=MIB)), expect=MIB) for t in targets]
                for response in results(fetches):
                    assert response.ok, response
                assert proxy.value("cache_size_bytes") <= limit
                stat = os.statvfs(disk)
                assert stat.f_bfree * stat.f_frsize > 0
            assert proxy.value("evictions_total") > 100
            assert proxy.value("cache_entries") >= 5, "the disk is used"
            assert proxy.get(origin.url("/object/199"), expect=MIB).ok
        finally:
            proxy.close()


def test_a_small_disk_stays_full_of_small_bodies(
    start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path
) -> None:
    """Where the free space of the disk is what counts: what was evicted is on its way back, and not evicted twice."""
    with Tmpfs(tmp_path / "small", "24m") as disk:
        proxy = start_proxy(cache_dir=disk / "cache", cache_max_size="22m", cache_min_free="8m")
        try:
            url = origin.serve_prefix("/s/", Reply(size=20_000))
            for first in range(0, 2_000, 40):
                fetches = [proxy.start_get(f"{url}{first + n}", expect=20_000) for n in range(40)]
                assert all(response.ok for response in results(fetches))
            proxy.wait_until_idle()

            def free() -> int:
                stat = os.statvfs(disk)
                return stat.f_bfree * stat.f_frsize

            # The index's log takes some, unseen; and what was evicted is on its way back.
            proxy.eventually(free, lambda size: size >= 2 * MIB)
            assert proxy.value("evictions_total") > 1_000
            assert proxy.value("cache_size_bytes") >= 2 * MIB, "what the log of the index leaves"
            assert proxy.value("store_failures_total") == 0
        finally:
            proxy.close()


def test_a_disk_full_from_outside(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> None:
    """Somebody else takes all the room: agents notice nothing, a metric says why nothing is cached."""
    with Tmpfs(tmp_path / "small", "20m") as disk:
        proxy = start_proxy(cache_dir=disk / "cache", cache_min_free=0, cache_max_size="15m")
        try:
            assert proxy.get(origin.serve("/before", Reply(size=MIB)), expect=MIB).ok
            proxy.wait_until_idle()
            with (disk / "hog").open("wb", buffering=0) as hog:
                for step in (MIB, 4096):
                    try:
                        while hog.write(bytes(step)) == step:
                            pass
                    except OSError:
                        continue
            for number in range(10):
                target = f"/full/{number}"
                response = proxy.get(origin.serve(target, Reply(size=3 * MIB, chunked=number % 2 == 1)), expect=3 * MIB)
                assert response.ok, response
            assert proxy.value("store_failures_total") > 0
            (disk / "hog").unlink()
            url = origin.url("/after")
            assert proxy.eventually(lambda: proxy.get(url), lambda response: response.hit).ok
        finally:
            proxy.close()


def test_the_cache_keeps_to_its_size(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """The least recently used goes first."""
    proxy = start_proxy(cache_max_size="5m")
    targets = [f"/o/{n}" for n in range(4)]
    for target in targets:
        assert proxy.get(origin.serve(target, Reply(size=MIB)), expect=MIB).ok
        proxy.wait_until_idle()
    assert proxy.get(origin.url("/o/0"), expect=MIB).hit
    for target in ("/o/new0", "/o/new1"):
        assert proxy.get(origin.serve(target, Reply(size=MIB)), expect=MIB).ok
        proxy.wait_until_idle()
    assert proxy.value("cache_size_bytes") <= 5 * MIB
    assert proxy.value("evictions_total") == 2
    assert proxy.get(origin.url("/o/0"), expect=MIB).hit
    assert not proxy.get(origin.url("/o/1"), expect=MIB).hit


def test_recency_is_kept_over_a_restart(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(cache_max_size="5m")
    for number in range(4):
        assert proxy.get(origin.serve(f"/o/{number}", Reply(size=MIB)), expect=MIB).ok
        proxy.wait_until_idle()
    assert proxy.get(origin.url("/o/0"), expect=MIB).hit
    proxy.restart()
    assert proxy.value("cache_entries") == 4
    for target in ("/o/new0", "/o/new1"):
        assert proxy.get(origin.serve(target, Reply(size=MIB)), expect=MIB).ok
        proxy.wait_until_idle()
    assert proxy.get(origin.url("/o/0"), expect=MIB).hit
    assert not proxy.get(origin.url("/o/1"), expect=MIB).hit


def test_a_smaller_limit_after_a_restart(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy()
    for number in range(6):
        assert proxy.get(origin.serve(f"/o/{number}", Reply(size=MIB)), expect=MIB).ok
    proxy.wait_until_idle()
    proxy.terminate()
    proxy.options["cache_max_size"] = "3m"
    proxy.start()
    proxy.wait_for_metric("cache_size_bytes", lambda size: 0 < size <= 3 * MIB)
    proxy.eventually(lambda: proxy.disk_usage(), lambda size: size <= 3 * MIB)
    assert proxy.get(origin.url("/o/5"), expect=MIB).hit


def test_an_object_larger_than_the_cache_is_served(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Both when its length is known and when it is not, and what is stored stays."""
    proxy = start_proxy(cache_max_size="2m")
    assert proxy.get(origin.serve("/kept", Reply(size=100_000)), expect=100_000).ok
    for chunked in (False, True):
        url = origin.serve(f"/huge/{chunked}", Reply(size=10 * MIB, chunked=chunked))
        fetches = [proxy.start_get(url, expect=10 * MIB) for _ in range(3)]
        assert all(response.ok for response in results(fetches))
    proxy.wait_until_idle()
    assert proxy.value("cache_size_bytes") <= 2 * MIB
    proxy.eventually(proxy.disk_usage, lambda size: size <= 2 * MIB)
    assert proxy.get(origin.url("/huge/False"), expect=10 * MIB).ok


def test_a_second_process_on_one_folder_stops(
    start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path
) -> None:
    first = start_proxy()
    url = origin.serve("/x")
    assert first.get(url).ok
    folder = tmp_path / "second"
    folder.mkdir()
    second = Proxy(folder, cache_dir=first.cache_dir)
    second.launch()
    try:
        assert second.wait(START_TIMEOUT) != 0
    finally:
        second.close()
    lines = [line for line in second.log if "cache_dir" in line]
    assert len(lines) == 1, second.text()
    assert "in use" in lines[0]
    assert str(first.pid) in lines[0]
    assert "Traceback" not in second.text()
    assert first.get(url).hit


def test_a_folder_is_free_again_after_a_crash(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy()
    url = origin.serve("/x")
    assert proxy.get(url).ok
    proxy.kill9()
    proxy.start()
    assert proxy.get(url).ok


def test_a_broken_index_is_no_reason_to_stop_serving_right(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Nonsense where the index was: either one clear line and an end, or a start with an empty cache."""
    proxy = start_proxy()
    url = origin.serve("/x", Reply(size=50_000))
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    proxy.terminate()
    (index,) = proxy.cache_dir.glob("index.sqlite")
    index.write_bytes(b"this is no database" * 1000)
    for suffix in ("-wal", "-shm"):
        index.with_name(index.name + suffix).unlink(missing_ok=True)
    proxy.launch()
    try:
        match = proxy.wait_for_log(r"cache_dir .*|metrics on http://(\S+):(\d+)/metrics", START_TIMEOUT)
    finally:
        proxy.terminate()
    if match[0].startswith("cache_dir"):
        assert proxy.returncode != 0


def test_files_of_others_in_the_folder_are_left_alone(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy()
    assert proxy.get(origin.url("/x")).ok
    note = proxy.cache_dir / "README"
    note.write_text("keep me")
    proxy.kill9()
    proxy.start()
    assert note.read_text() == "keep me"
