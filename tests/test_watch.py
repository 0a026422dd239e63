"""Fills that get nowhere: whatever the reason, they end, and are counted and told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.origin import Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]
NO_STORE = (("Cache-Control", "no-store"),)
LARGE = 30_000_000


def test_a_client_that_reads_nothing_does_not_hold_a_slot_for_ever(start_proxy: Start, origin: Origin) -> None:
    """Also where nobody queues: nothing comes in or goes out for `origin_timeout`, and there is no room for it."""
    proxy = start_proxy(origin_timeout=1, spill_max=0, origin_max_in_flight=2)
    stalled = proxy.start_get(origin.serve("/large", Reply(size=LARGE, headers=NO_STORE)), paused=True)
    proxy.wait_for_metric("origin_fetches_total", 1, outcome="stalled")
    proxy.wait_for_metric("origin_fetches_in_flight", 0)
    assert proxy.status()["fills"] == []
    line = proxy.wait_for_log(r"/large: nothing has come in or gone out for \d s, .*; (.*)")[1]
    assert "running" in line
    assert f"of {LARGE} (not kept, held up by its readers" in line
    assert "1 waiters, 1 with a client" in line
    stalled.resume()
    assert not stalled.result().complete


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_client_that_pauses_loses_nothing(start_proxy: Start, origin: Origin, chunked: bool) -> None:
    """It writes to a slow disk, say. What it has not read is set aside, and the origin's last byte frees the slot."""
    proxy = start_proxy(origin_timeout=1, origin_max_in_flight=2)
    url = origin.serve("/large", Reply(size=LARGE, headers=NO_STORE, chunked=chunked))
    paused = proxy.start_get(url, paused=True, expect=LARGE)
    request = origin.wait_for("/large")
    origin.wait(lambda: request.answered, told="the last byte of what nobody reads")
    proxy.wait_for_metric("origin_fetches_in_flight", 0)
    paused.resume()
    assert paused.result().ok
    proxy.settled()
    assert proxy.value("origin_fetches_total", outcome="stalled") == 0
    assert proxy.value("spilled_bytes") == 0


def test_one_of_two_clients_reads_nothing(start_proxy: Start, origin: Origin) -> None:
    """The other one, for whom it is in the way, gets all of it."""
    proxy = start_proxy(origin_timeout=1, spill_max=0, cache_max_size="10m", origin_max_in_flight=2)
    url = origin.serve("/large", Reply(size=LARGE, body_gate=None))
    stalled = proxy.start_get(url, paused=True)
    stalled.head()
    reads = proxy.start_get(url, expect=LARGE)
    assert reads.result().ok
    proxy.wait_until_idle()
    stalled.resume()
    assert not stalled.result().complete
