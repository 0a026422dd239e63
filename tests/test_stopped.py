"""The process is stopped for a while, or its machine is, and goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from tests.support.agents import results
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy


def test_what_came_while_the_process_was_stopped_is_not_given_up(
    start_proxy: Callable[..., Proxy], origin: Origin
) -> None:
    """When it goes on the time of all is up, and all have their answers in their sockets."""
    proxy = start_proxy(origin_timeout=8, origin_retries=0)
    gate = Gate()
    fetches = 30
    urls = [origin.serve(f"/{number}", Reply(size=100, gate=gate)) for number in range(fetches)]
    agents = [proxy.start_get(url) for url in urls]
    origin.wait(lambda: len(origin.requests) == fetches, told="all requests")
    proxy.signal(signal.SIGSTOP)
    try:
        gate.open()
        time.sleep(9)  # what this is about: longer than origin_timeout
    finally:
        proxy.signal(signal.SIGCONT)
    assert all(answer.ok for answer in results(agents))
    assert len(origin.requests) == fetches
