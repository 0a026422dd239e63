"""mitmproxy's own options, and other scripts, that change requests and responses: with a cache they do what they do
without one. What is looked up, fetched and stored is the request as they leave it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.agents import Wire
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

Start = Callable[..., Proxy]

SCRIPT = """
def requestheaders(flow):
    if flow.request.path == "/early":
        flow.request.path = "/rewritten-early"

def request(flow):
    if flow.request.path == "/late":
        flow.request.path = "/rewritten-late"
"""


@pytest.fixture(scope="module")
def rewriting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with all of it. (There is no fast lane then.)"""
    folder = tmp_path_factory.mktemp("rewriting")
    files = folder / "files"
    files.mkdir()
    (files / "tool.txt").write_text("from the file")
    script = folder / "rewrite.py"
    script.write_text(SCRIPT)
    with Proxy(
        folder,
        scripts=[script],
        map_remote=["|/mapped/|/real/", "|/again/|/again/once-", "|~u /nothing/|x|y"],
        map_local=[f"|/local/|{files}"],
        modify_headers=["|~q & ~u /asked/|X-Added|yes", "|~s & ~u /told/|X-Told|yes", "|~s & ~u /told/|X-Secret|"],
        origin_retries=0,
        modify_body=["|~s & ~u /changed/|0|zero", "|~q & ~u /upload/|hello|goodbye"],
    ) as proxy:
        yield proxy


def test_another_url_is_fetched_and_is_the_key(rewriting: Proxy, origin: Origin) -> None:
    origin.serve("/real/x", Reply(size=5000))
    for turn in range(2):
        response = rewriting.get(origin.url("/mapped/x"))
        assert response.body == origin.body_of("/real/x", 5000)
        assert response.hit == (turn == 1)
    assert rewriting.get(origin.url("/real/x")).hit
    assert [request.target for request in origin.seen()] == ["/real/x"]


@pytest.mark.parametrize("body", [b"", b"hello"])
def test_for_other_methods_too(rewriting: Proxy, origin: Origin, body: bytes) -> None:
    """What is stored under the URL that a request is sent to is what it invalidates."""
    url = origin.serve("/real/x", Reply(size=5000))
    assert rewriting.get(url).ok
    assert rewriting.request("PUT", origin.url("/mapped/x"), body=body).ok
    assert [(request.method, request.target, request.body) for request in origin.seen()[1:]] == [
        ("PUT", "/real/x", body)
    ]
    assert not rewriting.get(url).hit
    assert rewriting.request("HEAD", origin.url("/mapped/x")).ok
    assert "/mapped/x" not in {request.target for request in origin.seen()}


def test_other_uploads_are_streamed(rewriting: Proxy, origin: Origin) -> None:
    """Not all of them are here before the origin hears of it."""
    with Wire(rewriting.address) as wire:
        wire.send(f"POST {origin.url('/other')} HTTP/1.1\r\nHost: {origin.netloc}\r\nContent-Length: 5\r\n\r\nhe")
        origin.wait_for("/other")
        wire.send("llo")
        assert wire.response().status == 200
    assert origin.seen("/other")[0].body == b"hello"


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("PUT", b"hello")])
def test_once(rewriting: Proxy, origin: Origin, method: str, body: bytes) -> None:
    assert rewriting.request(method, origin.url("/again/x"), body=body).ok
    assert [request.target for request in origin.seen()] == ["/again/once-x"]


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("HEAD", b""), ("POST", b"hello")])
def test_files_in_place_of_origins(rewriting: Proxy, origin: Origin, method: str, body: bytes) -> None:
    for _ in range(2):
        response = rewriting.request(method, origin.url("/local/tool.txt"), body=body)
        assert response.status == 200
        if method != "HEAD":
            assert response.body == b"from the file"
    assert rewriting.get(origin.url("/local/nothing")).status == 404
    assert origin.count() == 0


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("HEAD", b""), ("POST", b"hello")])
def test_fields_of_requests(rewriting: Proxy, origin: Origin, method: str, body: bytes) -> None:
    url = origin.url("/asked/x")
    assert rewriting.request(method, url, body=body).ok
    assert origin.seen()[0].header("X-Added") == "yes"


def test_fields_of_responses(rewriting: Proxy, origin: Origin) -> None:
    """What is stored is as the origin sent it; each client gets it as it is changed."""
    fields = (("Cache-Control", "max-age=60"), ("X-Secret", "1"))
    url = origin.serve("/told/x", Reply(headers=fields))
    for hit in (False, True):
        response = rewriting.get(url)
        assert response.hit == hit
        assert response.header("X-Told") == "yes"
        assert response.header("X-Secret") is None
    assert rewriting.request("POST", url, body=b"x").header("X-Told") == "yes"


@pytest.mark.parametrize("chunked", [True, False])
def test_bodies_of_responses(rewriting: Proxy, origin: Origin, chunked: bool) -> None:
    """Read whole, as mitmproxy does for this; others are streamed all the same."""
    body = b"0123" * 50_000
    url = origin.serve("/changed/x", Reply(body=body, size=len(body), chunked=chunked))
    for hit in (False, True):
        response = rewriting.get(url)
        assert response.hit == hit
        assert response.body == body.replace(b"0", b"zero")
    assert rewriting.request("POST", url, body=b"x").body == body.replace(b"0", b"zero")
    broken = origin.serve("/changed/broken", Reply(size=100_000, cut=50_000))
    assert rewriting.get(broken).status == 502
    for method in ("GET", "POST"):
        gate = Gate()
        other = origin.serve(f"/{method}", Reply(size=2000, body_gate=gate, gate_at=1000))
        fetch = rewriting.start_request(method, other, expect=2000)
        fetch.received(1000)
        gate.open()
        assert fetch.result().ok


def test_bodies_of_requests(rewriting: Proxy, origin: Origin) -> None:
    assert rewriting.request("POST", origin.url("/upload/x"), body=b"hello you").ok
    assert origin.seen()[0].body == b"goodbye you"


@pytest.mark.parametrize("when", ["early", "late"])
def test_scripts(rewriting: Proxy, origin: Origin, when: str) -> None:
    """Of both hooks for requests, and although they come after ours."""
    for hit in (False, True):
        assert rewriting.get(origin.url(f"/{when}")).hit == hit
    assert [request.target for request in origin.seen()] == [f"/rewritten-{when}"]


def test_hosts_that_are_blocked_get_no_uploads(start_proxy: Start, origin: Origin) -> None:
    """``block_list`` is asked once a request is complete, unless its body is on its way by then."""
    proxy = start_proxy(block_list="/~u blocked/403")
    for method, body in (("GET", b""), ("POST", b"hello")):
        assert proxy.request(method, origin.url("/blocked"), body=body).status == 403
        assert proxy.request(method, origin.url("/other"), body=body).ok
    assert {request.target for request in origin.seen()} == {"/other"}
