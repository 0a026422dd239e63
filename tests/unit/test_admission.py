"""The one door: where a request goes, whichever way it has come."""

from __future__ import annotations

import re
from typing import Any

import pytest

from proxy_cache.downstream.admission import Admission, Route
from proxy_cache.semantics.keys import Target
from tests.support.settings import settings

OURS = "proxy-cache-1234"
TARGET = Target.of("http", "packages.example", 80, "/x")
ELSEWHERE = Target.of("http", "other.example", 80, "/x")


def door(**changes: Any) -> Admission:
    admission = Admission(OURS)
    admission.settings = settings(cache_hosts=(re.compile("packages\\.example"),))
    admission.is_open = True
    for name, value in changes.items():
        setattr(admission, name, value)
    return admission


@pytest.mark.parametrize(
    ("method", "target", "about", "expected"),
    [
        ("GET", TARGET, {}, Route.CACHE),
        ("HEAD", TARGET, {}, Route.CACHED_HEAD),
        ("GET", ELSEWHERE, {}, Route.FORWARD),
        ("HEAD", ELSEWHERE, {}, Route.FORWARD),
        ("POST", TARGET, {}, Route.FORWARD),
        ("get", TARGET, {}, Route.FORWARD),
        ("GET", TARGET, {"plain": False}, Route.FORWARD),
        ("HEAD", TARGET, {"plain": False}, Route.CACHED_HEAD),
        ("GET", TARGET, {"cacheable": False}, Route.FORWARD),
        ("HEAD", TARGET, {"cacheable": False}, Route.FORWARD),
        ("OPTIONS", TARGET, {"hops": 1}, Route.FORWARD),
        ("OPTIONS", TARGET, {"hops": 0}, Route.NO_FURTHER),
    ],
)
def test_where_a_request_goes(method: str, target: Target, about: dict[str, Any], expected: Route) -> None:
    assert door().route(method, target, (), **about) is expected
    assert door().route(method, target, ("1.1 another",), **about) is expected


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("via", [(f"1.1 {OURS}",), ("1.0 a", f"1.1 b, 1.1 {OURS} (comment)")])
def test_what_has_been_here_goes_round_in_a_circle(method: str, via: tuple[str, ...]) -> None:
    assert door().route(method, TARGET, via) is Route.LOOP
    assert door().route(method, ELSEWHERE, via, plain=False, cacheable=False) is Route.LOOP


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("closed", [{"is_open": False}, {"settings": None}])
def test_nothing_goes_anywhere_before_the_start_and_after_the_end(method: str, closed: dict[str, Any]) -> None:
    assert door(**closed).route(method, TARGET, ()) is Route.UNAVAILABLE


def test_what_goes_no_further_is_answered_whatever_the_proxy_is_doing() -> None:
    assert door(is_open=False).route("TRACE", TARGET, (), hops=0) is Route.NO_FURTHER


def test_a_tunnel_needs_no_cache() -> None:
    assert door(is_open=False).route_connect("packages.example", 443) is Route.TUNNEL
    assert door(is_stopping=True).route_connect("packages.example", 443) is Route.UNAVAILABLE
    assert door(settings=None).route_connect("packages.example", 443) is Route.UNAVAILABLE


def test_a_destination_is_looked_at_once_and_not_with_each_request() -> None:
    admission = door()
    asked = []
    refuses = admission.access.refuses
    admission.access.refuses = lambda target: asked.append(target) or refuses(target)  # type: ignore[method-assign]
    for number in range(100):
        target = Target.of("http", "packages.example", 80, f"/{number}")
        assert admission.route("GET", target, ()) is Route.CACHE
    assert len(asked) == 1


def test_what_is_denied_goes_nowhere_whatever_the_method() -> None:
    for method in ("GET", "HEAD", "POST"):
        assert door().route(method, Target.of("http", "127.0.0.1", 80, "/"), ()) is Route.DENIED
    assert door().route_connect("127.0.0.1", 443) is Route.DENIED
    assert door().denial(Target.of("http", "127.0.0.1", 80, "/")).reason == "address"
    assert door().connect_denial("packages.example", 22).reason == "port"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("target", [TARGET, ELSEWHERE])
@pytest.mark.parametrize("cacheable", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_the_reason_for_forwarding_is_the_one_that_counts(
    method: str, target: Target, cacheable: bool, plain: bool
) -> None:
    """Without it the request would be the cache's, or there is another reason."""
    about = {"method": method, "target": target, "cacheable": cacheable, "plain": plain}
    repaired = {
        "method": {"method": "GET"},
        "target": {"cacheable": True},
        "cache_hosts": {"target": TARGET},
        "body": {"plain": True},
    }
    while door().route(via=(), **about) is Route.FORWARD:
        why = door().why_forwarded(about["method"], about["target"], cacheable=about["cacheable"])
        (name, value), *_ = repaired[why].items()
        assert about[name] != value
        about[name] = value
