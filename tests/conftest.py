"""Fixtures of the scenario tests: an origin, and proxies in front of it."""

from __future__ import annotations

import os
import signal
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest

from tests.support.certificates import self_signed, server_context
from tests.support.intercepted import InterceptedWire, ca_of, trusting
from tests.support.origin import Echo, Origin
from tests.support.proxy import Proxy

if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    # As in the background of a shell (POSIX, 2.12 Signals and Error Handling). What is started here would ignore it.
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

ONCE = {
    "test_api",
    "test_cli",
    "test_warm",
    "test_clock",
    "test_contention",
    "test_corruption",
    "test_logs",
    "test_service_manager",
    "test_signals",
    "test_upgrade",
    "test_container",
    "test_lost_bodies",
    "test_names",
    "test_client_certs",
    "test_https_clients",
    "test_stopped",
    "test_trace_ends",
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
    "test_status_page",
    "test_storms",
}
"""Modules that have no plain GETs to speak of, take long, or choose for themselves whether there is a fast lane."""

IN_TLS_TOO = {"test_coalescing", "test_forwarded", "test_half_closed", "test_storms", "test_streaming"}
"""Modules whose stories are told a second time, by clients of intercepted hosts, but for tests marked ``plain``."""

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
        once = name_of(metafunc.module) in ONCE
        lanes = [True] if once else [True, False]
        metafunc.parametrize("fast_lane", lanes, ids=["lane", "flows"][: len(lanes)], scope="module")
    if (
        name_of(metafunc.module) in IN_TLS_TOO
        and "origin_tls" in metafunc.fixturenames
        and not metafunc.definition.get_closest_marker("plain")
    ):
        metafunc.parametrize("in_tls", [False, True], ids=["plain", "tls"], indirect=True)


def name_of(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


@pytest.fixture(scope="session")
def origin_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("origin") / "origin.pem", "localhost")


@pytest.fixture
def in_tls(request: pytest.FixtureRequest) -> bool:
    """Whether clients ask for everything through TLS that ends in the proxy."""
    return bool(getattr(request, "param", False))


@pytest.fixture
def origin_tls(in_tls: bool, origin_certificate: Path) -> ssl.SSLContext | None:
    return server_context(origin_certificate) if in_tls else None


@pytest.fixture
def interception(in_tls: bool, origin_certificate: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of a proxy whose clients do, and tests whose clients do."""
    if not in_tls:
        return {}
    request.getfixturevalue("monkeypatch").setattr(request.module, "Wire", InterceptedWire, raising=False)
    return interception_of(origin_certificate)


def interception_of(certificate: Path) -> dict[str, Any]:
    return {"intercept_hosts": "127.0.0.1", "ssl_verify_upstream_trusted_ca": certificate}


def ask_in_tls(proxy: Proxy, in_tls: bool) -> None:
    """Have all agents of a proxy do so, or none."""
    InterceptedWire.ca = ca_of(proxy)
    if proxy.agents is not None:
        proxy.agents.tls = trusting(proxy) if in_tls else None


@pytest.fixture
def origin(origin_tls: ssl.SSLContext | None) -> Iterator[Origin]:
    """An origin on a port of its own, so that no two tests share a URL."""
    with Origin(tls=origin_tls) as running:
        yield running


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as running:
        yield running


@pytest.fixture
def start_proxy(
    tmp_path: Path, fast_lane: bool, in_tls: bool, interception: dict[str, Any]
) -> Iterator[Callable[..., Proxy]]:
    """Start a proxy with options of its own. It ends with the test, which fails if the proxy logged a traceback."""
    proxies: list[Proxy] = []

    def start(**options: Any) -> Proxy:
        folder = tmp_path / f"proxy{len(proxies)}"
        folder.mkdir()
        proxy = Proxy(folder, **{"fast_lane": fast_lane, **interception, **options})
        proxies.append(proxy)
        proxy.start()
        ask_in_tls(proxy, in_tls)
        return proxy

    yield start
    for proxy in proxies:
        proxy.close()
    for proxy in proxies:
        proxy.check_log()


@pytest.fixture(scope="module")
def shared_proxy(
    tmp_path_factory: pytest.TempPathFactory, fast_lane: bool, origin_certificate: Path, request: pytest.FixtureRequest
) -> Iterator[Proxy]:
    """One proxy with default options for all tests of a file. Its counters are those of all of them."""
    options = interception_of(origin_certificate) if name_of(request.module) in IN_TLS_TOO else {}
    with Proxy(tmp_path_factory.mktemp("proxy"), fast_lane=fast_lane, **options) as proxy:
        yield proxy
    proxy.forget_cache()  # a whole run would leave a gigabyte of them


@pytest.fixture
def proxy(shared_proxy: Proxy, in_tls: bool, interception: dict[str, Any]) -> Proxy:
    assert shared_proxy.returncode is None, f"the proxy ended:\n{shared_proxy.text()}"
    ask_in_tls(shared_proxy, in_tls)
    return shared_proxy
