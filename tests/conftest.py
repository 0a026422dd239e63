"""Fixtures of the scenario tests: an origin, and proxies in front of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.origin import Echo, Origin
from tests.support.proxy import Proxy

ONCE = {
    "test_clock",
    "test_contention",
    "test_corruption",
    "test_logs",
    "test_lost_bodies",
    "test_names",
    "test_stopped",
    "test_tunnel",
    "test_modes",
    "test_options",
    "test_duckdb",
    "test_real_clients",
    "test_lane",
    "test_store",
    "test_reload",
    "test_expired",
    "test_rewriting",
    "test_trust",
    "test_hangup",
    "test_silent_origins",
    "test_compat",
    "test_http2",
}
"""Modules that have no plain GETs to speak of, take long, or choose for themselves whether there is a fast lane."""

# Which inputs are tried does not change from run to run, and nothing depends on how fast a machine is. New inputs:
# `just test --hypothesis-profile=random`.
hypothesis.settings.register_profile(
    "fixed", deadline=None, database=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("random", hypothesis.settings.get_profile("fixed"), derandomize=False)
hypothesis.settings.load_profile("fixed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: a third of its time a test waits, for what must not happen or for a client."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All else that a proxy promises is tested with the fast lane and without: nobody may see a difference."""
    if "fast_lane" in metafunc.fixturenames:
        once = metafunc.module.__name__.rpartition(".")[2] in ONCE
        lanes = [True] if once else [True, False]
        metafunc.parametrize("fast_lane", lanes, ids=["lane", "flows"][: len(lanes)], scope="module")


@pytest.fixture
def origin() -> Iterator[Origin]:
    """An origin on a port of its own, so that no two tests share a URL."""
    with Origin() as running:
        yield running


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as running:
        yield running


@pytest.fixture
def start_proxy(tmp_path: Path, fast_lane: bool) -> Iterator[Callable[..., Proxy]]:
    """Start a proxy with options of its own. It ends with the test, which fails if the proxy logged a traceback."""
    proxies: list[Proxy] = []

    def start(**options: Any) -> Proxy:
        folder = tmp_path / f"proxy{len(proxies)}"
        folder.mkdir()
        proxy = Proxy(folder, **{"fast_lane": fast_lane, **options})
        proxies.append(proxy)
        return proxy.start()

    yield start
    for proxy in proxies:
        proxy.close()
    for proxy in proxies:
        proxy.check_log()


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory, fast_lane: bool) -> Iterator[Proxy]:
    """One proxy with default options for all tests of a file. Its counters are those of all of them."""
    with Proxy(tmp_path_factory.mktemp("proxy"), fast_lane=fast_lane) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: Proxy) -> Proxy:
    assert shared_proxy.returncode is None, f"the proxy ended:\n{shared_proxy.text()}"
    return shared_proxy
