"""The API, with whatever may be sent to it: nothing changes without a token, and every answer is one that the
description has."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.api import TOKEN, token_file
from tests.support.examples import examples
from tests.support.origin import Origin, Reply
from tests.support.proxy import Proxy

EXAMPLES = examples(80)
DIALS = {"/api/v1/warm"}
"""Endpoints that would go wherever they are told to."""

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"]
WRONG = [
    None,
    "",
    "Bearer",
    "Bearer x",
    "Basic YTpi",
    f"Basic {TOKEN}",
    f"Bearer {TOKEN[:-1]}",
    f"Bearer {TOKEN} x",
    TOKEN,
]
texts = st.text(max_size=20) | st.sampled_from(
    ["*", "http://127.0.0.1/*", "127.0.0.1", "10m", "1d", "0", "-1", "1" * 30]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
purges = st.sampled_from(
    [{"all": True}, {"all": True, "soft": True}, {"host": "127.0.0.1"}, {"match": "*"}, {"tag": "t"}]
)
bodies = (
    st.none()
    | purges
    | values
    | st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("url", "host", "match", "tag", "all", "soft", "urls", "concurrency"), values)
    )
)


class Calls:
    """A proxy with an entry, and one connection to its metrics port."""

    def __init__(self, proxy: Proxy, url: str) -> None:
        self.proxy, self.url = proxy, url
        status, _, body = self("GET", "/api/v1/openapi.json")
        assert status == 200
        self.paths: dict[str, dict[str, Any]] = json.loads(body)["paths"]

    def __call__(
        self, method: str, path: str, body: bytes | None = None, authorization: str | None = None
    ) -> tuple[int, str, bytes]:
        """Status, type and body; of a stream, which may not end, the body is empty."""
        assert self.proxy.metrics_address is not None
        connection = http.client.HTTPConnection(*self.proxy.metrics_address, timeout=60)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            if authorization is not None:
                headers["Authorization"] = authorization
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            kind = response.headers.get_content_type()
            return response.status, kind, b"" if kind == "text/event-stream" else response.read()
        finally:
            connection.close()

    @property
    def needs_token(self) -> set[tuple[str, str]]:
        """Methods and paths."""
        return {
            (method.upper(), path)
            for path, operations in self.paths.items()
            for method, operation in operations.items()
            if operation["security"]
        }


@pytest.fixture(scope="module", params=[True, False], ids=["with a token file", "without"])
def calls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    options = {"admin_token_file": token_file(folder)} if request.param else {}
    with Origin() as origin, Proxy(folder, **options) as proxy:
        headers = (("Cache-Control", "max-age=86400"), ("Surrogate-Key", "t"))
        url = origin.serve("/kept", Reply(headers=headers))
        assert proxy.get(url).ok
        proxy.wait_until_idle()
        yield Calls(proxy, url)


@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_without_a_token_nothing_changes(data: st.DataObject, calls: Calls) -> None:
    path = data.draw(
        st.sampled_from(sorted(calls.paths)) | texts.map(lambda text: "/api/v1/" + urlencode({"": text})[1:])
    )
    method = data.draw(st.sampled_from(METHODS + [method for method, one in calls.needs_token if one == path] * 5))
    query = data.draw(st.dictionaries(texts, texts, max_size=2))
    body = data.draw(bodies)
    status, kind, _ = calls(
        method, f"{path}?{urlencode(query)}" if query else path,
        json.dumps(body).encode() if body is not None else None, data.draw(st.sampled_from(WRONG)),
    )  # fmt: skip
    assert status != 500
    if (method, path) in calls.needs_token:
        assert status in (401, 403)
    elif method not in ("GET", "HEAD"):
        assert status in (404, 405)
    if status >= 400 and method != "HEAD":
        assert kind == "application/problem+json"
    assert calls.proxy.get(calls.url).hit


def test_everything_that_changes_something_is_told(calls: Calls) -> None:
    assert ("POST", "/api/v1/purge") in calls.needs_token
    posts = {("POST", path) for path, operations in calls.paths.items() if "post" in operations}
    assert calls.needs_token == posts


@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_every_answer_is_one_that_is_described(data: st.DataObject, calls: Calls) -> None:
    path = data.draw(st.sampled_from(sorted(calls.paths.keys() - DIALS)))
    method = data.draw(st.sampled_from(sorted(calls.paths[path])))
    operation = calls.paths[path][method]
    query = [
        (one["name"], data.draw(of_schema(one["schema"])))
        for one in operation["parameters"]
        if data.draw(st.booleans())
    ]
    body = data.draw(bodies) if "requestBody" in operation else None
    status, kind, answer = calls(
        method.upper(), f"{path}?{urlencode(query)}", json.dumps(body).encode() if body is not None else None,
        f"Bearer {TOKEN}",
    )  # fmt: skip
    assert status != 500
    assert str(status) in operation["responses"]
    assert kind in operation["responses"][str(status)]["content"]
    if kind.endswith("json"):
        for one in answer.splitlines() if kind == "application/x-ndjson" else [answer]:
            assert isinstance(json.loads(one), dict)


def of_schema(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    """A value of a query, mostly as it should be."""
    if schema["type"] == "array":
        return of_schema(schema["items"])
    good: st.SearchStrategy[str] = texts
    if "enum" in schema:
        good = st.sampled_from(schema["enum"])
    elif "pattern" in schema:
        good = st.from_regex(schema["pattern"], fullmatch=True)
    elif schema["type"] == "integer":
        good = st.integers(schema.get("minimum"), schema.get("maximum")).map(str)
    return good | texts
