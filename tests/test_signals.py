"""What each signal does, as the table in docs/operating.md has it. SIGHUP is in ``test_hangup.py``, SIGSTOP and SIGCONT
in ``test_stopped.py``, SIGKILL in ``test_store.py``."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from tests.support.agents import Fetch
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]


def half_of_it(proxy: Proxy, origin: Origin, gate: Gate) -> Fetch:
    """A response that is under way, and goes on when the gate opens."""
    url = origin.serve("/half", Reply(size=100_000, body_gate=gate, gate_at=50_000))
    fetch = proxy.start_get(url, expect=100_000)
    fetch.received(50_000)
    return fetch


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_it_stops_when_running_responses_have_finished(start_proxy: Start, origin: Origin, number: int) -> None:
    """Also if it is told again, by a user who is impatient or by a second supervisor."""
    proxy = start_proxy(shutdown_grace=120)
    gate = Gate()
    fetch = half_of_it(proxy, origin, gate)
    proxy.signal(number)
    proxy.wait_for_log("1 responses to finish")
    for again in (number, signal.SIGTERM, signal.SIGINT):
        proxy.signal(again)
    assert proxy.status()["ready"] is False, "it is still there"
    gate.open()
    assert fetch.result().ok
    assert proxy.wait() == 0
    assert proxy.text().count("proxy-cache: stopped") == 1
    proxy.start()
    assert proxy.get(origin.url("/half"), expect=100_000).hit


def test_sigquit_ends_it_at_once_and_what_was_stored_is_there(start_proxy: Start, origin: Origin) -> None:
    """As SIGKILL does: no response is finished, and none looks complete."""
    proxy = start_proxy(shutdown_grace=120)
    url = origin.serve("/x", Reply(size=10_000))
    assert proxy.get(url, expect=10_000).ok
    # The row follows the body.
    with closing(sqlite3.connect(f"file:{proxy.cache_dir}/index.sqlite?mode=ro", uri=True)) as database:
        count = "SELECT count(*) FROM entries JOIN heads USING (id)"
        proxy.eventually(lambda: database.execute(count).fetchone(), lambda found: found == (1,), told="the row")
    fetch = half_of_it(proxy, origin, Gate())
    proxy.signal(signal.SIGQUIT)
    assert proxy.wait() == -signal.SIGQUIT
    assert not fetch.result().complete
    proxy.start()
    assert proxy.get(url, expect=10_000).hit


@pytest.mark.parametrize(
    ("number", "told"), [(signal.SIGUSR1, r"^Tasks"), (signal.SIGUSR2, r"^# Thread: MainThread")], ids=["USR1", "USR2"]
)
def test_it_tells_what_it_is_doing_and_goes_on(start_proxy: Start, origin: Origin, number: int, told: str) -> None:
    """mitmproxy's own: into the log."""
    proxy = start_proxy()
    gate = Gate()
    fetch = half_of_it(proxy, origin, gate)
    proxy.signal(number)
    proxy.wait_for_log(told)
    gate.open()
    assert fetch.result().ok
    assert proxy.get(origin.url("/half"), expect=100_000).hit
    assert proxy.value("hook_errors_total") == 0
