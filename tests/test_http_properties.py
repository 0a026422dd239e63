"""What has to hold whatever is asked and answered, in whatever order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.support.agents import Response
from tests.support.content import content
from tests.support.examples import examples
from tests.support.origin import Origin, Reply
from tests.support.proxy import Proxy

ROUNDS = examples(400)
"""Interleavings of two users."""
SEED = 9111

# What an origin may say, by kinds: at most one of each kind in a response.
CACHE_CONTROL = (
    "max-age=3600", "max-age=0", "s-maxage=3600", "public, max-age=3600", "no-cache, max-age=3600", "no-store",
    "private, max-age=3600", "private", "NO-STORE, max-age=3600", "max-age=3600, must-revalidate",
    "immutable, max-age=9",
    "max-age=60, stale-while-revalidate=600", "max-age=60, stale-if-error=600", "must-understand, max-age=60",
    "max-age=3600, private, public", "no-store, s-maxage=60", "",
)  # fmt: skip
AGES = ("", "100", "0", "nonsense")
TAGS = ("", '"v1"', 'W/"v1"', '"v2"')
VARIES = ("", "", "X-V", "X-W, X-V", "*")
STATUSES = (200, 200, 200, 200, 203, 301, 404, 410, 503, 299)
REQUEST_CONTROL = (
    "", "", "", "max-age=0", "no-cache", "no-store", "max-stale", "min-fresh=10", "only-if-cached", "max-age=50",
)  # fmt: skip


@dataclass(frozen=True)
class Told:
    """One answer of the origin."""

    status: int
    headers: tuple[tuple[str, str], ...]

    def named(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    @property
    def secret(self) -> bool:
        said = self.named("Cache-Control").lower()
        return "no-store" in said or "private" in said


def told(status: int, control: str, age: str, tag: str, vary: str) -> Told:
    pairs = (("Cache-Control", control), ("Age", age), ("ETag", tag), ("Vary", vary))
    return Told(status, tuple((name, value) for name, value in pairs if value))


answers = st.builds(
    told, st.sampled_from(STATUSES), st.sampled_from(CACHE_CONTROL), st.sampled_from(AGES), st.sampled_from(TAGS),
    st.sampled_from(VARIES),
)  # fmt: skip
asks = st.tuples(
    st.sampled_from(REQUEST_CONTROL),
    st.sampled_from(("", "1", "2")),  # X-V
    st.sampled_from(("", "", '"v1"', '"v0"')),  # If-None-Match
    st.sampled_from(("", "", "", "user")),  # Authorization
    st.sampled_from(("GET", "GET", "GET", "GET", "HEAD", "POST")),
    st.integers(1, 3),  # how many at the same time
)


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Without retries, so that one answer of the origin is one fill."""
    with Proxy(tmp_path_factory.mktemp("proxy"), origin_retries=0) as proxy:
        yield proxy


serial = itertools.count()


@pytest.mark.timeout(900)
def test_any_sequence(proxy: Proxy, origin: Origin) -> None:
    """Whatever an origin answers and clients ask:

    - a response that was marked ``no-store`` or ``private`` is served once at most, unless it says that the origin is
      in trouble, and to those who waited for it only;
    - what is served is what some answer of the origin carried, status and fields with it;
    - the Age of a response never decreases, as long as the origin is not asked about it.
    """

    @hypothesis.settings(max_examples=examples(80))
    @hypothesis.given(st.lists(answers, min_size=1, max_size=8), st.lists(asks, min_size=2, max_size=10))
    def run(script: list[Told], requests: list[tuple[str, str, str, str, str, int]]) -> None:
        path = f"/{next(serial)}"
        bodies = [f"{path}#{number}" for number in range(len(script))]
        replies = [
            Reply(one.status, 200, one.headers, seed=body, dated=False)
            for one, body in zip(script, bodies, strict=True)
        ]
        # When the script is over, it is over: the last answer would be told again and again.
        url = origin.serve(path, *replies, Reply(404, 0, (("Cache-Control", "no-store"),)))
        by_body = {content(body, 200): number for number, body in enumerate(bodies)}
        served: dict[int, int] = {}
        ages: dict[int, int] = {}
        for control, value, tag, user, method, count in requests:
            names = ("Cache-Control", "X-V", "If-None-Match", "Authorization")
            headers = [pair for pair in zip(names, (control, value, tag, user), strict=True) if pair[1]]
            before = origin.count(path)
            fetches = [proxy.start_request(method, url, headers=headers) for _ in range(count)]
            for fetch in fetches:
                response: Response = fetch.result()
                assert response.complete, response
                if response.body and b"only-if-cached" not in response.body:
                    number = by_body[response.body]  # a KeyError is a body that nobody ever sent
                    one = script[number]
                    assert response.status == one.status
                    for name in ("Cache-Control", "ETag", "Vary"):
                        carried = {answer.named(name) for answer in script if answer.named("ETag") == one.named("ETag")}
                        assert (response.header(name) or "") in carried
                    served[number] = served.get(number, 0) + 1
                    # An origin in trouble is not asked by each who waits, be its error page to be stored or not.
                    shared = one.status == 503 and "collapsed" in (response.header("Cache-Status") or "")
                    assert served[number] == 1 or not one.secret or shared, (number, response)
                    if origin.count(path) == before and method == "GET":
                        age = int(response.header("Age") or "0")
                        assert age >= ages.get(number, 0)
                        ages[number] = age
                    else:
                        ages.pop(number, None)
            proxy.wait_until_idle()

    run()


