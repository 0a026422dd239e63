"""Requests to an origin, byte for byte."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy_cache.semantics.headers import Fields, Headers
from proxy_cache.semantics.keys import Target
from proxy_cache.upstream.dial import Dialler
from proxy_cache.upstream.origin import OriginClient, OriginError, OriginSettings
from proxy_cache.upstream.trust import Trust
from tests.support.certificates import folder_of, self_signed, server_context

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Odd: \xff\r\n\r\nok"


def exchange(path: str, fields: Fields, answers: int = 1) -> tuple[list[bytes], list[bytes], int]:
    """GETs of one client: the received requests, the returned bodies, and the number of connections."""
    requests: list[bytes] = []
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while True:
                requests.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(ANSWER)
        except asyncio.IncompleteReadError:
            writer.close()

    async def ask() -> list[bytes]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = OriginClient(OriginSettings(timeout=5, retries=0))
        try:
            target = Target.of("http", "127.0.0.1", server.sockets[0].getsockname()[1], path)
            bodies = []
            for _ in range(answers):
                response = await client.get(target, Headers(fields))
                assert response.status == 200
                assert response.content_length == 2
                assert (b"X-Odd", b"\xff") in response.headers.fields
                body = b""
                while chunk := await response.read():
                    body += chunk
                bodies.append(body)
                response.close()
            return bodies
        finally:
            await client.close()
            server.close()

    bodies = asyncio.run(ask())
    return requests, bodies, connections


@pytest.mark.parametrize("path", ["/", "/a%2Fb/../c", "/?", "/a?b=%zz&c=d+e", "/ü", "//a;b"])
def test_the_url_and_the_fields_go_as_they_came(path: str) -> None:
    fields = ((b"X-ODD", b"\xff\xc3\xbc"), (b"accept", b"a"), (b"Accept", b"b"), (b"x-empty", b""))
    (request,), bodies, _ = exchange(path, fields)
    line, host, *lines = request.split(b"\r\n")
    assert line == f"GET {path} HTTP/1.1".encode()
    assert host.startswith(b"Host: 127.0.0.1:")
    assert lines == [b"X-ODD: \xff\xc3\xbc", b"accept: a", b"Accept: b", b"x-empty: ", b"", b""]
    assert bodies == [b"ok"]


def test_a_connection_is_used_again() -> None:
    requests, bodies, connections = exchange("/", (), answers=3)
    assert len(requests) == 3
    assert bodies == [b"ok"] * 3
    assert connections == 1


@pytest.mark.parametrize("value", [b"a\r\nX-Smuggled: b", b"a\nb", b"a\rb", b"a\0b", b"a\r\n\r\nGET / HTTP/1.1"])
def test_no_line_ends_early(value: bytes) -> None:
    """RFC 9110 §5.5"""
    with pytest.raises(OriginError) as refused:
        exchange("/", ((b"X", value),))
    assert refused.value.error == "http_request_error"


def test_what_is_no_path_is_not_asked_for() -> None:
    with pytest.raises(OriginError, match="not a path"):
        exchange("*", ())


def test_what_is_trusted_may_change_while_it_runs(tmp_path: Path) -> None:
    """They apply to new connections, and old ones are not reused."""
    certificate = self_signed(tmp_path / "origin.pem")
    folder = folder_of(certificate, tmp_path / "trusted")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def ask() -> list[int | str]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context(certificate))
        target = Target.of("https", "127.0.0.1", server.sockets[0].getsockname()[1], "/")
        client = OriginClient(OriginSettings())
        results: list[int | str] = []
        try:
            for trust in (
                Trust(),
                Trust(verify=False),
                Trust(),
                Trust(added_file=str(certificate)),
                Trust(),
                Trust(added_folder=str(folder)),
                Trust(added_folder=str(tmp_path)),
            ):
                client.configure(OriginSettings(timeout=5, retries=0, trust=trust))
                try:
                    response = await client.get(target, Headers())
                    while await response.read():
                        pass
                    results.append(response.status)
                except OriginError as error:
                    results.append(error.error)
        finally:
            await client.close()
            server.close()
        return results

    bad = "tls_certificate_error"
    assert asyncio.run(ask()) == [bad, 200, bad, 200, bad, 200, bad]


def test_a_connection_that_was_opened_under_other_settings_is_not_kept() -> None:
    """They change while a connection is being opened."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(ANSWER)
        except asyncio.IncompleteReadError:
            writer.close()

    async def ask() -> int:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        target = Target.of("http", "127.0.0.1", server.sockets[0].getsockname()[1], "/")
        settings = OriginSettings(timeout=5, retries=0)
        opened = 0

        class Reconfigured(Dialler):
            async def open(self, *which: Any, **how: Any) -> asyncio.Transport:
                nonlocal opened
                opened += 1
                transport = await super().open(*which, **how)
                if opened == 1:
                    client.configure(settings)
                return transport

        client = OriginClient(settings, dialler=Reconfigured())
        try:
            for _ in range(3):
                response = await client.get(target, Headers())
                while await response.read():
                    pass
            return opened
        finally:
            await client.close()
            server.close()

    assert asyncio.run(ask()) == 2
