"""Bytes on the disk that are not what was stored: nobody gets them twice, and who insists gets the right ones."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import TOKEN, call
from tests.support.content import content
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]

FRESH = ("Cache-Control", "max-age=3600")
OBJECT = (FRESH, ("ETag", '"v1"'), ("Accept-Ranges", "bytes"))
SIZES = [10, 10_000, 60_000, 100_000, 900_000, 3_000_000]
"""In a segment, in files that are looked at as a whole, and in one that went past our memory to the disk."""
INSISTING = [("Cache-Control", "no-cache"), ("Cache-Control", "max-age=0"), ("Pragma", "no-cache")]


def place_of(proxy: Proxy, body: bytes) -> tuple[Path, int]:
    """The file on the disk that has these bytes, and where."""
    for file in [*proxy.cache_dir.glob("bodies/*/*"), *proxy.cache_dir.glob("segments/*")]:
        data = file.read_bytes()
        if (at := data.find(body)) >= 0:
            return file, at
    raise AssertionError("it is not on the disk")


def flip(proxy: Proxy, body: bytes, at: int) -> None:
    """Flip a bit of the byte at ``at`` of a stored body, as a disk would: no time of the file changes."""
    file, offset = place_of(proxy, body)
    times = file.stat()
    with file.open("r+b", buffering=0) as opened:
        opened.seek(offset + at)
        opened.write(bytes([body[at] ^ 4]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def stored(proxy: Proxy, origin: Origin, size: int, name: str = "/body") -> tuple[str, bytes]:
    """A body that is on the disk, with its checksums, and not in memory."""
    url = origin.serve(name, Reply(size=size, headers=OBJECT))
    assert proxy.get(url, expect=size).ok
    summed(proxy)
    return url, content(name, size)


def summed(proxy: Proxy) -> None:
    proxy.wait_until_idle()
    proxy.eventually(lambda: proxy.status()["store"]["unsummed"], lambda left: not left)


def test_a_range_of_a_long_one_with_a_flipped_bit(proxy: Proxy, origin: Origin) -> None:
    """The origin says 304; the body that is there turns out to be bad, so the range is asked for, once."""
    url, body = stored(proxy, origin, 6_000_000, "/long-flipped")
    flip(proxy, body, 5_000_010)
    before = origin.count("/long-flipped")
    for number in range(2):
        fields = [("Range", "bytes=5000000-5000099"), *[("Cache-Control", "no-cache")][number:]]
        answer = proxy.get(url, headers=fields)
        assert (answer.status, answer.body) == (206, body[5_000_000:5_000_100])
    assert origin.count("/long-flipped") == before + 2


@pytest.mark.parametrize("lane", [True, False])
def test_who_insists_is_rid_of_a_flipped_bit(start_proxy: Start, origin: Origin, lane: bool) -> None:
    """The origin says 304: the body that is then sent is the one that it has sent, and so are all further ones."""
    proxy = start_proxy(cache_verify_rate=0, fast_lane=lane)
    for size, how in [*((size, INSISTING[0]) for size in SIZES), *((70_000, how) for how in INSISTING[1:])]:
        name = f"/{how[1]}/{size}"
        url, body = stored(proxy, origin, size, name)
        before = proxy.metrics()
        flip(proxy, body, size // 2)
        response = proxy.get(url, expect=size, headers=[how])
        assert response.ok, response
        assert (proxy.metrics() - before).value("corrupt_entries_total") == 1
        assert [request.header("If-None-Match") for request in origin.seen(name)] == [None, '"v1"', None]
        again = proxy.get(url, expect=size)
        assert again.ok
        assert again.hit
        assert origin.count(name) == 3


@pytest.mark.parametrize("size", [10_000, 100_000, 900_000])
def test_what_fits_into_memory_is_never_sent_with_a_flipped_bit(start_proxy: Start, origin: Origin, size: int) -> None:
    """Nobody has to insist, and no header has to be there but a lifetime."""
    proxy = start_proxy(cache_verify_rate=0)
    url = origin.serve("/body", Reply(size=size))
    assert proxy.get(url, expect=size).ok
    summed(proxy)
    flip(proxy, content("/body", size), size - 1)
    response = proxy.get(url, expect=size)
    assert response.ok, response
    assert not response.hit
    assert proxy.value("corrupt_entries_total") == 1
    proxy.wait_for_log(r"dropping <Entry .*/body 200, \d+ bytes>: the body is not what was stored")
    assert proxy.get(url, expect=size).hit


def test_a_range_of_it_is_not_sent_either(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(cache_verify_rate=0)
    for size in (10_000, 100_000):
        url, body = stored(proxy, origin, size, f"/{size}")
        flip(proxy, body, 50)
        response = proxy.get(url, headers=[("Range", "bytes=40-59")])
        assert response.status == 206
        assert response.body == body[40:60]


def test_pieces_of_a_big_body_are_checked_too(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(cache_block_size=0, cache_fill_whole=0, cache_verify_rate=0)
    size = 9_000_000
    url, body = origin.serve("/big", Reply(size=size, headers=OBJECT)), content("/big", size)
    for span in ("5000000-5100000", "10-20", "5050000-7999999", "2000000-2000009"):
        assert proxy.get(url, headers=[("Range", f"bytes={span}")]).status == 206
    summed(proxy)
    (file,) = proxy.cache_dir.glob("bodies/*/*")
    with file.open("r+b") as opened:
        opened.seek(6_543_210)
        opened.write(bytes([body[6_543_210] ^ 128]))
    wanted = ("Range", "bytes=6543000-6543999")
    response = proxy.get(url, headers=[wanted, ("Cache-Control", "no-cache")])
    assert response.status == 206
    assert response.body == body[6_543_000:6_544_000]
    assert proxy.value("corrupt_entries_total") == 1
    assert proxy.get(url, headers=[wanted]).body == body[6_543_000:6_544_000]


DAMAGES = ["flipped", "zeroed", "truncated", "longer", "exchanged"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_walk_finds_what_nobody_asks_for(start_proxy: Start, origin: Origin, how: str) -> None:
    """After a restart, in a quiet moment: it is dropped, counted and told, and fetched when it is asked for."""
    proxy = start_proxy(cache_verify_rate="1g")
    sizes = {"/small": 20_000, "/medium": 500_000, "/large": 5_000_000, "/same": 5_000_000, "/good": 3_000_000}
    urls = {name: stored(proxy, origin, size, name)[0] for name, size in sizes.items()}
    proxy.terminate()
    bad = damage(proxy, how)
    proxy.start()
    proxy.wait_for_metric("corrupt_entries_total", float(len(bad)))
    assert proxy.value("cache_entries") == len(sizes) - len(bad)
    for name, size in sizes.items():
        response = proxy.get(urls[name], expect=size)
        assert response.ok
        assert response.hit == (name not in bad), name
    assert len([line for line in proxy.log if "dropping <Entry" in line]) == len(bad)


def damage(proxy: Proxy, how: str) -> list[str]:
    """Do that to some of the bodies; which."""
    large, same = content("/large", 5_000_000), content("/same", 5_000_000)
    if how == "exchanged":
        one, other = place_of(proxy, large)[0], place_of(proxy, same)[0]
        shutil.copy(one, one.with_name("aside"))
        shutil.copy(other, one)
        shutil.copy(one.with_name("aside"), other)
        one.with_name("aside").unlink()
        return ["/large", "/same"]
    if how in ("truncated", "longer"):
        os.truncate(place_of(proxy, large)[0], 4_999_999 if how == "truncated" else 5_000_001)
        return ["/large"]
    bodies = {"/small": 20_000, "/medium": 500_000, "/large": 5_000_000}
    for name, size in bodies.items():
        body = content(name, size)
        if how == "flipped":
            flip(proxy, body, size - 1)
        else:
            file, at = place_of(proxy, body)
            with file.open("r+b") as opened:
                opened.seek(at + size // 2)
                opened.write(bytes(4096))
    return list(bodies)


def test_a_walk_goes_on_where_the_last_one_has_ended(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(cache_verify_rate="256k")
    for number in range(40):
        stored(proxy, origin, 1000, f"/{number}")
    proxy.terminate()
    with sqlite3.connect(proxy.cache_dir / "index.sqlite") as database:
        database.execute("INSERT OR REPLACE INTO meta VALUES ('verify', '30 0')")
    for number in (5, 35):
        flip(proxy, content(f"/{number}", 1000), 10)
    proxy.start()
    proxy.wait_for_log(r"dropping <Entry .*/35 200")
    assert proxy.value("corrupt_entries_total") == 1, "the other one was looked at before"


def test_a_walk_can_be_switched_off(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(cache_verify_rate=0, control=True)
    url, body = stored(proxy, origin, 3_000_000)
    flip(proxy, body, 10)
    assert proxy.get(url).body != body, "what is longer than fits into memory is not looked at when it is sent"
    assert proxy.set_option("cache_verify_rate=1g") == "ok"
    proxy.wait_for_metric("corrupt_entries_total", 1.0)
    assert proxy.get(url).body == body


def test_a_flipped_bit_in_the_index_is_found(start_proxy: Start, origin: Origin) -> None:
    """A header, a time, a status, a checksum: a head that isn't what was stored is not sent."""
    proxy = start_proxy(cache_verify_rate=0)
    changes = {
        "/headers": "headers = CAST(replace(CAST(headers AS TEXT), 'v1', 'v3') AS BLOB)",
        "/time": "response_time = response_time + 64",
        "/status": "status = 203",
        "/length": "length = length - 1",
        "/sums": "sums = CAST(substr(sums, 1, length(sums) - 1) || x'00' AS BLOB)",
        "/key": "key = replace(key, '/key', '/kez')",
        "/good": "status = status",
    }
    urls = {name: stored(proxy, origin, 5000, name)[0] for name in changes}
    proxy.terminate()
    with sqlite3.connect(proxy.cache_dir / "index.sqlite") as database:
        for name, change in changes.items():
            assert database.execute(f"UPDATE heads SET {change} WHERE key LIKE '%{name}'").rowcount == 1
    proxy.start()
    for name, url in urls.items():
        response = proxy.get(url, expect=5000)
        assert response.ok
        assert response.hit == (name == "/good"), name
        assert response.header("ETag") == '"v1"'
    assert proxy.value("corrupt_entries_total") == len(changes) - 1


