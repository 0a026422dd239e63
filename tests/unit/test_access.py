"""The checked address is the dialled one: what would be dialled is written down here, and no packet leaves."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest

from proxy_cache.semantics.keys import Target
from proxy_cache.upstream import dial
from proxy_cache.upstream.access import Access, Denied
from proxy_cache.upstream.destinations import Destinations, Rule
from proxy_cache.upstream.dial import Dialler, Parent
from proxy_cache.upstream.names import Names
from proxy_cache.wire.responses import OriginError

NAME = "a.example"


class Answers(Names):
    """One list of addresses after the other, as a name server has them that changes its mind."""

    def __init__(self, *answers: list[str]) -> None:
        super().__init__(timeout=30)
        self._answers = list(answers)

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        addresses = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        found: list[Any] = []
        for address in addresses:
            if ":" in address:
                found.append((socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)))
            else:
                found.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)))
        return found


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where connections would have gone."""
    addresses: list[str] = []

    async def connect(endpoint: dial.Endpoint, *_: Any) -> socket.socket:
        addresses.append(endpoint[3][0])
        raise OSError(errno.ENETUNREACH, "nothing leaves")

    monkeypatch.setattr(dial, "_connect", connect)
    return addresses


async def for_a_fill(dialler: Dialler, host: str, port: int) -> str:
    try:
        await dialler.open("http", f"{host}:{port}", timeout=30, tls=lambda host: pytest.fail("no TLS"))
    except OriginError as error:
        return f"{error.status} {error.error}: {error.detail}"
    raise AssertionError("it was opened")


async def for_mitmproxy(dialler: Dialler, host: str, port: int) -> str:
    try:
        await dialler.open_stream(host, port)
    except OSError as error:
        return f"403 {error}" if isinstance(error, Denied) else str(error)
    raise AssertionError("it was opened")


ways = pytest.mark.parametrize("ask", [for_a_fill, for_mitmproxy], ids=["for fills", "for mitmproxy"])
Ask = Callable[[Dialler, str, int], Any]
REFUSED = "403 destination_ip_prohibited: this proxy does not go there, see the proxy's option access_destinations"


@ways
@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["127.0.0.1"], []),
        (["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1%eth0"], []),
        (["203.0.113.1"], ["203.0.113.1"]),
        (["203.0.113.1", "127.0.0.1", "2001:db8::1", "::1"], ["203.0.113.1", "2001:db8::1"]),
        (["10.0.0.1", "fd00::1"], ["10.0.0.1", "fd00::1"]),
        (["64:ff9b::7f00:1"], []),
        (["0.0.0.0"], []),
    ],
)
def test_of_several_addresses_only_those_are_dialled_that_are_allowed(
    dialled: list[str], ask: Ask, addresses: list[str], expected: list[str]
) -> None:
    told = asyncio.run(ask(Dialler(Answers(addresses), Access()), NAME, 8000))
    assert sorted(dialled) == sorted(expected)
    assert (told == REFUSED) is not expected
    if not expected:
        assert not any(address in told for address in addresses)


@ways
def test_a_name_that_changes_between_two_look_ups_is_checked_each_time(
    dialled: list[str], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: what was found to be public a moment ago is loopback now."""
    monkeypatch.setattr(dial, "ADDRESSES_KEPT_FOR", 0)
    dialler = Dialler(Answers(["203.0.113.1"], ["127.0.0.1"]), Access())

    async def twice() -> list[str]:
        return [await ask(dialler, NAME, 8000) for _ in range(2)]

    first, second = asyncio.run(twice())
    assert dialled == ["203.0.113.1"]
    assert first != REFUSED
    assert second == REFUSED


@ways
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "169.254.169.254"])
def test_addresses_in_urls_are_checked_too(dialled: list[str], ask: Ask, host: str) -> None:
    host = host if ask is for_a_fill else host.strip("[]")
    assert asyncio.run(ask(Dialler(Answers([]), Access()), host, 8000)) == REFUSED
    assert dialled == []


@pytest.mark.parametrize("host", ["0x7f.1", "0x7f000001", "127.0.0.1.", "localhost."])
def test_odd_spellings_are_checked_by_what_the_system_makes_of_them(dialled: list[str], host: str) -> None:
    asyncio.run(for_a_fill(Dialler(Answers(["127.0.0.1"]), Access()), host, 8000))
    assert asyncio.run(for_mitmproxy(Dialler(Answers(["127.0.0.1"]), Access()), host, 8000)) == REFUSED
    assert dialled == []


@ways
def test_rules_that_change_count_from_the_next_connection(dialled: list[str], ask: Ask) -> None:
    access = Access()
    dialler = Dialler(Answers(["10.0.0.1"]), access)

    async def before_and_after() -> str:
        await ask(dialler, NAME, 8000)
        assert access.use(Destinations((Rule(False, "deny *"),)))
        return str(await ask(dialler, NAME, 8000))

    assert asyncio.run(before_and_after()).startswith("403 http_request_denied")
    assert dialled == ["10.0.0.1"]


def test_the_parent_proxy_is_the_operators_choice(dialled: list[str]) -> None:
    parent = Parent("http", "127.0.0.1", 3128)
    dialler = Dialler(Answers([]), Access())

    async def ask() -> None:
        with pytest.raises(OriginError, match="nothing leaves"):
            await dialler.open("http", NAME, timeout=30, tls=lambda host: pytest.fail("no TLS"), parent=parent)

    asyncio.run(ask())
    assert dialled == ["127.0.0.1"]


def test_own_listeners_are_found_by_address_and_port(dialled: list[str]) -> None:
    told: list[str] = []
    access = Access(told.append)
    access.use(Destinations((Rule(True, "allow *"),)))
    access.listening_on = lambda: [("127.0.0.1", 8082), ("", 8080)]
    dialler = Dialler(Answers(["127.0.0.1"]), access)
    for port, is_denied in ((8082, True), (8080, True), (8083, False)):
        assert (asyncio.run(for_mitmproxy(dialler, NAME, port)) == REFUSED) is is_denied
    assert told == ["listener", "listener"]
    assert len(dialled) == 1
    # What the kernel takes for loopback.
    assert asyncio.run(for_mitmproxy(dialler, "0.0.0.0", 8082)) == REFUSED


def test_each_refusal_is_counted_and_the_log_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    told: list[str] = []
    access = Access(told.append)
    dialler = Dialler(Answers(["127.0.0.1"]), access)
    for _ in range(3):
        asyncio.run(for_mitmproxy(dialler, NAME, 8000))
    assert told == ["address"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "proxy-cache: refused to go to a.example:8000: "
        "127.0.0.1 is loopback, and no rule of access_destinations allows it"
    ]


def test_the_door_remembers_what_has_passed_until_the_rules_change() -> None:
    access = Access()
    target = Target.of("http", NAME, 80, "/x")
    assert access.refuses(target) is None
    assert access.passed == {(NAME, 80)}
    assert not access.use(Destinations())
    assert access.passed
    assert access.use(Destinations((Rule(False, "deny *"),)))
    assert not access.passed
    assert access.refuses(target) is not None
    assert not access.passed
