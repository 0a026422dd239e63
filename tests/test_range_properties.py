"""Any sequence of ranges, fills, evictions, changes and failures: all answers are right, or errors (RFC 9111 §3.4)."""

from __future__ import annotations

import email
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.support.agents import Response, results
from tests.support.content import content
from tests.support.examples import examples
from tests.support.origin import Origin, Reply
from tests.support.proxy import Proxy

SIZE = 300_000
BLOCK = 32 * 1024
numbers = count()


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Room for about four objects: what one example stores, another evicts."""
    with Proxy(
        tmp_path_factory.mktemp("proxy"),
        cache_block_size=str(BLOCK),
        cache_max_span=str(3 * BLOCK),
        cache_fill_whole=0,
        cache_max_size="1200k",
        cache_max_object_size="100%",
        cache_min_free="0",
        quick_abort_max="20000",
        origin_retries=1,
    ) as proxy:
        yield proxy


@dataclass(frozen=True)
class Get:
    """Some at a time, each of a range as it stands in the header, or of all of it."""

    values: tuple[str | None, ...]
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Change:
    """What the origin has from now on, and how it fails."""

    validator: str
    fresh: bool
    ranges: bool
    cut: int | None
    status: int
    size: int


@dataclass(frozen=True)
class Other:
    """``put``, ``head``, ``evict`` (by storing something else), or ``leave`` in the middle of an answer."""

    what: str


offsets = st.integers(0, SIZE + BLOCK)
sizes = st.sampled_from([1, 100, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK])
spans = st.builds(lambda first, size: f"{first}-{first + size - 1}", offsets, sizes)
one = st.one_of(spans, spans, spans, offsets.map(lambda first: f"{first}-"), sizes.map(lambda size: f"-{size}"))
several = st.lists(one, min_size=2, max_size=3).map(",".join)
wanted = st.one_of(one, one, one, one, one, several, st.none())
conditions = st.sampled_from(
    [(), (), (), (("If-Range", '"0"'),), (("If-None-Match", '"1"'),), (("Cache-Control", "no-cache"),)]
)
gets = st.builds(Get, st.lists(wanted, min_size=1, max_size=3).map(tuple), conditions)
changes = st.builds(
    Change,
    st.sampled_from(["strong", "strong", "strong", "weak", "date", "none"]),
    st.booleans(),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([None, None, None, 0, 1000, BLOCK, 100_000]),
    st.sampled_from([200, 200, 200, 200, 404, 503]),
    st.sampled_from([SIZE, SIZE, SIZE, SIZE, SIZE, 5, 0, 3 * BLOCK + 1]),
)
others = st.builds(Other, st.sampled_from(["put", "head", "evict", "leave"]))
steps = st.lists(st.one_of(gets, gets, gets, changes, others), min_size=2, max_size=10)


class World:
    """An origin with one object, whose versions are known."""

    def __init__(self, proxy: Proxy, origin: Origin) -> None:
        self.proxy, self.origin = proxy, origin
        self.target = f"/object{next(numbers)}"
        self.versions: dict[str, tuple[str, int]] = {}
        self.url = origin.url(self.target)
        self.change(Change("strong", True, True, None, 200, SIZE))

    def change(self, to: Change) -> None:
        version = str(len(self.versions))
        seed = f"{self.target}|{version}"
        self.versions[version] = (seed, to.size)
        headers = [("X-Version", version), ("Cache-Control", "max-age=3600" if to.fresh else "max-age=0")]
        if to.validator == "date":
            headers.append(("Last-Modified", f"Sat, 01 Jan 2022 00:{len(self.versions):02}:00 GMT"))
        elif to.validator != "none":
            headers.append(("ETag", f'{"W/" if to.validator == "weak" else ""}"{version}"'))
        if to.ranges:
            headers.append(("Accept-Ranges", "bytes"))
        whole = Reply(status=to.status, size=to.size, seed=seed, headers=tuple(headers))
        cut = replace(whole, cut=to.cut) if to.cut is not None and to.status == 200 and to.cut < to.size else whole
        self.origin.serve(self.target, cut, cut, whole)

    def do(self, step: Get | Change | Other) -> None:
        match step:
            case Get(values, headers):
                fetches = [
                    self.proxy.start_get(
                        self.url, headers=[*headers, *([("Range", f"bytes={value}")] if value is not None else [])]
                    )
                    for value in values
                ]
                for value, response in zip(values, results(fetches), strict=True):
                    self.check(response, value)
            case Change():
                self.change(step)
            case Other("put"):
                self.proxy.request("PUT", self.url, body=b"x")
            case Other("head"):
                response = self.proxy.request("HEAD", self.url)
                if response.status == 200:
                    length = self.versions[response.header("X-Version") or ""][1]
                    assert response.header("Content-Length") == str(length)
            case Other("evict"):
                filler = self.origin.serve(f"/filler{next(numbers)}", Reply(size=900_000))
                assert self.proxy.get(filler).ok
            case Other("leave"):
                fetch = self.proxy.start_get(self.url)
                fetch.head()
                fetch.leave()

    def check(self, response: Response, value: str | None) -> None:
        if response.status not in (200, 206):
            assert response.status in (304, 404, 416, 502, 503, 504), response
            return
        seed, size = self.versions[response.header("X-Version") or ""]
        body = content(seed, size)
        if response.status == 200:
            self.is_all_or_broken(response, body)
            return
        assert value is not None, "206 without a Range"
        kind = response.header("Content-Type") or ""
        if not kind.startswith("multipart/byteranges"):
            assert "," not in value or response.header("Content-Range")
            self.is_all_or_broken(response, self.part(body, response.header("Content-Range") or "", size))
        elif response.ok:
            message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + response.body)
            for one_part in message.get_payload():
                assert one_part.get_payload(decode=True) == self.part(body, one_part["Content-Range"], size)  # type: ignore[union-attr]

    @staticmethod
    def part(body: bytes, content_range: str, size: int) -> bytes:
        span, _, total = content_range.removeprefix("bytes ").partition("/")
        first, last = map(int, span.split("-"))
        assert int(total) == size
        return body[first : last + 1]

    @staticmethod
    def is_all_or_broken(response: Response, body: bytes) -> None:
        if response.ok:
            assert response.body == body
        else:
            assert body.startswith(response.body)


@hypothesis.settings(
    max_examples=examples(200),
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(steps)
@hypothesis.example([
    Change("strong", False, True, None, 200, SIZE), Get((None,)),
    Change("none", True, True, None, 200, SIZE), Other("head"), Get(("0-0",)), Get((None,)),
])  # fmt: skip
@pytest.mark.timeout(900)
def test_right_or_an_error(proxy: Proxy, origin: Origin, sequence: list[Get | Change | Other]) -> None:
    world = World(proxy, origin)
    for step in sequence:
        world.do(step)
