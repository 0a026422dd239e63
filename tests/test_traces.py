"""Traces, as a collector gets them: a real mitmdump sends them to an OTLP receiver of the test's own (docs/tracing.md).
The same on the fast lane and as flows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.origin import Origin, Reply
from tests.support.otlp import Receiver
from tests.support.proxy import Proxy

FRESH = ("Cache-Control", "max-age=3600")
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = ("traceparent", f"00-{TRACE}-{CALLER}-01")
NOT_SAMPLED = ("traceparent", f"00-{TRACE}-{CALLER}-00")

Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, fast_lane: bool, receiver: Receiver) -> Iterator[Proxy]:
    """One proxy for the file that traces every request."""
    environment = receiver.environment(OTEL_EXPORTER_OTLP_HEADERS="x-tenant=builds", OTEL_RESOURCE_ATTRIBUTES="site=a")
    with Proxy(tmp_path_factory.mktemp("traced"), environment=environment, fast_lane=fast_lane) as proxy:
        yield proxy


def test_a_hit_has_one_span_in_the_words_of_the_conventions(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    url = origin.serve("/tools/hit", Reply(headers=(FRESH,), size=1234))
    assert traced.get(url).ok
    assert traced.get(url, headers=[("User-Agent", "agent/7")]).ok
    _, hit = sorted(receiver.request(url, 2), key=lambda span: span.start)
    assert (hit.name, hit.parent, hit.links, hit.status) == ("GET", "", (), "")
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    expected = {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.response.body.size": 1234,
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "url.full": url,
        "url.scheme": "http",
        "url.path": "/tools/hit",
        "server.address": host,
        "server.port": int(port),
        "client.address": "127.0.0.1",
        "user_agent.original": "agent/7",
        "cache.hit": True,
        "cache.served_from": "hit",
    }
    assert hit.attributes == expected
    assert hit.start < hit.end
    assert not [span for span in receiver.spans if span.parent == hit.id]


def test_resource_and_headers_are_those_of_the_variables(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    url = origin.serve("/resource", Reply())
    assert traced.get(url).ok
    receiver.request(url)
    about = receiver.resources[-1]
    assert about["service.name"] == "proxy-cache"
    assert about["service.version"]
    assert about["service.instance.id"].startswith("proxy-cache-")
    assert about["site"] == "a"
    assert receiver.headers[-1]["x-tenant"] == "builds"


def test_the_callers_trace_is_joined(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    url = origin.serve("/joined", Reply(headers=(FRESH,)))
    for _ in range(2):
        assert traced.get(url, headers=[SAMPLED, ("tracestate", "vendor=1")]).ok
    for span in receiver.request(url, 2):
        assert (span.trace, span.parent, span.state) == (TRACE, CALLER, "vendor=1")


def test_what_the_caller_has_not_sampled_is_not(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    url = origin.serve("/quiet", Reply(headers=(FRESH,)))
    for _ in range(2):
        assert traced.get(url, headers=[NOT_SAMPLED]).ok
    assert traced.get(f"{url}/after").ok
    receiver.request(f"{url}/after")
    assert not [span for span in receiver.spans if span.url == url]


@pytest.mark.parametrize("field", ["", "00-0-0-01", f"00-{'0' * 32}-{CALLER}-01", f"ff-{TRACE}-{CALLER}-01", "\x7f"])
def test_what_is_no_traceparent_begins_a_trace(traced: Proxy, origin: Origin, receiver: Receiver, field: str) -> None:
    path = f"/odd/{len(field)}/{field[:2].strip()}"
    url = origin.serve(path.replace("\x7f", "del"), Reply(headers=(FRESH,)))
    assert traced.get(url, headers=[("traceparent", field.replace("\x7f", "~"))]).ok
    (span,) = receiver.request(url)
    assert (span.parent, span.trace != TRACE) == ("", True)


def test_secrets_are_in_no_span(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    url = origin.serve("/signed?X-Amz-Signature=verysecret&part=1", Reply())
    assert traced.get(url).ok
    receiver.request("part=1")
    assert "verysecret" not in receiver.shown()


def test_what_is_only_forwarded_has_a_span(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    url = origin.serve("/posted", Reply(status=201))
    assert traced.request("POST", url, body=b"x", headers=[SAMPLED]).status == 201
    (span,) = receiver.request(url)
    assert (span.name, span["cache.served_from"], span["http.response.status_code"]) == ("POST", "forwarded", 201)
    assert (span.trace, span.parent) == (TRACE, CALLER)
    assert span["cache.fwd"] == "method"
