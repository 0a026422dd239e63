"""Parts of the shared store without a proxy: names and heads, what is written, the breaker, the queue."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy_cache.caching.fills.request import FillRequest
from proxy_cache.observe.metrics import Metrics
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target
from proxy_cache.semantics.policy import Policy, TtlRule
from proxy_cache.semantics.spans import Span
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.semantics.storing import judge
from proxy_cache.store.entry import Entry
from proxy_cache.store.store import Store
from proxy_cache.upstream.shared import breaker as breaker_file
from proxy_cache.upstream.shared.body import Blocks, WrongBlock
from proxy_cache.upstream.shared.breaker import Breaker
from proxy_cache.upstream.shared.bucket import BadUrl, Exists, StoreFails, check_url
from proxy_cache.upstream.shared.choice import is_worth_writing, names_its_content
from proxy_cache.upstream.shared.layout import (
    BLOCKS_MAX,
    Damaged,
    StoredHead,
    block_size,
    decode,
    digest_of_key,
    encode,
    name_of,
    variant_of,
)
from proxy_cache.upstream.shared.writer import QUEUE_MAX, SharedWriter
from tests.support.stores import with_store
from tests.support.tasks import until

NOW = 1_800_000_000.0


def a_head(body: bytes = b"hello", block: int = 4) -> StoredHead:
    sums = b"".join(hashlib.sha256(body[at : at + block]).digest() for at in range(0, len(body), block))
    return StoredHead(
        digest_of_key("http://a/x"), "g", 200, Headers([(b"ETag", b'"\xe4"'), (b"X", b"")]), NOW, NOW + 0.25, 3,
        (("accept", "text/html"), ("prefer", None)), len(body), hashlib.sha256(body).hexdigest(), block, sums,
    )  # fmt: skip


# -- layout ---------------------------------------------------------------------------------------------------------


def test_a_head_is_read_as_it_was_written() -> None:
    data = encode(a_head())
    assert decode(data + b"body") == (a_head(), len(data))


def test_a_head_that_has_not_arrived_says_how_much_it_needs() -> None:
    data, have = encode(a_head()), 0
    while isinstance(needed := decode(data[:have]), int):
        assert have < needed
        have = needed
    assert needed[0] == a_head()


def test_no_changed_byte_of_a_head_goes_unnoticed() -> None:
    data = encode(a_head())
    for at in range(len(data)):
        for bit in (1, 32, 128):
            changed = bytearray(data)
            changed[at] ^= bit
            try:
                found = decode(bytes(changed))
            except Damaged:
                continue
            assert isinstance(found, int), at
            assert found > len(data), "it needs more than there is"


@pytest.mark.parametrize("data", [b"x" * 200, b"\n", b"proxy-cache-shared/2 5 ", b'{"key": 1}\n'])
def test_other_objects_are_no_heads(data: bytes) -> None:
    with pytest.raises(Damaged):
        decode(data + b"x" * 200)


def test_names_depend_on_the_key_alone_and_variants_on_the_first_one() -> None:
    name = name_of("http://packages.example/x")
    assert name == name_of("http://packages.example/x") != name_of("http://packages.example/y")
    version, folder, digest = name.split("/")
    assert (version, folder, len(digest)) == ("v1", digest[:2], 64)
    variants = {variant_of(name, of, values) for of in "ab" for values in ((("accept", "x"),), (("accept", None),))}
    assert len(variants) == 4
    assert all(variant.startswith(f"{name}.") for variant in variants)


def test_blocks_are_as_many_as_a_head_has_room_for() -> None:
    for length in (0, 1, 1 << 20, 1 << 30, 5 << 30, 1 << 40):
        assert -(-length // block_size(length)) <= BLOCKS_MAX


# -- bodies ---------------------------------------------------------------------------------------------------------


def bytes_of(head: StoredHead, span: Span, data: bytes, step: int) -> bytes:
    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(data), step):
            yield data[at : at + step]

    async def run() -> bytes:
        blocks, found = Blocks(head, span, b"", chunks()), b""
        while part := await blocks.next():
            found += part
        return found

    return asyncio.run(run())


def test_any_span_is_cut_out_of_its_blocks() -> None:
    body = bytes(range(30))
    head = a_head(body, 8)
    for start in range(31):
        for stop in range(start, 31):
            first, last = start // 8 * 8, min(30, -(-stop // 8) * 8)
            for step in (1, 7, 100):
                assert bytes_of(head, Span(start, stop), body[first:last], step) == body[start:stop]


@pytest.mark.parametrize("data", [b"01234567x9", b"0123456", b""])
def test_a_wrong_block_is_not_handed_on(data: bytes) -> None:
    with pytest.raises(WrongBlock):
        bytes_of(a_head(b"0123456789"), Span(0, 10), data, 3)


# -- what is written ------------------------------------------------------------------------------------------------

OID = "0123456789abcdef0123456789abcdef01234567"
YEAR = "max-age=31536000"


def is_written(
    mode: str, *fields: tuple[str, str], path: str = "/x", status: int = 200, ttl: int | None = None, **asks: str
) -> bool:
    headers = Headers([(name.encode(), value.encode()) for name, value in fields])
    request = Headers([(name.encode(), value.encode()) for name, value in asks.items()])
    policy = Policy(ttl=(lambda status, headers: TtlRule(ttl, force=True)) if ttl else None)
    verdict = judge(request, status, headers, policy)
    stored = StoredResponse.of(status, headers, request, NOW, NOW, verdict)
    target = Target.of("http", "packages.example", 80, path)
    wanted = FillRequest(target.key, target, request, "agent", policy=policy)
    return is_worth_writing(mode, wanted, Entry(1, target.key, stored, 5, NOW), NOW)


@pytest.mark.parametrize(
    ("immutable", "all_of_it", "fields", "more"),
    [
        (True, True, [("Cache-Control", "public, max-age=365, immutable")], {}),
        (True, True, [("Cache-Control", YEAR)], {}),
        (False, True, [("Cache-Control", "max-age=3600")], {}),
        (True, True, [("Cache-Control", "max-age=3600")], {"path": f"/objects/{OID}"}),
        (True, True, [("Cache-Control", "max-age=3600")], {"path": f"/v2/x/blobs/sha256:{OID}{OID[:24]}"}),
        (False, True, [("Cache-Control", "max-age=3600")], {"path": f"/x?sum={OID}"}),
        (False, True, [("Cache-Control", "no-cache"), ("ETag", '"a"')], {"path": f"/objects/{OID}"}),
        (False, True, [("ETag", '"a"')], {}),
        (True, True, [("ETag", '"a"')], {"ttl": 600}),
        (False, False, [("Cache-Control", "max-age=10")], {}),
        (False, False, [("Cache-Control", "immutable, max-age=600"), ("ETag", '"a"')], {"status": 404}),
        (False, False, [("Cache-Control", f"private, {YEAR}")], {"ttl": 600}),
        (False, False, [("Cache-Control", f"no-store, {YEAR}")], {"ttl": 600}),
        (False, False, [("Cache-Control", YEAR), ("Set-Cookie", "a=b")], {}),
        (False, False, [("Cache-Control", f"public, {YEAR}")], {"Authorization": "Basic eDp5"}),
        (False, False, [("Cache-Control", f"public, {YEAR}")], {"Cookie": "a=b"}),
        (False, False, [("Cache-Control", YEAR), ("Vary", "Cookie")], {}),
    ],
)  # fmt: skip
def test_choice(immutable: bool, all_of_it: bool, fields: list[tuple[str, str]], more: dict[str, object]) -> None:
    assert is_written("immutable", *fields, **more) == immutable  # type: ignore[arg-type]
    assert is_written("all", *fields, **more) == all_of_it  # type: ignore[arg-type]
    assert not is_written("off", *fields, **more)  # type: ignore[arg-type]


def test_a_digest_in_the_path_names_the_content() -> None:
    assert names_its_content(f"https://packages.example/ab/cd/{OID}/x-1.0.whl")
    assert not names_its_content(f"https://{OID}.example/x")
    assert not names_its_content("https://packages.example/20240101000000/x")


# -- the breaker ----------------------------------------------------------------------------------------------------


def test_the_breaker_leaves_a_store_alone_for_longer_and_longer(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    breaker = Breaker("it", lambda: now[0])
    pauses = []
    for _ in range(12):
        assert breaker.enter()
        assert breaker.is_closed or not breaker.enter(), "one probes at a time"
        breaker.failed("refused")
        assert not breaker.enter()
        pauses.append(breaker.seconds_left)
        now[0] += breaker.seconds_left
    assert breaker_file.FIRST <= pauses[0] <= 1.5 * breaker_file.FIRST
    assert breaker_file.LONGEST <= pauses[-1] <= 1.5 * breaker_file.LONGEST
    assert all(later > earlier / 1.5 for earlier, later in itertools.pairwise(pauses))
    assert len(caplog.records) == 1
    assert breaker.enter()
    caplog.set_level("INFO")
    breaker.succeeded()
    assert breaker.is_closed
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_many_that_fail_together_count_once() -> None:
    breaker = Breaker("it", lambda: 0.0)
    for _ in range(50):
        assert breaker.enter()
    for _ in range(50):
        breaker.failed("refused")
    assert breaker.seconds_left <= 1.5 * breaker_file.FIRST


def test_a_store_that_answers_others_is_only_slow() -> None:
    now = [0.0]
    breaker = Breaker("it", lambda: now[0])
    assert breaker.enter()
    now[0] = 0.9
    breaker.succeeded()
    now[0] = 1.0
    breaker.failed("late", since=0.0)
    assert breaker.is_closed
    breaker.failed("late", since=0.95)
    assert not breaker.is_closed


def test_a_probe_whose_client_leaves_lets_another_one_probe() -> None:
    now = [0.0]
    breaker = Breaker("it", lambda: now[0])
    breaker.enter()
    breaker.failed("refused")
    now[0] = 100.0
    assert breaker.enter()
    breaker.left()
    assert breaker.enter()


# -- the URL --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("bucket", "is not s3://bucket/prefix"),
        ("ftp://bucket/x", "is not s3://bucket/prefix"),
        ("s3:///x", "names no bucket"),
        ("s3://key:secret@bucket/x", "credentials belong in the environment"),
        ("s3://bucket/x?secret_access_key=y", "has no parameter 'secret_access_key'"),
        ("s3://bucket/x?endpoint=minio:9000", "is not http(s)://host:port"),
        ("gs://bucket/x?endpoint=http://y", "has no parameter 'endpoint'"),
        ("file://host/x", "is not file:///folder"),
        ("file:///", "is not file:///folder"),
        ("s3://[/x", "is no URL"),
    ],
)
def test_a_bad_url_says_what_is_wrong_with_it(url: str, why: str) -> None:
    with pytest.raises(BadUrl) as error:
        check_url(url)
    assert why in str(error.value)
    assert "secret@" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["s3://b", "s3://b/p?endpoint=http://127.0.0.1:9000&region=x", "gs://b/p", "az://c/p", "file:///a%20b"]
)
def test_good_urls(url: str) -> None:
    check_url(url)


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadUrl, match=r"pip install '\.\[shared\]' in the project's folder"):
        check_url("s3://bucket")


# -- the queue ------------------------------------------------------------------------------------------------------


@dataclass
class Shelf:
    """A bucket in memory."""

    objects: dict[str, bytes] = field(default_factory=dict)
    open_for_writing: asyncio.Event = field(default_factory=asyncio.Event)
    fails: bool = False
    at_once: int = 0
    most_at_once: int = 0

    async def open(self, name: str, start: int = 0, stop: int | None = None, tag: str | None = None) -> None:
        return None

    async def create(self, name: str, data: bytes) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.open_for_writing.wait()
        finally:
            self.at_once -= 1
        if self.fails:
            raise StoreFails("refused")
        if name in self.objects:
            raise Exists
        self.objects[name] = data

    async def delete(self, name: str) -> None:
        self.objects.pop(name, None)


def put(store: Store, number: int) -> tuple[FillRequest, Entry]:
    headers = Headers([(b"Cache-Control", b"max-age=3600, immutable")])
    target = Target.of("http", "packages.example", 80, f"/{number}")
    stored = StoredResponse.of(200, headers, Headers(), time.time(), time.time(), judge(Headers(), 200, headers))
    entry = store.put(target.key, stored, b"body")
    assert entry is not None
    return FillRequest(target.key, target, Headers(), "agent"), entry


def writer_for(store: Store, shelf: Shelf, metrics: Metrics) -> SharedWriter:
    return SharedWriter(shelf, store, metrics, Breaker("it"), "immutable")  # type: ignore[arg-type]


def count_of(metrics: Metrics, outcome: str) -> float:
    value = metrics.registry.get_sample_value("cache_proxy_shared_writes_total", {"outcome": outcome})
    return value or 0.0


def test_when_the_queue_is_full_the_newest_is_dropped_and_counted(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        shelf, metrics = Shelf(), Metrics()
        writer = writer_for(store, shelf, metrics)
        for number in range(QUEUE_MAX + 7):
            writer.stored(*put(store, number))
        assert writer.queued == QUEUE_MAX
        metrics.collect()
        assert count_of(metrics, "full") == 7
        shelf.open_for_writing.set()
        await writer.drain(60)
        assert len(shelf.objects) == QUEUE_MAX
        assert name_of(f"http://packages.example/{QUEUE_MAX}") not in shelf.objects
        assert shelf.most_at_once <= 4
        assert (writer.queued, writer.queued_bytes) == (0, 0)

    with_store(tmp_path, story)


def test_at_the_end_what_takes_too_long_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(store: Store) -> None:
        shelf, metrics = Shelf(), Metrics()
        writer = writer_for(store, shelf, metrics)
        for number in range(10):
            writer.stored(*put(store, number))
        await writer.drain(0.05)
        assert not shelf.objects
        assert not shelf.at_once
        writer.stored(*put(store, 11))
        assert "10 responses not written" in caplog.text

    with_store(tmp_path, story)


def test_what_was_evicted_before_its_turn_is_counted(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        shelf, metrics = Shelf(), Metrics()
        writer = writer_for(store, shelf, metrics)
        request, entry = put(store, 0)
        await store.written()
        writer.stored(request, entry)
        store.remove(entry)
        shelf.open_for_writing.set()
        await writer.drain(60)
        metrics.collect()
        assert count_of(metrics, "gone") == 1
        assert not shelf.objects

    with_store(tmp_path, story)


def test_what_is_invalidated_while_it_is_written_is_deleted_after(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        shelf, metrics = Shelf(), Metrics()
        writer = writer_for(store, shelf, metrics)
        request, entry = put(store, 0)
        writer.stored(request, entry)
        await until(lambda: shelf.at_once)
        writer.delete(name_of(request.key))
        shelf.open_for_writing.set()
        await writer.drain(60)
        assert not shelf.objects
        metrics.collect()
        assert (count_of(metrics, "stored"), count_of(metrics, "deleted")) == (1, 1)

    with_store(tmp_path, story)


def test_a_store_that_fails_is_not_written_to_for_a_while(tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        shelf, metrics = Shelf(fails=True), Metrics()
        shelf.open_for_writing.set()
        writer = writer_for(store, shelf, metrics)
        for number in range(20):
            writer.stored(*put(store, number))
        await writer.drain(60)
        metrics.collect()
        assert 1 <= count_of(metrics, "failed") <= 4
        assert count_of(metrics, "failed") + count_of(metrics, "skipped") == 20

    with_store(tmp_path, story)
