"""The effect of an operator's rules on the verdict about a response, and its limits."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from proxy_cache.semantics.headers import Headers
from proxy_cache.semantics.policy import Policy, TtlRule
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.semantics.storing import NEVER_STORED, RULED, judge

from . import NOW, given, h, http_date, odd_headers

RULE, FORCE = TtlRule(600), TtlRule(600, force=True)


def policy(rule: TtlRule, **fields: bool) -> Policy:
    return Policy(ttl=lambda status, headers: rule, **fields)


@pytest.mark.parametrize(
    ("status", "lines", "by_rule", "by_force"),
    [
        pytest.param(200, [], None, None, id="says nothing"),
        pytest.param(200, ["Cache-Control: max-age=5"], None, None, id="says something else"),
        pytest.param(200, ["Cache-Control: no-cache"], None, None, id="no-cache is about freshness"),
        pytest.param(200, ["Expires: 0", "Pragma: no-cache"], None, None, id="expired"),
        pytest.param(404, [], None, None, id="404"),
        pytest.param(302, [], None, None, id="not heuristically cacheable"),
        pytest.param(200, ["Cache-Control: no-store"], "no-store", None, id="no-store"),
        pytest.param(200, ["Cache-Control: private"], "private", None, id="private"),
        pytest.param(200, ["Set-Cookie: a=b"], "set-cookie", None, id="Set-Cookie"),
        pytest.param(200, ["Vary: *"], "vary-star", "vary-star", id="RFC 9111 §4.1: Vary: * matches nothing"),
        pytest.param(206, [], "partial", "partial", id="206"),
        pytest.param(304, [], "status", "status", id="304"),
        *[pytest.param(s, [], "status", "status", id=str(s)) for s in sorted(NEVER_STORED)],
    ],
)
def test_response(status: int, lines: list[str], by_rule: str | None, by_force: str | None) -> None:
    verdict = judge(h(), status, h(*lines), policy(RULE))
    assert verdict.why_not == by_rule
    assert by_rule or verdict.assigned == 600
    verdict = judge(h(), status, h(*lines), policy(FORCE))
    assert verdict.why_not == by_force
    assert by_force or verdict.assigned == 600
    assert by_force or "set-cookie" in verdict.omitted


@pytest.mark.parametrize(
    ("request_lines", "lines", "fields", "why_not"),
    [
        # RFC 9111 §3.5
        pytest.param(["Authorization: x"], [], {}, "authorization", id="not by a TTL"),
        pytest.param(["Authorization: x"], ["Cache-Control: public"], {}, None, id="public"),
        pytest.param(["Authorization: x"], [], {"ignore_authorization": True}, None, id="by the rule for it"),
        pytest.param(["X-Api-Key: x"], [], {}, "credentials", id="a rule gives a lifetime, not a permission"),
        pytest.param(["X-Api-Key: x"], [], {"ignore_authorization": True}, None, id="the rule for any credentials"),
        pytest.param(["X-Api-Key: x"], ["Cache-Control: max-age=5"], {}, None, id="the origin has spoken of caching"),
        # RFC 9111 §5.2.1.5
        pytest.param(["Cache-Control: no-store"], [], {}, "request-no-store", id="no-store"),
        pytest.param(["Cache-Control: no-store"], [], {"ignore_directives": True}, None, id="no-store, ignored"),
    ],
)
def test_request(request_lines: list[str], lines: list[str], fields: dict[str, bool], why_not: str | None) -> None:
    for rule in (RULE, FORCE):
        assert judge(h(*request_lines), 200, h(*lines), policy(rule, **fields)).why_not == why_not


@pytest.mark.parametrize(
    ("lines", "lifetime", "always_validate"),
    [
        pytest.param([], 600, False, id="nothing"),
        pytest.param(["Cache-Control: max-age=5"], 600, False, id="max-age"),
        pytest.param(["Cache-Control: s-maxage=5"], 600, False, id="s-maxage"),
        pytest.param(["Cache-Control: no-cache"], 600, False, id="no-cache"),
        pytest.param([f"Expires: {http_date(-5)}"], 600, False, id="Expires"),
    ],
)
def test_lifetime(lines: list[str], lifetime: int, always_validate: bool) -> None:
    response = h(*lines, f"Date: {http_date()}")
    stored = StoredResponse.of(200, response, h(), NOW, NOW, judge(h(), 200, response, policy(RULE)))
    assert (stored.lifetime, bool(stored.always_validate)) == (lifetime, always_validate)
    # A 304 is judged again: by the rules as they are now.
    assert stored.updated_by(h(), NOW, NOW, policy=policy(TtlRule(7))).lifetime == 7


def test_a_304_does_not_bring_in_what_is_private() -> None:
    stored = StoredResponse.of(200, h('ETag: "a"'), h(), NOW, NOW)
    assert not stored.must_not_be_kept
    assert stored.updated_by(h("Cache-Control: private"), NOW, NOW).must_not_be_kept
    assert stored.updated_by(h("Cache-Control: no-store"), NOW, NOW).must_not_be_kept
    assert not stored.updated_by(h("Cache-Control: private=x-a", "X-A: 1"), NOW, NOW).must_not_be_kept


def test_guess() -> None:
    """RFC 9111 §4.2.2: a heuristic only without an explicit expiration time."""
    assert judge(h(), 200, h(), guess=120).assigned == 120
    assert judge(h(), 200, h("Cache-Control: public"), guess=120).why_not == "no-freshness"
    assert judge(h(), 200, h("Expires: 0"), guess=120).assigned is None
    assert judge(h(), 404, h(), guess=120).why_not == "no-freshness"
    assert judge(h("Authorization: x"), 200, h(), guess=120).why_not == "authorization"
    assert judge(h(), 200, h(), policy(RULE), guess=120).assigned == 600


def test_what_a_rule_is_about() -> None:
    """Without naming a status in its filter, a rule is about resources that are there (see rules.py)."""
    assert {200, 203, 204, 300, 301, 308} == RULED


@given(odd_headers, st.integers(100, 599), odd_headers)
def test_a_rule_without_force_never_overrides(request: Headers, status: int, response: Headers) -> None:
    plain = judge(request, status, response)
    ruled = judge(request, status, response, policy(RULE))
    assert (ruled.why_not in (None, "authorization", "credentials", "request-no-store")) is (
        plain.why_not in (None, "no-freshness", "authorization", "credentials", "request-no-store")
    )


@pytest.mark.parametrize(
    ("lines", "why_not"),
    [
        pytest.param(["Cache-Control: max-age=60"], "signed-url", id="max-age"),
        pytest.param(['ETag: "a"'], "signed-url", id="a validator"),
        pytest.param(["Cache-Control: max-age=60, must-revalidate"], "signed-url", id="must-revalidate"),
        pytest.param(["Cache-Control: public, max-age=60"], None, id="public"),
        pytest.param(["Cache-Control: max-age=60, immutable"], None, id="immutable"),
        pytest.param(["Cache-Control: s-maxage=60"], None, id="s-maxage"),
        pytest.param(["Cache-Control: no-store"], "no-store", id="no-store comes first"),
        pytest.param([], "no-freshness", id="nothing"),
    ],
)
def test_a_url_that_is_signed(lines: list[str], why_not: str | None) -> None:
    assert judge(h(), 200, h(*lines), Policy(signed_url=True)).why_not == why_not
    by_rule = judge(h(), 200, h(*lines), policy(RULE, signed_url=True)).why_not
    assert by_rule == (why_not if why_not == "no-store" else None)
