"""The cache folder: crashes, little room, other processes."""

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
    """Afterwards every byte served is right, and no file without an entry is left."""
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
        proxy = start_proxy(cache_dir=disk / "cache", cache_max_object_size="100%")
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


def test_a_disk_that_is_mostly_somebody_elses(
    start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path
) -> None:
    """A share is of the obtainable bytes: 80 % of the whole disk could be more than there is. It is the same after a
    restart, when a part of the disk is ours; and the cache shrinks as others take more."""
    with Tmpfs(tmp_path / "disk", "100m") as disk:
        (disk / "others").write_bytes(bytes(80 * MIB))
        proxy = start_proxy(cache_dir=disk / "cache", cache_max_object_size="100%")
        try:
            limit = proxy.value("cache_capacity_bytes")
            assert 15 * MIB < limit <= 16 * MIB
            for number in range(12):
                assert proxy.get(origin.serve(f"/{number}", Reply(size=MIB)), expect=MIB).ok
            proxy.wait_until_idle()
            assert proxy.value("cache_entries") == 12
            proxy.restart()
            assert abs(proxy.value("cache_capacity_bytes") - limit) < MIB
            assert proxy.value("cache_entries") == 12
            (disk / "more").write_bytes(bytes(6 * MIB))

            def smaller() -> float:
                assert proxy.get(origin.serve(f"/new/{proxy.value('cache_entries')}", Reply(size=1000))).ok
                return proxy.value("cache_capacity_bytes")

            proxy.eventually(smaller, lambda size: 10 * MIB < size < 12 * MIB)
            proxy.eventually(lambda: proxy.value("cache_size_bytes"), lambda size: size < 12 * MIB)
            assert proxy.get(origin.url("/11"), expect=MIB).hit
        finally:
            proxy.close()


