"""Traces across a fleet, and what goes wrong around them: no collector, no SDK, the end of the proxy."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.support.origin import Origin, Reply, bind_new_port
from tests.support.otlp import Receiver
from tests.support.proxy import Proxy
from tests.test_fleet import fleet

FRESH = ("Cache-Control", "max-age=3600")
SAMPLED = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


def test_a_fleet_has_one_trace(tmp_path: Path, origin: Origin) -> None:
    """From the node that is asked to the home of the key, and from there to the origin. A request that the first node
    does not sample begins no trace at the second."""
    with (
        Receiver() as receiver,
        fleet(tmp_path, 2, environment=receiver.environment(OTEL_TRACES_SAMPLER="parentbased_always_on")) as nodes,
    ):
        path = nodes.path_with_home(1, origin)
        url = origin.serve(path, Reply(headers=(FRESH,)))
        assert nodes[0].get(url).ok
        (asked,) = receiver.roots(url)
        (fill,) = receiver.below(asked, "fill")
        (to_peer,) = receiver.below(fill, "GET")
        assert (to_peer.kind, to_peer["cache.source"], to_peer["cache.peer.outcome"]) == ("client", "peer", "miss")
        assert to_peer["server.port"] == int(nodes.peers[1].rpartition(":")[2])
        (home,) = receiver.below(to_peer, "GET")
        assert (home.kind, home.trace) == ("server", asked.trace)
        (at_home,) = receiver.below(home, "fill")
        look, to_origin = receiver.below(at_home, "GET", 2)  # a new home looks at the others before it goes there
        assert (look["cache.source"], to_origin["cache.source"]) == ("peer", "origin")
        told = str(origin.seen(path)[0].header("traceparent"))
        assert told.rpartition("-")[0] == f"00-{asked.trace}-{to_origin.id}"
        before = len(receiver.spans)
        quiet = origin.serve(nodes.path_with_home(1, origin), Reply(headers=(FRESH,)))
        assert nodes[0].get(quiet, headers=[("traceparent", SAMPLED[1][:-1] + "0")]).ok
        last = origin.serve(nodes.path_with_home(1, origin), Reply(headers=(FRESH,)))
        assert nodes[0].get(last).ok
        receiver.roots(last)
        assert not [span for span in receiver.spans[before:] if span.url == quiet]


def test_a_collector_that_is_away_costs_nothing_but_spans(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """The log has one line of it, requests go on, more of them than the queue has room for, and so does the end."""
    with bind_new_port() as closed:
        environment = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{closed.getsockname()[1]}/v1/traces",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
            "OTEL_BSP_MAX_QUEUE_SIZE": "20",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
        }
        proxy = start_proxy(environment=environment, shutdown_grace=0, trace_context_to_origins="none")
        url = origin.serve("/x", Reply(headers=(FRESH,)))
        assert proxy.get(url, headers=[SAMPLED, ("baggage", "a=b")]).ok
        assert [origin.seen("/x")[0].header(name) for name in ("traceparent", "baggage")] == [None, None]
        proxy.wait_for_log("traces: Transient error")
        for _ in range(100):
            assert proxy.get(url).hit
        began = time.monotonic()
        assert proxy.terminate() == 0
        assert time.monotonic() - began < 20  # it would try for longer than a minute
    assert sum("proxy-cache: traces: Transient" in line for line in proxy.log) == 1
    assert "the last spans could not be sent" in proxy.text()


def test_the_last_spans_are_sent_at_the_end(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    with Receiver() as receiver:
        proxy = start_proxy(environment=receiver.environment(OTEL_BSP_SCHEDULE_DELAY="600000"))
        proxy.wait_for_log("proxy-cache: traces of all requests to http://127.0.0.1:")
        url = origin.serve("/last", Reply())
        assert proxy.get(url).ok
        assert not receiver.spans
        assert proxy.terminate() == 0
        receiver.request(url)


def test_a_ratio(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    with Receiver() as receiver:
        environment = receiver.environment(
            OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.1"
        )
        proxy = start_proxy(environment=environment)
        url = origin.serve("/some", Reply(headers=(FRESH,)))
        for _ in range(1000):
            assert proxy.get(url).ok
        assert proxy.get(url, headers=[SAMPLED]).ok
        assert proxy.terminate() == 0
        spans = [span for span in receiver.spans if span.kind == "server"]
        assert 40 < len(spans) < 200  # of 1001; further off once in 10^9
        assert sum(span.trace == SAMPLED[1].split("-")[1] for span in spans) == 1
        # Who goes by the ids decides the same.
        assert all(int(span.trace[16:], 16) < 2**64 * 0.1 for span in spans if not span.parent)


def test_without_the_packages_there_are_none(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError('No module named opentelemetry')")
    environment = {"OTEL_TRACES_EXPORTER": "otlp", "PYTHONPATH": str(tmp_path)}
    proxy = start_proxy(environment=environment, execute=True)
    proxy.wait_for_log(
        r"traces off: not installed \(No module named opentelemetry\): pip install 'proxy-cache\[otel\]'"
    )
    url = origin.serve("/x", Reply())
    assert proxy.get(url, headers=[SAMPLED]).ok
    assert origin.seen("/x")[0].header("traceparent") == SAMPLED[1]