# -- two users -------------------------------------------------------------------------------------------------------

# How an origin may keep its users apart, and what it says of freshness.
KEPT_APART: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Authorization", (("Cache-Control", "max-age=3600"),)),
    ("Authorization", (("Cache-Control", "private, max-age=3600"),)),
    ("Authorization", (("Cache-Control", "no-store"),)),
    ("Authorization", ()),
    ("Authorization", (("ETag", '"v"'),)),
    ("Authorization", (("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"),)),
    ("Authorization", (("Cache-Control", "public, max-age=3600"), ("Vary", "Authorization"))),
    ("Authorization", (("Cache-Control", "s-maxage=3600"), ("Vary", "Accept, Authorization"))),
    ("Authorization", (("Cache-Control", "public, max-age=0"), ("Vary", "Authorization"))),
    ("Authorization", (("Cache-Control", "max-age=3600"), ("Vary", "*"))),
    ("X-V", (("Cache-Control", "max-age=3600"), ("Vary", "X-V"))),
    ("X-V", (("Cache-Control", "max-age=0"), ("Vary", "x-v"))),
    ("X-V", (("Cache-Control", "max-age=60, stale-while-revalidate=600"), ("Age", "100"), ("Vary", "X-V"))),
    ("X-V", (("Cache-Control", "no-store"), ("Vary", "X-V"))),
    ("Cookie", (("Cache-Control", "max-age=3600"), ("Vary", "Cookie"))),
    ("Cookie", (("Cache-Control", "private"),)),
    ("Accept-Language", (("Cache-Control", "max-age=3600"), ("Vary", "Accept-Language"))),
)


@pytest.mark.timeout(900)
def test_two_users_never_see_each_others_body(proxy: Proxy, origin: Origin) -> None:
    """Random interleavings: alone and at the same time, fresh and stale, with reloads and with conditions."""
    dice = random.Random(SEED)
    for number in range(ROUNDS):
        name, headers = dice.choice(KEPT_APART)
        path = f"/round/{number}"
        url = origin.serve(path, Reply(size=100, headers=headers, seed_by=name, chunked=dice.random() < 0.2))
        users = ("de", "fr")
        under_way = []
        for _ in range(dice.randint(2, 6)):
            user = dice.choice(users)
            fields = [(name, user)]
            if dice.random() < 0.2:
                fields.append(("Cache-Control", dice.choice(("no-cache", "no-store", "max-stale", "max-age=0"))))
            under_way.append((user, proxy.start_get(url, headers=fields)))
            if dice.random() < 0.5:
                check(path, under_way)
        check(path, under_way)


def check(path: str, under_way: list[tuple[str, object]]) -> None:
    for user, fetch in under_way:
        response = fetch.result()  # type: ignore[attr-defined]
        assert response.status == 200, response
        assert response.body == content(f"{path}|{user}", 100), (path, user, response)
    under_way.clear()


def test_one_user_with_a_token_and_one_without(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """What was stored for everybody is everybody's; what came with a token is not."""
    proxy = start_proxy()
    url = origin.serve("/a", Reply(headers=(("Cache-Control", "max-age=3600"),), seed_by="Authorization"))
    token = [("Authorization", "Bearer secret")]
    assert proxy.get(url, headers=token).body == content("/a|Bearer secret", 1000)
    assert proxy.get(url).body == content("/a|None", 1000)
    proxy.wait_until_idle()
    assert proxy.get(url).hit
    assert proxy.get(url, headers=token).hit