def test_entries_of_an_earlier_version_are_served_and_get_their_checksums(start_proxy: Start, origin: Origin) -> None:
    """Nothing that was stored is lost by the upgrade. Once the walk has been there a flipped bit is found."""
    proxy = start_proxy(cache_verify_rate=0)
    bodies = [stored(proxy, origin, size, f"/{size}") for size in SIZES]
    proxy.terminate()
    with sqlite3.connect(proxy.cache_dir / "index.sqlite") as database:
        database.execute("ALTER TABLE heads DROP COLUMN sums")
        database.execute("PRAGMA user_version = 6")
    proxy.start()
    for url, body in bodies:
        response = proxy.get(url, expect=len(body))
        assert response.ok
        assert response.hit
    assert proxy.get(bodies[0][0], headers=[("Cache-Control", "no-cache")]).body == bodies[0][1]
    proxy.terminate()
    proxy.options["cache_verify_rate"] = "1g"
    proxy.start()
    with sqlite3.connect(f"file:{proxy.cache_dir}/index.sqlite?mode=ro", uri=True) as database:
        count = "SELECT count(*) FROM heads WHERE length(sums) > 8"
        proxy.eventually(lambda: database.execute(count).fetchone()[0], lambda found: found == len(SIZES))
    for _, body in bodies:
        flip(proxy, body, 5)
    for url, body in bodies:
        assert proxy.get(url, headers=[("Pragma", "no-cache")]).body == body
    assert proxy.value("corrupt_entries_total") == len(SIZES)


