"""Stored bodies that go while they are sent: evicted, purged, or not to be read any more. The response goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.agents import Fetch, results
from tests.support.content import content
from tests.support.origin import Origin, Reply
from tests.support.proxy import Proxy
from tests.support.tools import Tmpfs

Start = Callable[..., Proxy]

FRESH = ("Cache-Control", "max-age=3600")
OBJECT = (FRESH, ("ETag", '"v1"'), ("Accept-Ranges", "bytes"))
MIB = 1 << 20
SIZE = 9_000_000
"""More than sockets, and what is read ahead of a client, take of it."""


def slow_get(proxy: Proxy, url: str) -> Fetch:
    """A client that has had the head, and reads nothing of the body yet."""
    fetch = proxy.start_get(url, rcvbuf=8192, expect=SIZE, paused=True)
    fetch.head()
    return fetch


def goes_on(fetch: Fetch) -> None:
    fetch.resume()
    assert fetch.result().ok, fetch.response


@pytest.mark.parametrize("stored", ["bytes=8388608-8999999", "bytes=1048576-2097151", ""])
@pytest.mark.parametrize(
    ("how", "most"), [("evicted", "100%"), ("evicted", "10%"), ("purged", "10%"), ("unlinked", "10%")]
)
def test_an_entry_with_gaps_goes_while_it_is_sent(
    start_proxy: Start, origin: Origin, stored: str, how: str, most: str
) -> None:
    """The end of it, the middle, or nothing is stored when a client asks for all. Before it comes to what is stored
    the entry goes."""
    proxy = start_proxy(cache_max_size="20m" if how == "evicted" else "1g", cache_max_object_size=most)
    url = origin.serve("/whole", Reply(size=SIZE, headers=OBJECT))
    if stored:
        assert proxy.get(url, headers=[("Range", stored)]).status == 206
        proxy.wait_until_idle()
    fetch = slow_get(proxy, url)
    if how == "evicted":
        for number in range(40):
            other = origin.serve(f"/other/{number}", Reply(size=MIB, headers=OBJECT))
            assert proxy.get(other, expect=MIB).ok
        assert proxy.value("evictions_total") > 0
    elif how == "purged":
        assert proxy.request("PUT", url, body=b"x").status == 200
    else:
        for file in proxy.cache_dir.glob("bodies/*/*"):
            file.unlink()
    goes_on(fetch)
    again = proxy.get(url, expect=SIZE)
    assert again.ok


@pytest.mark.parametrize("lane", [True, False])
def test_a_file_is_cut_short_while_it_is_sent(start_proxy: Start, origin: Origin, lane: bool) -> None:
    """The rest is asked for under the strong validator, and nothing is asked for twice."""
    proxy = start_proxy(fast_lane=lane)
    url = origin.serve("/whole", Reply(size=SIZE, headers=OBJECT))
    assert proxy.get(url, expect=SIZE).ok
    proxy.wait_until_idle()
    fetch = slow_get(proxy, url)
    cut(proxy, 5_000_000)
    goes_on(fetch)
    assert fetch.response.hit
    first, *more = origin.seen("/whole", "GET")
    assert first.header("Range") is None
    for request in more:
        assert (request.header("Range") or "").startswith("bytes=")
        assert request.header("If-Range") == '"v1"'
    assert proxy.get(url, expect=SIZE).ok


def test_another_version_is_not_put_to_what_was_sent(start_proxy: Start, origin: Origin) -> None:
    """Nothing that isn't the same representation goes into a response (RFC 9111 §3.4): then it ends early."""
    proxy = start_proxy()
    new = Reply(size=SIZE, seed="new", headers=(FRESH, ("ETag", '"v2"')))
    url = origin.serve("/whole", Reply(size=SIZE, headers=OBJECT), new)
    assert proxy.get(url, expect=SIZE).ok
    proxy.wait_until_idle()
    fetch = slow_get(proxy, url)
    cut(proxy, 5_000_000)
    fetch.resume()
    assert not fetch.result().complete
    assert fetch.response.received <= 5_000_000
    assert proxy.get(url, expect=("new", SIZE)).ok


def test_several_ranges_of_a_file_that_is_cut_short(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy()
    url = origin.serve("/whole", Reply(size=SIZE, headers=OBJECT))
    assert proxy.get(url, expect=SIZE).ok
    proxy.wait_until_idle()
    cut(proxy, 1_000_000)
    response = proxy.get(url, headers=[("Range", "bytes=10-19, 7000000-7000009, 20-29, 8000000-8999999")])
    assert response.status == 206
    assert response.complete
    whole = content("/whole", SIZE)
    for start, stop in ((10, 20), (7_000_000, 7_000_010), (20, 30), (8_000_000, 9_000_000)):
        assert b"\r\n\r\n" + whole[start:stop] + b"\r\n--" in response.body


def test_a_disk_without_room_for_the_next_piece(start_proxy: Start, origin: Origin, tmp_path: Path) -> None:
    """Entries with gaps on a disk that somebody else has filled: no response ends early."""
    with Tmpfs(tmp_path / "small", "30m") as disk:
        proxy = start_proxy(
            cache_dir=disk / "cache", cache_min_free=0, cache_max_size="25m", cache_max_object_size="100%"
        )
        try:
            urls = [origin.serve(f"/whole/{number}", Reply(size=SIZE, headers=OBJECT)) for number in range(4)]
            for url in urls[:2]:
                assert proxy.get(url, headers=[("Range", "bytes=8388608-8999999")]).status == 206
            proxy.wait_until_idle()
            fetches = [slow_get(proxy, url) for url in urls]
            with (disk / "hog").open("wb", buffering=0) as hog:
                for step in (MIB, 4096):
                    try:
                        while hog.write(bytes(step)) == step:
                            pass
                    except OSError:
                        continue
            for fetch in fetches:
                fetch.resume()
            for response in results(fetches):
                assert response.ok, response
        finally:
            proxy.close()


def cut(proxy: Proxy, size: int) -> None:
    """Cut the files of all bodies short."""
    for file in proxy.cache_dir.glob("bodies/*/*"):
        os.truncate(file, size)