def test_a_disk_that_is_full(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> None:
    """It starts, logs that there is no room, and serves without keeping."""
    with Tmpfs(tmp_path / "disk", "20m") as disk:
        (disk / "others").write_bytes(bytes(19 * MIB))
        proxy = start_proxy(cache_dir=disk / "cache")
        try:
            proxy.wait_for_log("the disk of cache_dir can give the cache no more than")
            assert proxy.value("cache_capacity_bytes") < MIB
            for _ in range(2):
                assert proxy.get(origin.serve("/x", Reply(size=2 * MIB)), expect=2 * MIB).ok
        finally:
            proxy.close()


def test_a_small_disk_stays_full_of_small_bodies(
    start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path
) -> None:
    """If the disk's free space is the limit: evicted bytes that are not free yet are not evicted twice."""
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

            # The index's log takes some, uncounted; and evicted bytes are freed late.
            proxy.eventually(free, lambda size: size >= 2 * MIB)
            assert proxy.value("evictions_total") > 1_000
            assert proxy.value("cache_size_bytes") >= 2 * MIB, "what the log of the index leaves"
            # On a busy machine evicted bytes may be freed too late for some of them.
            assert proxy.value("store_failures_total") < 20
        finally:
            proxy.close()


def test_a_disk_full_from_outside(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> None:
    """Another program fills the disk: agents notice nothing, and a metric says why nothing is cached."""
    with Tmpfs(tmp_path / "small", "20m") as disk:
        proxy = start_proxy(
            cache_dir=disk / "cache", cache_min_free=0, cache_max_size="15m", cache_max_object_size="100%"
        )
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
    """The least recently used entry is evicted first."""
    proxy = start_proxy(cache_max_size="5m", cache_max_object_size="100%")
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
    proxy = start_proxy(cache_max_size="5m", cache_max_object_size="100%")
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
    """Whether its length is known or not; and stored entries stay."""
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
    """Nonsense in place of the index: either one clear line and an exit, or a start with an empty cache."""
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


# -- what counts, and what one response may take ------------------------------------------------------------


def du(proxy: Proxy) -> int:
    """Bytes of the whole cache folder on the disk, with index and folders."""
    return sum(path.lstat().st_blocks * 512 for path in (proxy.cache_dir, *proxy.cache_dir.rglob("*")))


def test_an_endless_response_does_not_empty_the_cache(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Entries are evicted for up to a tenth of the cache, and no more: the others stay."""
    proxy = start_proxy(cache_max_size="50m")
    urls = [origin.serve(f"/kept/{number}", Reply(size=900_000)) for number in range(50)]
    assert all(proxy.get(url, expect=900_000).ok for url in urls)
    proxy.wait_until_idle()
    before = proxy.value("cache_entries")
    fetch = proxy.start_get(origin.serve("/endless", Reply(size=200 * MIB, chunked=True)), expect=200 * MIB)
    fetch.received(150 * MIB)
    assert proxy.value("cache_entries") >= before - 6
    assert proxy.value("store_failures_total", reason="too_large") == 1
    assert fetch.result().ok
    proxy.wait_until_idle()
    assert proxy.value("cache_entries") >= before - 6
    assert proxy.get(urls[-1], expect=900_000).hit


def test_what_is_announced_evicts_nothing(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Ten terabytes that never arrive, or a tenth of the cache of which only the first bytes arrive."""
    proxy = start_proxy(cache_max_size="50m")
    urls = [origin.serve(f"/kept/{number}", Reply(size=900_000)) for number in range(54)]
    assert all(proxy.get(url, expect=900_000).ok for url in urls)
    proxy.wait_until_idle()
    before = proxy.value("evictions_total")
    gate = Gate()
    fetches = []
    for number, size in enumerate((10**13, 5_000_000, 5_000_000, 5_000_000)):
        reply = Reply(size=size, body_gate=gate, gate_at=1000)
        fetches.append(proxy.start_get(origin.serve(f"/announced/{number}", reply)))
        fetches[-1].received(1000)
    assert proxy.value("evictions_total") == before
    assert proxy.value("store_failures_total", reason="too_large") == 1
    for fetch in fetches:
        fetch.leave()
    gate.open()


def test_what_is_used_meanwhile_stays(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """A long response evicts entries that are older than it. If there are none left, it isn't kept."""
    proxy = start_proxy(cache_max_size="10m", cache_max_object_size="100%")
    gate = Gate()
    slow = proxy.start_get(
        origin.serve("/slow", Reply(size=9 * MIB, chunked=True, body_gate=gate, gate_at=1000)), expect=9 * MIB
    )
    slow.received(1000)
    urls = [origin.serve(f"/newer/{number}", Reply(size=900_000)) for number in range(10)]
    assert all(proxy.get(url, expect=900_000).ok for url in urls)
    gate.open()
    assert slow.result().ok
    proxy.wait_until_idle()
    assert proxy.value("store_failures_total", reason="no_space") >= 1
    assert all(proxy.get(url, expect=900_000).hit for url in urls)


def test_ranges_of_what_is_longer_than_one_entry_may_be(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Ranges are kept up to the limit for one entry; the others are still served."""
    proxy = start_proxy(cache_max_size="100m", cache_max_object_size="3m", cache_fill_whole=0)
    headers = (("Cache-Control", "max-age=600"), ("ETag", '"1"'), ("Accept-Ranges", "bytes"))
    url = origin.serve("/image", Reply(size=20 * MIB, headers=headers))
    asked = []
    for _ in range(2):
        for block in range(8):
            start = block * 2 * MIB
            response = proxy.get(url, headers=[("Range", f"bytes={start}-{start + 99}")])
            assert response.status == 206
            assert response.body == origin.body_of("/image", 100, start)
        proxy.wait_until_idle()
        asked.append(origin.count("/image"))
    assert asked[0] == 8
    assert 5 <= asked[1] - asked[0] <= 7
    assert proxy.value("cache_size_bytes") <= 3 * MIB + 4096
    assert proxy.get(url, expect=20 * MIB).ok


def test_long_heads_count(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Bodies of a byte with heads of 40 kB: no more are kept than fit, and the size is reported truly."""
    proxy = start_proxy(cache_max_size="8m")
    headers = (("Cache-Control", "max-age=600"), *((f"X-Long-{number}", "h" * 4000) for number in range(10)))
    empty = du(proxy)
    for number in range(600):
        assert proxy.get(origin.serve(f"/head/{number}", Reply(size=1, headers=headers)), expect=1).ok
    proxy.wait_until_idle()
    size = proxy.value("cache_size_bytes")
    assert 6 * MIB < size <= 8 * MIB
    assert proxy.value("cache_entries") < 200
    assert proxy.value("evictions_total") > 300
    proxy.terminate()  # checkpoint the write-ahead log
    assert size / 2 < du(proxy) - empty < size + 20 * MIB, "besides that, so much may be free in the index"


def test_what_the_metric_says_is_what_the_disk_says(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Bodies of all kinds: to a tenth, plus a megabyte for the index."""
    proxy = start_proxy()
    empty = du(proxy)
    for size in (1, 100, 4000, 5000, 70_000, 300_000, 2_000_000):
        for number in range(12):
            assert proxy.get(origin.serve(f"/{size}/{number}", Reply(size=size)), expect=size).ok
    proxy.wait_until_idle()
    told = proxy.value("cache_size_bytes")
    proxy.terminate()
    assert told * 0.9 - MIB < du(proxy) - empty < told * 1.1 + MIB


def test_heads_and_keys_that_are_too_long_are_served_and_not_stored(
    start_proxy: Callable[..., Proxy], origin: Origin
) -> None:
    proxy = start_proxy(head_max_size="1m")
    fresh = ("Cache-Control", "max-age=600")
    long_head = (fresh, *((f"X-Long-{number}", "h" * 4000) for number in range(20)))
    urls = [
        origin.serve("/head", Reply(headers=long_head)),
        origin.serve("/key?" + "q" * 9000, Reply(headers=(fresh,))),
    ]
    for url in urls:
        for _ in range(2):
            response = proxy.get(url)
            assert response.ok
            assert not response.hit
    assert proxy.value("cache_entries") == 0
    assert proxy.value("store_failures_total", reason="too_large") == 4


def test_updates_make_no_head_grow_without_end(proxy: Proxy, origin: Origin) -> None:
    """Each 304 adds a field. At some length the entry is removed, and fetched again."""
    stale = (("Cache-Control", "max-age=0"), ("ETag", '"1"'))
    url = origin.serve("/x", Reply(headers=stale))
    assert proxy.get(url).ok
    for number in range(30):
        origin.serve("/x", Reply(headers=(*stale, (f"X-More-{number}", "m" * 4000))))
        response = proxy.get(url)
        assert response.ok
        assert response.body == content("/x", 1000)
        assert sum(len(name) + len(value) for name, value in response.headers) < 70_000
        assert proxy.value("cache_size_bytes") <= 72 * 1024


# -- the folder ---------------------------------------------------------------------------------------------


def test_nobody_else_reads_the_cache(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy()
    for size in (100, 100_000, 2_000_000):
        assert proxy.get(origin.serve(f"/{size}", Reply(size=size)), expect=size).ok
    proxy.wait_until_idle()
    for path in (proxy.cache_dir, *proxy.cache_dir.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_of_an_earlier_version_is_tightened(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy()
    url = origin.serve("/x")
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    proxy.terminate()
    for path in (proxy.cache_dir, *proxy.cache_dir.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    proxy.start()
    assert proxy.get(url).hit
    for path in (proxy.cache_dir, *proxy.cache_dir.rglob("*")):
        assert path.parent.parent.name == "bodies" or not path.stat().st_mode & 0o077, path


def test_an_index_that_was_deleted(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """The cache starts empty, logs that once, and deletes bodies without an index."""
    proxy = start_proxy()
    urls = {size: origin.serve(f"/{size}", Reply(size=size)) for size in (100, 100_000, 2_000_000)}
    for size, url in urls.items():
        assert proxy.get(url, expect=size).ok
    proxy.wait_until_idle()
    proxy.terminate()
    (proxy.cache_dir / "index.sqlite").unlink()
    before = len(proxy.log)
    proxy.start()
    told = [line for line in proxy.log[before:] if "there was no index" in line]
    assert len(told) == 1
    assert "3 files" in told[0]
    assert proxy.value("cache_entries") == 0
    assert proxy.stored() == []
    for size, url in urls.items():
        assert not proxy.get(url, expect=size).hit
        proxy.wait_until_idle()
        assert proxy.get(url, expect=size).hit
    assert proxy.value("store_failures_total") == 0