def test_what_is_found_corrupt_while_it_is_sent_is_sent_no_further(start_proxy: Start, origin: Origin) -> None:
    """The client has had the beginning from the file; the rest comes from the origin, under the strong validator."""
    proxy = start_proxy(cache_verify_rate=0)
    size = 30_000_000
    url, body = stored(proxy, origin, size)
    slow = proxy.start_get(url, expect=size, rcvbuf=8192, paused=True)
    slow.head()
    flip(proxy, body, size - 5)
    assert proxy.get(url, expect=size, headers=[("Cache-Control", "no-cache")]).ok
    slow.resume()
    assert slow.result().ok, slow.response
    assert slow.response.hit


def test_many_insist_at_a_time(start_proxy: Start, origin: Origin) -> None:
    """One check, one further fetch; everybody gets the right bytes."""
    proxy = start_proxy(cache_verify_rate=0)
    size, gate = 4_000_000, Gate()
    url = origin.serve("/body", Reply(size=size, headers=OBJECT), Reply(size=size, headers=OBJECT, gate=gate))
    assert proxy.get(url, expect=size).ok
    summed(proxy)
    flip(proxy, content("/body", size), 1_234_567)
    fetches = [proxy.start_get(url, expect=size, headers=[("Cache-Control", "max-age=0")]) for _ in range(10)]
    origin.wait_for("/body", 2)
    gate.open()
    for fetch in fetches:
        assert fetch.result().ok, fetch.response
    assert proxy.value("corrupt_entries_total") == 1


