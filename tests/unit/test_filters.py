"""Compiled filters say what mitmproxy's own say, and a client's Host header has no say in them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy import flowfilter, http
from mitmproxy.connection import Client
from mitmproxy.test import tflow

from proxy_cache.mitm.filters import NO_RESPONSE, SOME_RESPONSE, Facts, Filter, by_its_target, flow_of
from proxy_cache.mitm.rules import MAX_REMEMBERED, Rules, Spec
from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.keys import Target
from proxy_cache.semantics.policy import TtlRule
from tests.support.examples import examples

REGEXES = (
    "a.example", r"a\.example$", "^b", "EXAMPLE", "127", "8080", "/pool/", r"\.deb$", "^http://a", "x=1", "443", ".",
    "ü", "xn--", r"\[", "::1", "https", "POOL",
)  # fmt: skip
# Regexes of other things, and what only they match.
OF_TARGETS = ("~d", "~u", "")
OF_MESSAGES = ("~hq", "~h", "~hs", "~t", "~tq", "~ts", "~b", "~bq", "~bs")
HOSTS = (
    "a.example", "b.a.example", "A.Example", "127.0.0.1", "::1", "xn--bcher-kva.example", "bücher.example",
    "under_score", "a", "a..b", "xn--", "example.8080",
)  # fmt: skip
PATHS = ("/", "*", "/pool/a.deb", "/pool/a.deb?x=1", "/POOL/", "/a.example/b", "/?u=http://b/", "/" + "x" * 2000)
STATUSES = (200, 404)
LINES = b"Host: other.example\r\nUser-Agent: pip/24 a.example\r\nContent-Type: text/html\r\nProxy-Authorization: x\r\n"

regexes = st.sampled_from(REGEXES)
of_targets = st.one_of(
    st.builds(lambda code, regex: f"{code} {regex}".strip(), st.sampled_from(OF_TARGETS), regexes),
    st.sampled_from(("~m GET", '~m "^P"', "~m e", "~all", "~http", "~tcp", "~udp", "~dns")),
)
of_more = st.one_of(
    of_targets,
    st.builds(lambda code, regex: f"{code} {regex}", st.sampled_from(OF_MESSAGES), regexes),
    st.sampled_from(("~c 200", "~c 404", "~q", "~s", "~a", "~src 192", "~dst 127", "~e", "~marked", "~meta a")),
)
parsed = lru_cache(flowfilter.parse)


def expressions(atoms: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """As mitmproxy's parser would put them together, which takes it half a second for some."""
    return st.recursive(
        atoms.map(parsed),
        lambda inner: st.one_of(
            inner.map(lambda one: flowfilter.FNot([one])),
            st.lists(inner, min_size=2, max_size=3).map(flowfilter.FAnd),
            st.lists(inner, min_size=2, max_size=3).map(flowfilter.FOr),
        ),
        max_leaves=6,
    )


TARGETS = [
    Target.of(scheme, host, port, path)
    for scheme in ("http", "https")
    for host in HOSTS
    for port in (80, 443, 8080)
    for path in PATHS
]
some_targets = st.randoms(use_true_random=False).map(lambda random: random.sample(TARGETS, 20))
methods = st.sampled_from((b"GET", b"HEAD", b"POST", b"PROPFIND"))


def client() -> Client:
    return tflow.tclient_conn()


@cache
def asked(target: Target, method: bytes, status: int) -> http.HTTPFlow:
    flow = flow_of(client(), target, LINES)
    flow.request.data.method = method
    if status != NO_RESPONSE:
        flow.response = http.Response.make(status, b"a.example", {"Content-Type": "text/css", "X-A": "a.example"})
    return flow


@settings(max_examples=examples(150))
@given(expressions(of_targets), some_targets, methods)
def test_a_target_decides_what_mitmproxy_decides(expression: Any, targets: list[Target], method: bytes) -> None:
    compiled = Filter.of(expression)
    assert not compiled.needs_flow
    assert not compiled.asks_client
    for target in targets:
        own = bool(flowfilter.match(expression, asked(target, method, NO_RESPONSE)))
        assert compiled.check(Facts.of(target, method)) is own, target
        own = bool(flowfilter.match(expression, asked(target, method, 200)))
        assert compiled.check(Facts.of(target, method, SOME_RESPONSE)) is own, target


@settings(max_examples=examples(150))
@given(expressions(of_more), some_targets, methods)
def test_what_is_decided_early_is_decided_as_mitmproxy_would_later(
    expression: Any, targets: list[Target], method: bytes
) -> None:
    compiled = Filter.of(expression)
    for target, status in itertools.product(targets, (NO_RESPONSE, *STATUSES)):
        own = bool(flowfilter.match(expression, asked(target, method, status)))
        answer = compiled.check(Facts.of(target, method, status))
        assert answer in (own, None)
        assert answer is not None or compiled.needs_flow
        if status != NO_RESPONSE:
            assert compiled.check(Facts.of(target, method, SOME_RESPONSE)) in (own, None)


