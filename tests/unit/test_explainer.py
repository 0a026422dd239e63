"""What may be asked of explain."""

from __future__ import annotations

import asyncio

import pytest

from proxy_cache.app import App
from proxy_cache.downstream.explainer import HEADERS_MAX, URL_MAX, BadQuestion, NotReady, Question

URL = "http://packages.example/a"


def test_a_question_is_a_request() -> None:
    question = Question.of("HTTP://Packages.Example:80?b#c", ["Accept: text/html ", "X:"], "HEAD")
    assert question.target.url == "http://packages.example/?b"
    assert question.headers.fields == ((b"Accept", b"text/html"), (b"X", b""))
    assert not question.has_body
    assert Question.of(URL, ["Content-Length: 1"]).has_body
    assert Question.of("http://packages.example", method="OPTIONS").target.path == "*"


@pytest.mark.parametrize(
    ("parameter", "url", "headers", "method"),
    [
        ("url", "", [], "GET"),
        ("url", "/a", [], "GET"),
        ("url", "packages.example:443", [], "CONNECT"),
        ("url", "http://", [], "GET"),
        ("url", "http://a.example:0/", [], "GET"),
        ("url", "http://a.example/\n", [], "GET"),
        ("url", "http://a.example/" + "a" * URL_MAX, [], "GET"),
        ("header", URL, ["A"], "GET"),
        ("header", URL, [": b"], "GET"),
        ("header", URL, ["A b: c"], "GET"),
        ("header", URL, ["A: \x00"], "GET"),
        ("header", URL, ["A: €"], "GET"),
        ("header", URL, ["A: " + "b" * URL_MAX], "GET"),
        ("header", URL, ["A: b"] * (HEADERS_MAX + 1), "GET"),
        ("method", URL, [], ""),
        ("method", URL, [], "G E T"),
        ("method", URL, [], "G" * 33),
    ],
)  # fmt: skip
def test_what_makes_no_request_is_named(parameter: str, url: str, headers: list[str], method: str) -> None:
    with pytest.raises(BadQuestion) as raised:
        Question.of(url, headers, method)
    assert raised.value.parameter == parameter
    assert len(str(raised.value)) < 300


def test_a_proxy_that_has_not_started_says_so() -> None:
    with pytest.raises(NotReady):
        asyncio.run(App().explainer.explain(Question.of(URL)))