def test_after_kill_9_nothing_good_is_taken_for_corrupt(start_proxy: Start, origin: Origin) -> None:
    """Bodies and checksums agree, whenever the process is killed: whole ones, pieces, and what is made of them."""
    proxy = start_proxy(cache_verify_rate="1g")
    size = 6_000_000
    for turn in range(3):
        fetches = []
        for number in range(12):
            url = origin.serve(f"/{turn}/{number}", Reply(size=size if number % 3 else 30_000, headers=OBJECT))
            headers = [("Range", f"bytes={number * 300_000}-{number * 300_000 + 900_000}")] if number % 2 else []
            fetches.append(proxy.start_get(url, headers=headers))
        fetches[turn * 3].result()
        proxy.kill9()
        proxy.start()
    for turn in range(3):
        for number in range(12):
            length = size if number % 3 else 30_000
            assert proxy.get(origin.url(f"/{turn}/{number}"), expect=length).ok
    summed(proxy)
    for turn in range(3):
        for number in range(12):
            length = size if number % 3 else 30_000
            insisting = proxy.get(origin.url(f"/{turn}/{number}"), expect=length, headers=[("Pragma", "no-cache")])
            assert insisting.ok
    assert proxy.value("corrupt_entries_total") == 0
    assert not [line for line in proxy.log if "not what was" in line]


# -- all of it, on demand ---------------------------------------------------------------------------------------------


def verify(proxy: Proxy, **fields: str) -> list[dict[str, Any]]:
    answer = call(proxy, "POST", "/api/v1/verify", {}, token=TOKEN, **fields)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.headers["Cache-Control"] == "no-store"
    return [json.loads(line) for line in answer.body.splitlines()]


def test_an_operator_has_all_of_it_verified(start_proxy: Start, origin: Origin, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    proxy = start_proxy(cache_verify_rate=0, admin_token_file=token)
    assert call(proxy, "POST", "/api/v1/verify").status == 401
    kept = {name: stored(proxy, origin, size, name) for size in SIZES for name in (f"/good/{size}", f"/bad/{size}")}
    assert verify(proxy)[-1]["corrupt"] == 0
    before = proxy.metrics()
    for name, (_, body) in kept.items():
        if "/bad/" in name:
            flip(proxy, body, len(body) // 3)
    told = verify(proxy)
    assert told[0] == {"checked": 0, "total": len(kept), "bytes": 0}
    last = told[-1]
    assert (last["done"], last["checked"], last["corrupt"]) == (True, len(kept), len(SIZES))
    assert last["bytes"] >= sum(SIZES)
    found = [line["corrupt"] for line in told[:-1] if "corrupt" in line]
    assert sorted(found) == sorted(url for name, (url, _) in kept.items() if "/bad/" in name)
    assert proxy.metrics().value("corrupt_entries_total") - before.value("corrupt_entries_total") == len(SIZES)
    for name, (url, body) in kept.items():
        response = proxy.get(url, expect=len(body))
        assert response.ok
        assert origin.count(name) == (2 if "/bad/" in name else 1)
    assert verify(proxy)[-1]["corrupt"] == 0


def test_it_is_off_without_a_token_and_one_at_a_time(start_proxy: Start, tmp_path: Path) -> None:
    assert call(start_proxy(), "POST", "/api/v1/verify").status == 403
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    proxy = start_proxy(admin_token_file=token)
    assert "unknown member 'rate'" in call(proxy, "POST", "/api/v1/verify", {"rate": 1}, token=TOKEN).detail
    assert [line.get("done") for line in verify(proxy)] == [None, True]


def test_no_flipped_byte_comes_into_memory_or_out_of_it(start_proxy: Start, origin: Origin, tmp_path: Path) -> None:
    """Bodies that are read whole before any of it is sent: what isn't what was stored is fetched again, unasked."""
    proxy = start_proxy(cache_verify_rate=0)
    kept = {size: stored(proxy, origin, size, f"/memory/{size}") for size in (10, 10_000, 60_000)}
    proxy.terminate()
    assert proxy.wait() == 0
    for _, body in kept.values():
        flip(proxy, body, len(body) - 1)
    proxy.start()
    for size, (url, body) in kept.items():
        for _ in range(2):
            response = proxy.get(url)
            assert (response.status, response.body) == (200, body)
        assert origin.count(f"/memory/{size}") == 2
    assert proxy.value("corrupt_entries_total") == len(kept)
