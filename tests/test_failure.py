"""Origins that fail, bugs of our own, and the end of the process."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable

import pytest

from tests.support.agents import Agents, Wire, results
from tests.support.content import content
from tests.support.origin import PATIENCE, Gate, Origin, Reply
from tests.support.proxy import SCRIPTS, Proxy
from tests.support.tools import free_port, nobody_listens

FRESH = ("Cache-Control", "max-age=3600")


# -- origins -----------------------------------------------------------------------------------------------


def test_an_origin_that_is_down_is_a_502(proxy: Proxy) -> None:
    with nobody_listens() as nobody:
        response = proxy.get(f"http://{nobody}/x")
    assert response.status == 502
    assert response.complete
    assert "error=connection_refused" in (response.header("Proxy-Status") or "")
    assert response.header("Cache-Status")


def test_an_origin_of_unknown_name_is_a_502(proxy: Proxy) -> None:
    response = proxy.get("http://does-not-exist.invalid/x")
    assert response.status in (502, 504)
    assert "error=d" in (response.header("Proxy-Status") or "")


def test_an_origin_that_is_too_slow_is_a_504(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(origin_timeout=1, origin_retries=1)
    url = origin.serve("/never", Reply(gate=Gate()))
    response = proxy.get(url)
    assert response.status == 504
    assert response.complete
    assert "error=http_response_timeout" in (response.header("Proxy-Status") or "")
    assert origin.count("/never") == 2
    assert proxy.metrics().value("origin_fetch_retries_total") == 1


def test_an_origin_that_stops_in_the_middle_is_given_up(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """No byte for `origin_timeout` seconds: nobody waits for ever, nobody takes it for complete."""
    proxy = start_proxy(origin_timeout=1)
    url = origin.serve("/stuck", Reply(size=100_000, body_gate=Gate(), gate_at=50_000))
    response = proxy.get(url)
    assert response.status == 200
    assert not response.complete
    proxy.wait_for_metric("origin_fetches_in_flight", 0)
    proxy.wait_until_idle()
    assert proxy.value("cache_entries") == 0


def test_an_origin_that_speaks_no_http_is_a_502(proxy: Proxy, origin: Origin) -> None:
    response = proxy.get(origin.serve("/garbage", Reply(fail="garbage")))
    assert response.status == 502
    assert response.complete
    assert response.header("Proxy-Status")


@pytest.mark.parametrize(
    "trouble",
    [Reply(status=429), Reply(status=500), Reply(status=503), Reply(fail="reset"), Reply(fail="close")],
    ids=["429", "500", "503", "reset", "close"],
)
def test_trouble_that_passes_is_not_seen(start_proxy: Callable[..., Proxy], origin: Origin, trouble: Reply) -> None:
    """Three times trouble, then an answer: the agent sees the answer, and it is stored."""
    proxy = start_proxy()
    url = origin.serve("/flaky", trouble, trouble, trouble, Reply(size=5000))
    response = proxy.get(url, expect=5000)
    assert response.ok
    assert origin.count("/flaky") == 4
    assert proxy.value("origin_fetch_retries_total") == 3
    assert proxy.get(url, expect=5000).hit


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_final_error_is_passed_on_as_it_came(proxy: Proxy, origin: Origin, status: int) -> None:
    """After four tries: status, header fields and body of the origin; never stored."""
    url = origin.serve("/broken", Reply(status=status, headers=(FRESH, ("X-Incident", "17"), ("ETag", '"e"'))))
    for turn in range(2):
        response = proxy.get(url)
        assert response.status == status
        assert response.complete
        assert response.header("X-Incident") == "17"
        assert response.body == content("/broken", 1000)
        assert not response.hit
        assert origin.count("/broken") == 4 * (turn + 1)


def test_an_origin_that_names_a_time_is_given_it(proxy: Proxy, origin: Origin) -> None:
    """Retry-After of a second is waited for."""
    url = origin.serve("/busy", Reply(status=503, headers=(("Retry-After", "1"),)), Reply())
    assert proxy.get(url).ok
    first, second = origin.seen("/busy")
    assert second.at - first.at >= 1


def test_an_origin_that_names_a_long_time_is_believed(proxy: Proxy, origin: Origin) -> None:
    """Retry-After of a minute: no agent waits for that, it is told."""
    url = origin.serve("/closed", Reply(status=503, headers=(("Retry-After", "60"),)))
    response = proxy.get(url)
    assert response.status == 503
    assert response.header("Retry-After") == "60"
    assert origin.count("/closed") == 1


def test_nothing_but_gets_is_retried(proxy: Proxy, origin: Origin) -> None:
    url = origin.serve("/once", Reply(status=503), Reply())
    assert proxy.request("POST", url, body=b"x").status == 503
    assert origin.count("/once") == 1


def test_stale_if_error_bridges_an_outage(proxy: Proxy, origin: Origin) -> None:
    stale = (("Cache-Control", "max-age=0, stale-if-error=600"), ("ETag", '"v1"'))
    url = origin.serve("/index", Reply(headers=stale), Reply(status=500))
    assert proxy.get(url).ok
    proxy.wait_until_idle()
    response = proxy.get(url)
    assert response.ok
    assert response.body == content("/index", 1000)


def test_a_failed_post_to_a_dead_origin_is_a_502(proxy: Proxy) -> None:
    with nobody_listens() as nobody:
        response = proxy.request("POST", f"http://{nobody}/x", body=b"x")
    assert response.status == 502


def test_a_proxy_that_is_its_own_origin(proxy: Proxy) -> None:
    """A loop ends in an error at once, and not when everything is used up."""
    response = proxy.get(f"{proxy.url}/loop")
    assert response.status in (400, 502, 508), response
    assert proxy.returncode is None


def test_two_proxies_that_are_each_others_parent(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """A loop over a second proxy is recognised by Via."""
    port = free_port()
    first = start_proxy(mode=f"upstream:http://127.0.0.1:{port}")
    start_proxy(mode=f"upstream:{first.url}", listen_port=port)
    response = first.get(origin.url("/loop"))
    assert response.status in (502, 508), response
    assert origin.count() == 0


# -- bugs of our own ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        "proxy_cache.caching.cache:Cache.get",
        "proxy_cache.caching.cache:Cache.get_now",
        "proxy_cache.caching.cache:Cache.start_miss",
        "proxy_cache.caching.cache:Cache.finish_miss",
        "proxy_cache.caching.fills.table:FillTable.start",
        "proxy_cache.caching.fills.table:FillTable.find",
        "proxy_cache.store.store:Store.lookup",
        "proxy_cache.mitm.flow_requests:means_its_target",
        "proxy_cache.mitm.flow_requests:target_of",
        "proxy_cache.upstream.origin:OriginClient.get",
    ],
)
def test_a_bug_lets_nothing_through_to_the_origin(
    start_proxy: Callable[..., Proxy], origin: Origin, where: str
) -> None:
    """Fail closed: 502 or 503, a traceback in the log, no request past the limiter, and the next one is served."""
    options = {"fast_lane": False} if where.startswith("proxy_cache.mitm.") else {}
    in_the_lane_only = where.endswith((".start_miss", ".finish_miss"))
    if in_the_lane_only:
        options = {"fast_lane": True}
    proxy = start_proxy(scripts=[SCRIPTS / "breaker.py"], environment={"BREAK": where}, **options)
    proxy.expects_errors = True
    # A directive makes it more than plain: such a miss goes the long way in the lane, too.
    headers = () if in_the_lane_only else (("Cache-Control", "max-age=600"),)
    response = proxy.get(origin.url("/break-me"), headers=headers)
    assert response.status in (502, 503), response
    assert response.complete
    proxy.wait_for_log("broken by the test")
    assert "Traceback" in proxy.text()
    assert origin.count("/break-me") == (1 if where.endswith(".finish_miss") else 0)
    assert proxy.get(origin.url("/fine")).ok
    proxy.wait_for_metric("inflight_requests", 0)
    proxy.wait_for_metric("origin_fetches_in_flight", 0)


@pytest.mark.parametrize("size", [1000, 300_000, 3_000_000])
@pytest.mark.parametrize("how", ["10-more", "10-less"])
def test_a_bug_in_a_length_does_not_mix_responses_up(
    start_proxy: Callable[..., Proxy], origin: Origin, how: str, size: int
) -> None:
    """A body that is not as long as its head tells, fetched and stored: whatever the reason, the next response on the
    connection must not be taken for the rest of it. It is never sent on it; the log says who has cut the first."""
    proxy = start_proxy(scripts=[SCRIPTS / "wrong_length.py"])
    proxy.expects_errors = True
    fine = origin.serve("/fine", Reply(body=b"of-another-request"))
    assert proxy.get(fine).ok
    path = f"/tells/{how}/{size}"
    url = origin.serve(path, Reply(size=size))
    for fields in ("", "Cache-Control: max-age=600\r\n"):
        with Wire(proxy.address) as wire:
            wire.send(f"GET {url} HTTP/1.1\r\nHost: {origin.netloc}\r\n{fields}\r\n")
            wire.send(f"GET {fine} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
            head, _, rest = wire.rest().partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 200"):
            assert b"of-another-request" not in rest
            assert content(path, size).startswith(rest)
            assert len(rest) <= size - 10 * (how == "10-less")
            # What is too long may have ended at the last byte that was told.
            if how == "10-more" or len(rest) < size - 10:
                proxy.wait_for_log(rf"{path} 200 \d+ B .* cut=proxy")
        proxy.settled()
    assert origin.count(path) == 1


# -- the end -----------------------------------------------------------------------------------------------


def test_sigterm_when_idle(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(shutdown_grace=120)
    assert proxy.get(origin.url("/x")).ok
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0


def test_sigterm_lets_running_responses_finish(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """A cold and a forwarded one; nobody new is let in; what was fetched is there after a restart."""
    proxy = start_proxy(shutdown_grace=60)
    gate = Gate()
    cold = proxy.start_get(
        origin.serve("/cold", Reply(size=2_000_000, body_gate=gate, gate_at=1_000_000)), expect=2_000_000
    )
    post = proxy.start_request(
        "POST", origin.serve("/post", Reply(size=2000, body_gate=gate, gate_at=1000)), body=b"x", expect=2000
    )
    cold.received(1_000_000)
    post.received(1000)
    proxy.signal(signal.SIGTERM)
    proxy.eventually(lambda: refuses(proxy.address), told="the end of accepting")
    assert proxy.returncode is None
    gate.open()
    assert all(response.ok for response in results([cold, post]))
    assert proxy.wait() == 0
    proxy.start()
    assert proxy.get(origin.url("/cold"), expect=2_000_000).hit


def refuses(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_does_not_wait_for_ever(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """After `shutdown_grace` seconds what is still running is cut, and does not look complete."""
    proxy = start_proxy(shutdown_grace=1)
    fetch = proxy.start_get(origin.serve("/never", Reply(size=2_000_000, body_gate=Gate(), gate_at=1_000_000)))
    fetch.received(1_000_000)
    began = time.monotonic()
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0
    assert time.monotonic() - began >= 0.9
    assert not fetch.result().complete


def test_sigterm_with_a_full_queue(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Queued requests are either served in the time that is left or told 503; no one hangs."""
    proxy = start_proxy(origin_max_in_flight=1, shutdown_grace=1, origin_queue_timeout=60)
    gate = Gate()
    origin.serve_prefix("/held/", Reply(gate=gate))
    fetches = [proxy.start_get(origin.url(f"/held/{n}")) for n in range(5)]
    proxy.wait_for_metric("origin_fetches_queued", 4)
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0
    for response in results(fetches):
        assert not response.ok
    assert origin.count("/held/*") == 1


def test_an_idle_keep_alive_connection_does_not_hold_up_the_end(
    start_proxy: Callable[..., Proxy], origin: Origin
) -> None:
    proxy = start_proxy(shutdown_grace=120)
    with Wire(proxy.address) as wire:
        wire.send(f"GET {origin.url('/x')} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
        assert wire.response().status == 200
        proxy.wait_for_metric("inflight_requests", 0)
        proxy.signal(signal.SIGTERM)
        assert proxy.wait() == 0


def test_clients_that_send_nonsense_hurt_nobody(proxy: Proxy, origin: Origin) -> None:
    for nonsense in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\n\r\n",
        b"GET http://127.0.0.1:notaport/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \r\n\r\n",
        b"GET http://127.0.0.1/ HTTP/9.9\r\n\r\n",
        b"A" * 100_000,
    ):
        with Wire(proxy.address) as wire:
            try:
                wire.send(nonsense)
                wire.finish()
                wire.rest()
            except OSError:
                pass
    assert proxy.get(origin.url("/fine")).ok
    with Agents(proxy.address) as agents:
        assert agents.get(origin.url("/fine")).result().hit
