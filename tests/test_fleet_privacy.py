"""Nobody is served by peers and a bucket what the origin wouldn't have said to them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.support.agents import Response
from tests.support.content import content
from tests.support.examples import examples
from tests.support.origin import Origin, Reply, Request

from .test_fleet import NODES, Fleet, fleet
from .test_http_properties import KEPT_APART, SEED, TAGS, Told, answers, asks, check, told

pytest.importorskip("obstore")

PATHS, ROUNDS = 60, 4
"""All paths are asked for in each round, and between two of them the nodes lose what they have stored."""

FOR_THE_BUCKET: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("X-V", (("Cache-Control", "public, max-age=3600, immutable"), ("Vary", "X-V"))),
    ("X-V", (("Cache-Control", "max-age=31536000, stale-while-revalidate=600"), ("Vary", "x-v"))),
    ("Accept-Language", (("Cache-Control", "max-age=3600"), ("Vary", "Accept, Accept-Language"))),
    ("Authorization", (("Cache-Control", "max-age=31536000, immutable"),)),
    ("Cookie", (("Cache-Control", "max-age=31536000"), ("Vary", "Cookie"))),
)
"""More of what is written, or almost."""


serial = itertools.count()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Fleet]:
    shared = {"cache_shared": (tmp_path / "bucket").as_uri(), "cache_shared_write": "all"}
    with fleet(tmp_path, **shared, origin_retries=0, cache_max_object_size="100%", control=True) as running:
        yield running


def forget(nodes: Fleet, origin: Origin) -> None:
    """Once all is written that is to be, they lose what they have stored: the bucket remains."""
    for node in nodes:
        node.wait_until_idle()
        node.wait_for_metric("shared_queued", 0)
    for node in nodes:
        assert node.set_option("cache_max_size=10000") == "ok"  # there is room for one: all others are evicted for it
        assert node.get(origin.serve(f"/forget/{next(serial)}", Reply(size=100))).ok
        node.wait_for_metric("cache_entries", lambda count: count <= 1)
    for node in nodes:
        assert node.set_option("cache_max_size=1g") == "ok"


@pytest.mark.timeout(900)
def test_two_users_never_see_each_others_body_nor_is_it_in_the_bucket(nodes: Fleet, origin: Origin) -> None:
    dice = random.Random(SEED)
    kinds = [dice.choice(KEPT_APART + FOR_THE_BUCKET) for _ in range(PATHS)]
    for number, (name, headers) in enumerate(kinds):
        origin.serve(f"/{number}", Reply(size=100, headers=headers, seed_by=name, chunked=dice.random() < 0.2))
    for _ in range(ROUNDS):
        for number, (name, _) in enumerate(kinds):
            under_way: list[tuple[str, object]] = []
            for _ in range(dice.randint(2, 5)):
                user = dice.choice(("de", "fr"))
                fields = [(name, user)]
                if dice.random() < 0.2:
                    fields.append(("Cache-Control", dice.choice(("no-cache", "no-store", "max-stale", "max-age=0"))))
                under_way.append((user, dice.choice(nodes).start_get(origin.url(f"/{number}"), headers=fields)))
                if dice.random() < 0.4:
                    check(f"/{number}", under_way)
            check(f"/{number}", under_way)
        forget(nodes, origin)
    for metric in "peer_fetches_total", "shared_fetches_total":
        assert sum(node.value(metric, outcome="hit") for node in nodes) > 0


SHARED = "max-age=3600", "public, max-age=3600", "s-maxage=3600", "private, max-age=3600", "max-age=60, must-revalidate"
to_be_shared = st.builds(
    told, st.just(200), st.sampled_from(SHARED), st.just(""), st.sampled_from(TAGS), st.sampled_from(("", "X-V"))
)
usual = st.tuples(
    st.just(""), st.sampled_from(("", "1")), st.just(""), st.sampled_from(("", "", "user")), st.just("GET"),
    st.integers(1, 3),
)  # fmt: skip
"""As :data:`answers` and :data:`asks`, but with more that may be stored, and more that may be answered from there."""


@pytest.mark.timeout(900)
def test_any_sequence(nodes: Fleet, origin: Origin) -> None:
    """Whatever an origin answers and clients ask, of whatever node, with its own store or without:

    - what is served is what some answer of the origin carried;
    - what was marked ``no-store`` or ``private`` is served once at most, unless it says that the origin is in trouble;
    - what came for one who has logged in goes to others only if it says that it may (RFC 9111 §3.5);
    - what varies goes to those alone who have asked in the same way (§4.1).
    """

    @hypothesis.settings(max_examples=examples(18))
    @hypothesis.given(
        st.lists(st.one_of(to_be_shared, answers), min_size=1, max_size=6),
        st.lists(
            st.tuples(st.integers(0, NODES - 1), st.sampled_from((0, 0, 1)), st.one_of(usual, usual, asks)),
            min_size=4,
            max_size=8,
        ),
    )
    def run(script: list[Told], steps: list[tuple[int, int, tuple[str, str, str, str, str, int]]]) -> None:
        path = f"/{next(serial)}"
        bodies = [f"{path}#{number}" for number in range(len(script))]
        replies = [
            Reply(one.status, 200, one.headers, seed=body, dated=False)
            for one, body in zip(script, bodies, strict=True)
        ]
        url = origin.serve(path, *replies, Reply(404, 0, (("Cache-Control", "no-store"),)))
        by_body = {content(body, 200): number for number, body in enumerate(bodies)}
        served: dict[int, int] = {}
        for first, forgets, (control, value, tag, user, method, count) in steps:
            if forgets:
                forget(nodes, origin)
            names = ("Cache-Control", "X-V", "If-None-Match", "Authorization")
            headers = [pair for pair in zip(names, (control, value, tag, user), strict=True) if pair[1]]
            fetches = [
                nodes[(first + more) % NODES].start_request(method, url, headers=headers) for more in range(count)
            ]
            for fetch in fetches:
                response: Response = fetch.result()
                assert response.complete, response
                if response.body and b"only-if-cached" not in response.body:
                    number = by_body[response.body]  # a KeyError is a body that nobody ever sent
                    one = script[number]
                    assert response.status == one.status
                    served[number] = served.get(number, 0) + 1
                    shared = one.status == 503 and "collapsed" in (response.header("Cache-Status") or "")
                    assert served[number] == 1 or not one.secret or shared, (number, response)
                    # (A 304 that is about several may lead to any of them.)
                    if [answer.named("ETag") for answer in script].count(one.named("ETag")) == 1:
                        may_have(one, origin.seen(path)[number], dict(headers))
            for node in nodes:
                node.wait_until_idle()

    run()
    for metric in "peer_fetches_total", "shared_fetches_total":
        assert sum(node.value(metric, outcome="hit") for node in nodes) > 0


def may_have(answer: Told, cause: Request, asked: dict[str, str]) -> None:
    """Whether an answer to the request ``cause`` may be served to one that has ``asked``."""
    control = answer.named("Cache-Control")
    is_for_all = any(one in control for one in ("public", "s-maxage", "must-revalidate"))
    if cause.header("Authorization") is not None and not is_for_all:
        assert asked.get("Authorization") == cause.header("Authorization")
    vary = answer.named("Vary")
    for name in vary.split(", ") if vary not in ("", "*") else ():
        assert asked.get(name) == cause.header(name)
