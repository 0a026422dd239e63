"""Traces, as a collector gets them: a real mitmdump sends them to an OTLP receiver of the test's own (docs/tracing.md).
The same on the fast lane and as flows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.agents import results
from tests.support.origin import Gate, Origin, Reply, bind_new_port
from tests.support.otlp import GrpcReceiver, Receiver
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
    """One proxy for the file that traces every request. It has one slot for each origin, and waits a second for it if
    it is to be refused."""
    environment = receiver.environment(OTEL_EXPORTER_OTLP_HEADERS="x-tenant=builds", OTEL_RESOURCE_ATTRIBUTES="site=a")
    limits = {"origin_max_in_flight_per_host": 1, "cache_queue_timeout": "/~u refused/1", "origin_retries": 1}
    folder = tmp_path_factory.mktemp("traced")
    with Proxy(folder, environment=environment, fast_lane=fast_lane, **limits) as proxy:
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


def test_the_line_of_the_log_has_the_ids(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    """Of what is traced: a miss, a hit, what is only forwarded, a CONNECT that leads nowhere."""
    url = origin.serve("/logged", Reply())
    assert not traced.get(url, headers=[SAMPLED]).hit
    assert traced.get(url, headers=[SAMPLED]).hit
    assert traced.request("POST", url, headers=[SAMPLED], body=b"x").ok
    assert traced.get(origin.serve("/logged/not", Reply()), headers=[NOT_SAMPLED]).ok
    with bind_new_port() as closed:
        port = closed.getsockname()[1]
        assert traced.request("CONNECT", f"127.0.0.1:{port}").status == 502
    for span in receiver.request(url, 3):
        method = span["http.request.method"]
        traced.wait_for_log(rf" {method} \S+/logged 200 .* trace_id={TRACE} span_id={span.id} \[127.0.0.1\]")
    traced.wait_for_log(
        rf" CONNECT 127\.0\.0\.1:{port} 502 .* trace_id=[0-9a-f]{{32}} span_id=[0-9a-f]{{16}} \[127.0.0.1\]"
    )
    traced.wait_for_log(r"/logged/not 200 \d+ B [0-9.]+ ms miss fwd=uri-miss \[127.0.0.1\]")


def test_by_grpc(start_proxy: Start, origin: Origin) -> None:
    with GrpcReceiver() as receiver:
        proxy = start_proxy(environment=receiver.environment(OTEL_EXPORTER_OTLP_HEADERS="x-tenant=builds"))
        url = origin.serve("/grpc", Reply(size=1000))
        assert proxy.get(url, headers=[SAMPLED]).ok
        (request,) = receiver.request(url)
        (fill,) = receiver.below(request, "fill")
        (asked,) = receiver.below(fill, "GET")
        assert (request.trace, request.parent, asked["http.response.status_code"]) == (TRACE, CALLER, 200)
        assert (request.service, receiver.headers[-1]["x-tenant"]) == ("proxy-cache", "builds")
        proxy.close()


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


# -- fills ------------------------------------------------------------------------------------------------------------


def test_a_miss_shows_what_it_went_through(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    url = origin.serve("/miss", Reply(headers=(FRESH,), size=3_000_000))
    assert traced.get(url, headers=[SAMPLED]).ok
    (request,) = receiver.request(url)
    assert (request["cache.hit"], request["cache.served_from"], request["cache.fwd"]) == (False, "miss", "uri-miss")
    (fill,), (lookup,) = receiver.below(request, "fill"), receiver.below(request, "lookup")
    assert (fill["cache.fill.outcome"], fill["cache.source"], fill.url) == ("stored", "origin", url)
    assert fill["http.response.body.size"] == 3_000_000
    (connect,), (sent,), (body,) = (receiver.below(fill, name) for name in ("connect", "GET", "body"))
    assert (sent.kind, sent["http.response.status_code"], sent.url) == ("client", 200, url)
    assert "http.request.resend_count" not in sent.attributes
    assert (body["http.response.body.size"], body["cache.source"]) == (3_000_000, "origin")
    in_order = [request, lookup, connect, sent, body]
    assert [span.start for span in in_order] == sorted(span.start for span in in_order)
    assert {span.trace for span in (*in_order, fill)} == {TRACE}


def test_the_origin_is_told_of_the_request_that_asks_it(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    """It is on an address of this machine, and so one of our own."""
    url = origin.serve("/told", Reply(headers=(FRESH,)))
    assert traced.get(url, headers=[SAMPLED, ("tracestate", "vendor=1"), ("baggage", "job=7")]).ok
    (request,) = receiver.request(url)
    (fill,) = receiver.below(request, "fill")
    (sent,) = receiver.below(fill, "GET")
    (seen,) = origin.seen("/told")
    assert seen.header("traceparent") == f"00-{TRACE}-{sent.id}-01"
    assert (seen.header("tracestate"), seen.header("baggage")) == ("vendor=1", "job=7")


def test_who_waits_for_a_fill_links_to_it(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    gate = Gate()
    url = origin.serve("/shared", Reply(headers=(FRESH,), gate=gate))
    first = traced.start_get(url, headers=[SAMPLED])
    traced.wait_for_waiters(1)
    others = [traced.start_get(url) for _ in range(2)]
    traced.wait_for_waiters(3)
    gate.open()
    assert all(response.ok for response in results([first, *others]))
    leader, *waiters = sorted(receiver.request(url, 3), key=lambda span: span.trace != TRACE)
    (fill,) = receiver.below(leader, "fill")
    assert leader.links == ()
    for waiter in waiters:
        assert waiter.links == (fill.id,)
        assert waiter.trace != TRACE
        assert waiter["cache.served_from"] == "coalesced"
        assert len(receiver.below(waiter, "wait")) == 1
    assert len({span.trace for span in waiters}) == 2


def test_who_waits_for_a_fill_that_is_not_traced_sees_it_all_the_same(
    traced: Proxy, origin: Origin, receiver: Receiver
) -> None:
    gate = Gate()
    url = origin.serve("/halfway", Reply(headers=(FRESH,), gate=gate))
    first = traced.start_get(url, headers=[NOT_SAMPLED])
    traced.wait_for_waiters(1)
    second = traced.start_get(url)
    traced.wait_for_waiters(2)
    gate.open()
    assert all(response.ok for response in results([first, second]))
    (request,) = receiver.request(url)
    assert request.links == ()
    assert receiver.below(request, "first_byte")[0]["cache.outcome"] == "200"
    assert origin.seen("/halfway")[0].header("traceparent") == NOT_SAMPLED[1]


def test_each_try_at_the_origin_has_its_span(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    url = origin.serve("/flaky", Reply(status=503), Reply(headers=(FRESH,)))
    assert traced.get(url).ok
    (request,) = receiver.request(url)
    (fill,) = receiver.below(request, "fill")
    failed, worked = receiver.below(fill, "GET", 2)
    assert (failed.status, failed["error.type"], failed["http.response.status_code"]) == ("error", "503", 503)
    assert (worked.status, worked["http.request.resend_count"], worked["http.response.status_code"]) == ("", 1, 200)
    (pause,) = receiver.below(fill, "backoff")
    assert failed.end <= pause.start < pause.end <= worked.start
    carried = [str(seen.header("traceparent")).split("-")[2] for seen in origin.seen("/flaky")]
    assert carried == [failed.id, worked.id]


def test_an_origin_that_is_not_there(traced: Proxy, receiver: Receiver) -> None:
    with bind_new_port() as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/away"
        assert traced.get(url).status == 502
    (request,) = receiver.request(url)
    assert (request.status, request["error.type"]) == ("error", "connection_refused")
    (fill,) = receiver.below(request, "fill")
    assert (fill.status, fill["error.type"]) == ("error", "connection_refused")
    assert [span["cache.outcome"] for span in receiver.below(fill, "connect", 2)] == ["connection_refused"] * 2


def test_the_queue_is_seen_and_so_is_its_503(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    gate = Gate()
    held = traced.start_get(origin.serve("/held", Reply(gate=gate)))
    origin.wait(lambda: origin.count("/held") == 1, told="the one that has the slot")
    refused = origin.serve("/refused", Reply())
    assert traced.get(refused).status == 503
    (request,) = receiver.request(refused)
    assert (request.status, request["http.response.status_code"]) == ("error", 503)
    assert request["error.type"] == "connection_limit_reached"
    assert request["cache.queued"] >= 0.9
    (fill,) = receiver.below(request, "fill")
    (queue,) = receiver.below(fill, "queue")
    assert queue.end - queue.start >= 9e8
    patient = origin.serve("/patient", Reply())
    waiting = traced.start_get(patient)
    traced.wait_for_metric("origin_fetches_queued", 1)
    gate.open()
    assert held.result(60).ok
    assert waiting.result(60).ok
    (request,) = receiver.request(patient)
    (fill,) = receiver.below(request, "fill")
    (queue,), (sent,) = receiver.below(fill, "queue"), receiver.below(fill, "GET")
    assert queue.end <= sent.start


def test_a_client_that_leaves(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    gate = Gate()
    url = origin.serve("/left", Reply(gate=gate))
    leaving = traced.start_get(url)
    origin.wait(lambda: origin.count("/left") == 1, told="the request")
    leaving.leave()
    (request,) = receiver.request(url)
    gate.open()
    assert (request.status, request["error.type"], request["cache.cut"]) == ("", "client_disconnected", "client")
    assert "http.response.status_code" not in request.attributes


def test_a_range_is_traced_with_its_gap(traced: Proxy, origin: Origin, receiver: Receiver) -> None:
    headers = (FRESH, ("ETag", '"v"'), ("Accept-Ranges", "bytes"))
    url = origin.serve("/disk.img", Reply(headers=headers, size=20_000_000))
    assert traced.get(url, headers=[("Range", "bytes=0-99")]).status == 206
    assert traced.get(url, headers=[("Range", "bytes=9000000-9000099")]).status == 206
    for request in receiver.request(url, 2):
        (fill,) = receiver.below(request, "fill")
        assert fill["cache.fill.outcome"] == "stored"
        assert receiver.below(fill, "GET")[0]["http.response.status_code"] == 206