@pytest.mark.parametrize(
    "text",
    [
        "a.example", "~d a.example ~u pool", "~d a & ~u b | ~m GET", "(~d a | ~d b) & !~u x", "!~d a",
        '~u "a b" | ~all', "!(~d a | ~u b)", "~d a & (~u b & (~m GET | x))",
    ],
)  # fmt: skip
def test_what_the_parser_makes_is_taken_apart(text: str) -> None:
    try:
        compiled = Filter.of(flowfilter.parse(text))
    except ValueError:
        pytest.skip("not to this mitmproxy")
    for host in HOSTS:
        target = Target.of("http", host, 80, "/pool/a")
        own = bool(flowfilter.match(text, asked(target, b"GET", NO_RESPONSE)))
        assert compiled.check(Facts.of(target, b"GET")) is own


@pytest.mark.parametrize(
    ("text", "host", "answer"),
    [
        ("~d a & ~hq b", "a.example", None),
        ("~d a & ~hq b", "c.com", False),
        ("~hq b & ~d a", "c.com", False),
        ("~d a | ~hq b", "a.example", True),
        ("~d a | ~hq b", "c.com", None),
        ("!(~d a & ~hq b)", "c.com", True),
        ("~hs x", "a.example", False),
    ],
)
def test_half_an_expression_is_enough_where_it_settles_the_matter(text: str, host: str, answer: bool | None) -> None:
    compiled = Filter.of(flowfilter.parse(text))
    assert compiled.check(Facts.of(Target("http", host, 80, "/"), b"GET")) is answer


@settings(max_examples=examples(100))
@given(expressions(of_more), st.sampled_from(TARGETS), st.sampled_from(("a.example", "b", "127.0.0.1:8080", "")))
def test_the_host_that_a_client_writes_decides_nothing(expression: Any, target: Target, written: str) -> None:
    """GET http://a.example/ with another site's Host: the rules are those of a.example, by the lane and by flows."""
    flow = flow_of(client(), target, LINES)
    flow.request.data.headers["Host"] = written
    told = by_its_target(flow, target, b"GET")
    plain = flow_of(flow.client_conn, target, LINES)
    assert told.request.data.headers.fields == plain.request.data.headers.fields
    assert bool(flowfilter.match(expression, told)) is bool(flowfilter.match(expression, plain))
    assert flow.request.data.headers["Host"] == written, "the flow itself is as it was"


@settings(max_examples=examples(150))
@given(st.lists(expressions(of_more), min_size=1, max_size=4), expressions(of_more), st.sampled_from(TARGETS))
def test_every_kind_of_rule_goes_by_it(filters: list[Any], flag: Any, target: Target) -> None:
    """The policy of compiled rules, asked for twice, against one that is worked out rule by rule with flowfilter."""
    compiled = [Filter.of(one) for one in filters]
    rules = Rules(
        ttl=tuple(Spec(one, TtlRule(number)) for number, one in enumerate(compiled)),
        ignore_directives=(Spec(Filter.of(flag), True),),
        ignore_authorization=(Spec(compiled[0], True),),
        key_ignores=tuple(Spec(one, (f"x-{number}",)) for number, one in enumerate(compiled)),
    )
    before = asked(target, b"GET", NO_RESPONSE)
    for _ in range(2):
        policy = rules.policy(target, b"GET", lambda: asked(target, b"GET", NO_RESPONSE))
        assert policy.ignore_directives is bool(flowfilter.match(flag, before))
        assert policy.ignore_authorization is bool(flowfilter.match(filters[0], before))
        named = [(f"x-{number}",) for number, one in enumerate(filters) if flowfilter.match(one, before)]
        assert policy.key_ignores == (named[0] if named else ())
        for status in STATUSES:
            answered = asked(target, b"GET", status).copy()
            assert answered.response is not None
            fields = Headers(answered.response.headers.fields)
            answered.response.content = None  # a rule never sees a body
            matching = (
                number
                for number, one in enumerate(filters)
                if flowfilter.match(one, answered) and (status == 200 or compiled[number].names_status)
            )
            found = policy.rule_for(status, fields)
            assert (found.seconds if found is not None else None) == next(matching, None)


def all_targets() -> Iterator[Target]:
    for number in itertools.count():
        yield Target("http", "a.example", 80, f"/{number}")


def no_flow() -> http.HTTPFlow:
    raise AssertionError("the target decides")


def test_what_is_remembered_of_targets_is_bounded() -> None:
    by_url = Rules(ttl=(Spec(Filter.of(flowfilter.parse("~u /1")), TtlRule(1)),))
    by_host = Rules(ttl=(Spec(Filter.of(flowfilter.parse("~d a.example")), TtlRule(1)),))
    for target in itertools.islice(all_targets(), MAX_REMEMBERED + 100):
        by_url.policy(target, b"GET", no_flow)
        by_host.policy(target, b"GET", no_flow)
    by_url.policy(Target("http", "a.example", 80, "/" + "x" * 10_000), b"GET", no_flow)
    assert by_url.remembered == 100
    assert by_host.remembered == 1


def test_a_remembered_policy_is_the_same_one() -> None:
    rules = Rules(ignore_directives=(Spec(Filter.of(flowfilter.parse("~d a.example & !~u /no")), True),))
    target = Target("http", "a.example", 80, "/yes")
    assert rules.policy(target, b"GET", no_flow) is rules.policy(
        Target("http", "a.example", 80, "/yes"), b"GET", no_flow
    )
    assert rules.policy(target, b"GET", no_flow).ignore_directives
    assert not rules.policy(Target("http", "a.example", 80, "/no"), b"GET", no_flow).ignore_directives
