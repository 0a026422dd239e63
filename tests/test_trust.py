"""Whose certificates are good: one answer for what is fetched into the cache and what is forwarded past it."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.agents import Response, Wire
from tests.support.certificates import folder_of, issued, self_signed, server_context
from tests.support.origin import Origin
from tests.support.proxy import SCRIPTS, Proxy

Start = Callable[..., Proxy]


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Origin]]:
    """Start an origin with a certificate."""
    with ExitStack() as stack:
        yield lambda certificate: stack.enter_context(Origin(tls=server_context(certificate)))


def asked(proxy: Proxy, origin: Origin, path: str) -> list[Response]:
    """A GET, and requests that are forwarded."""
    url = origin.url(path)
    return [proxy.get(url), proxy.request("HEAD", url + "-head"), proxy.request("POST", url + "-post", body=b"x")]


def test_the_systems_and_those_that_an_option_adds(
    start_proxy: Start, serve: Callable[[Path], Origin], tmp_path: Path
) -> None:
    """Also those of a private CA, and where an intermediate certificate of it is all that is known."""
    root, _, private = issued(tmp_path, "ours")
    _, intermediate, other = issued(tmp_path, "theirs")
    listed = self_signed(tmp_path / "listed.pem", name="listed")
    of_the_system, of_the_option, of_the_folder = serve(private), serve(other), serve(listed)
    proxy = start_proxy(
        environment={"SSL_CERT_FILE": str(root), "SSL_CERT_DIR": str(folder_of(listed, tmp_path / "folder"))},
        ssl_verify_upstream_trusted_ca=intermediate,
        origin_retries=0,
    )
    for origin in (of_the_system, of_the_option, of_the_folder):
        assert [response.status for response in asked(proxy, origin, "/x")] == [200] * 3


def test_certificates_that_are_not_good(start_proxy: Start, serve: Callable[[Path], Origin], tmp_path: Path) -> None:
    """The same error, whichever way a request goes."""
    expired = self_signed(tmp_path / "expired.pem", days=-1)
    elsewhere = self_signed(tmp_path / "elsewhere.pem", address="127.0.0.2")
    common_name = self_signed(tmp_path / "name.pem", address=None, name="127.0.0.1")
    unknown = self_signed(tmp_path / "unknown.pem")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(b"".join(each.read_bytes() for each in (expired, elsewhere, common_name)))
    proxy = start_proxy(ssl_verify_upstream_trusted_ca=trusted, origin_retries=0)
    for certificate in (expired, elsewhere, common_name, unknown):
        origin = serve(certificate)
        for response in asked(proxy, origin, "/x"):
            assert response.status == 502, certificate
            assert "error=tls_certificate_error" in (response.header("Proxy-Status") or ""), certificate
        assert origin.count() == 0


def test_it_may_change_while_it_runs(start_proxy: Start, serve: Callable[[Path], Origin], tmp_path: Path) -> None:
    """For both, and on connections of clients that have been refused before."""
    certificate = self_signed(tmp_path / "origin.pem")
    folder = folder_of(certificate, tmp_path / "trusted")
    origin = serve(certificate)
    proxy = start_proxy(control=True, origin_retries=0, environment={"SSL_CERT_FILE": str(tmp_path / "none")})
    with Wire(proxy.address) as wire:
        for number, (option, value, status) in enumerate(
            [
                ("ssl_insecure", "false", 502),
                ("ssl_insecure", "true", 200),
                ("ssl_insecure", "false", 502),
                ("ssl_verify_upstream_trusted_confdir", folder, 200),
                ("ssl_verify_upstream_trusted_confdir", tmp_path, 502),
                ("ssl_verify_upstream_trusted_ca", certificate, 200),
            ]
        ):
            assert proxy.set_option(f"{option}={value}") == "ok"
            assert [response.status for response in asked(proxy, origin, f"/{number}")] == [status] * 3, option
            if number < 3:
                url = origin.url(f"/{number}-again")
                wire.send(f"DELETE {url} HTTP/1.1\r\nHost: {origin.netloc}\r\n\r\n")
                assert wire.response().status == status
        refused = proxy.set_option(f"ssl_verify_upstream_trusted_ca={tmp_path / 'nothing.pem'}")
        assert refused.startswith("OptionsError: ssl_verify_upstream_trusted_ca: ")
        assert asked(proxy, origin, "/still")[0].status == 200


@pytest.mark.parametrize("also", ["", "origin_max_in_flight: 7\n"])
def test_a_file_that_is_replaced(
    start_proxy: Start, serve: Callable[[Path], Origin], tmp_path: Path, also: str
) -> None:
    """A CA that is renewed, or withdrawn, counts from SIGHUP on, be there another change or not, and also on
    connections that are open. What can't be read is not taken."""
    one, other = self_signed(tmp_path / "one.pem", name="one"), self_signed(tmp_path / "other.pem", name="other")
    trusted = tmp_path / "trusted.pem"
    shutil.copy(one, trusted)
    proxy = start_proxy(ssl_verify_upstream_trusted_ca=trusted, origin_retries=0)
    origins = serve(one), serve(other)

    def statuses(path: str) -> list[list[int]]:
        return [[response.status for response in asked(proxy, origin, path)] for origin in origins]

    def hang_up(said: str) -> None:
        mark = len(proxy.log)
        proxy.signal(signal.SIGHUP)
        proxy.wait_for_log(said, since=mark)

    assert statuses("/a") == [[200] * 3, [502] * 3]
    shutil.copy(other, trusted)
    (Path(proxy.options["confdir"]) / "config.yaml").write_text(also)
    hang_up("certificates read again$")
    assert statuses("/b") == [[502] * 3, [200] * 3]
    trusted.write_text("nothing")
    hang_up("certificates not read again: ")
    assert statuses("/c") == [[502] * 3, [200] * 3]


def test_a_final_dot_is_not_of_the_name(start_proxy: Start, serve: Callable[[Path], Origin], tmp_path: Path) -> None:
    """RFC 6066 §3."""
    certificate = self_signed(tmp_path / "origin.pem", "origin.test", address=None)
    origin = serve(certificate)
    proxy = start_proxy(scripts=[SCRIPTS / "names.py"], ssl_verify_upstream_trusted_ca=certificate, origin_retries=0)
    for host in ("origin.test", "origin.test."):
        url = f"https://{host}:{origin.port}/{host}"
        statuses = [proxy.request(method, url).status for method in ("GET", "HEAD", "DELETE")]
        assert statuses == [200] * 3, host
