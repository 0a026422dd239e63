"""Hosts of ``intercept_hosts``: TLS ends in the proxy, and what is asked for in it is cached like the rest."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agents import Wire
from tests.support.certificates import self_signed, server_context
from tests.support.intercepted import intercepted, is_intercepted, trusting
from tests.support.origin import Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "origin.pem", "localhost")


@pytest.fixture
def secure(certificate: Path) -> Iterator[Origin]:
    with Origin(tls=server_context(certificate)) as running:
        yield running


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory, certificate: Path, fast_lane: bool) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    with Proxy(
        folder, fast_lane=fast_lane, intercept_hosts="127.0.0.1", ssl_verify_upstream_trusted_ca=certificate,
        origin_retries=0,
    ) as proxy:  # fmt: skip
        yield proxy


def get(wire: Wire, origin: Origin, target: str, *lines: str) -> None:
    fields = "".join(f"{line}\r\n" for line in lines)
    wire.send(f"GET {target} HTTP/1.1\r\nHost: {origin.netloc}\r\n{fields}\r\n")


@pytest.mark.parametrize("size", [0, 1, 1000, 16_000, 20_000, 100_000, 300_000, 3_000_000])
def test_a_miss_and_hits(proxy: Proxy, secure: Origin, size: int) -> None:
    secure.serve("/x", Reply(size=size))
    with intercepted(proxy, secure) as wire, intercepted(proxy, secure) as other:
        assert is_intercepted(wire)
        for client in (wire, wire, other, other, wire):
            get(client, secure, "/x")
            assert client.response().body == secure.body_of("/x", size)
        get(wire, secure, "/x")
        assert wire.response().hit
    assert secure.count("/x") == 1
