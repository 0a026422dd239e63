"""Fixtures of the scenario tests: an origin, and proxies in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.origin import Echo, Origin
from tests.support.proxy import Proxy


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
def start_proxy(tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """Start a proxy with options of its own. It ends with the test, which fails if the proxy logged a traceback."""
    proxies: list[Proxy] = []

    def start(**options: Any) -> Proxy:
        folder = tmp_path / f"proxy{len(proxies)}"
        folder.mkdir()
        proxy = Proxy(folder, **options)
        proxies.append(proxy)
        return proxy.start()

    yield start
    for proxy in proxies:
        proxy.close()
    for proxy in proxies:
        proxy.check_log()


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One proxy with default options for all tests of a file. Its counters are those of all of them."""
    with Proxy(tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: Proxy) -> Proxy:
    assert shared_proxy.returncode is None, f"the proxy ended:\n{shared_proxy.text()}"
    return shared_proxy
