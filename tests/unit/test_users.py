"""Users and their credentials: what is remembered, for how long, and what of it."""

from __future__ import annotations

import asyncio
import gc
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.proxy.mode_specs import ProxyMode

from proxy_cache.app import App
from proxy_cache.downstream import users as module
from proxy_cache.downstream.admission import Route
from proxy_cache.downstream.lane import Lane
from proxy_cache.downstream.users import REFUSED, Users
from proxy_cache.mitm.lane_host import ClientLane
from proxy_cache.mitm.lanes import Lanes
from proxy_cache.mitm.observers import FlowObservers
from proxy_cache.semantics.client_names import NAME_MAX, client_of, node, user_name
from proxy_cache.semantics.limits import DEFAULT_HEAD_LIMITS, HeadLimits
from proxy_cache.wire.credential_line import VALUE_MAX, take_credential
from proxy_cache.wire.requests import parse_request


def basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def parse(credential: str) -> tuple[str, str]:
    scheme, _, value = credential.partition(" ")
    user, colon, password = b64decode(value, validate=True).decode().partition(":")
    if scheme.lower() != "basic" or not colon:
        raise ValueError("not Basic")
    return user, password


class Passwords:
    """Says which are right, and counts how often it is asked."""

    def __init__(self, **passwords: str) -> None:
        self.passwords = passwords
        self.asked: list[str] = []
        self.threads: set[int] = set()

    def __call__(self, user: str, password: str) -> bool:
        self.asked.append(user)
        self.threads.add(threading.get_ident())
        return self.passwords.get(user) == password


def using(validate: Callable[[str, str], bool]) -> Users:
    users = Users()
    users.use(parse, validate)
    return users


def test_a_password_is_checked_once_and_in_another_thread() -> None:
    passwords = Passwords(alice="secret")

    async def run() -> None:
        users = using(passwords)
        assert users.known(basic("alice", "secret")) is None
        names = await asyncio.gather(*(users.ask(basic("alice", "secret"), "a") for _ in range(200)))
        assert set(names) == {"alice"}
        assert users.known(basic("alice", "secret")) == "alice"
        assert users.accepts("alice", "secret")
        users.close()

    asyncio.run(run())
    assert passwords.asked == ["alice"]
    assert threading.get_ident() not in passwords.threads


def test_a_wrong_password_is_remembered_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(alice="secret")

    async def run() -> None:
        users = using(passwords)
        wrong = basic("alice", "guess")
        assert [await users.ask(wrong, "a"), users.known(wrong), users.accepts("alice", "guess")] == [
            REFUSED,
            REFUSED,
            False,
        ]
        assert passwords.asked == ["alice"]
        monkeypatch.setattr(module.time, "monotonic", lambda: 1e9)
        assert users.known(wrong) is None

    asyncio.run(run())


def test_another_file_is_asked_anew() -> None:
    async def run() -> None:
        users = using(Passwords(alice="old"))
        assert await users.ask(basic("alice", "old"), "a") == "alice"
        users.use(parse, Passwords(alice="new"))
        assert users.known(basic("alice", "old")) is None
        assert await users.ask(basic("alice", "old"), "a") == REFUSED
        assert await users.ask(basic("alice", "new"), "a") == "alice"
        users.switch_off()
        assert users.known(basic("alice", "new")) == REFUSED

    asyncio.run(run())


def test_a_verdict_of_the_file_before_is_not_remembered() -> None:
    """The file changes while a password is being checked by what it said before."""
    entered, leave = threading.Event(), threading.Event()

    def slow(user: str, password: str) -> bool:
        entered.set()
        return leave.wait(30)

    async def run() -> None:
        users = using(slow)
        asking = asyncio.ensure_future(users.ask(basic("alice", "old"), "a"))
        await asyncio.to_thread(entered.wait, 30)
        users.use(parse, Passwords(alice="new"))
        leave.set()
        assert await asking == REFUSED
        assert users.known(basic("alice", "old")) is None
        assert await users.ask(basic("alice", "old"), "a") == REFUSED

    asyncio.run(run())


def test_a_directory_that_fails_or_does_not_answer_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    leave = threading.Event()

    def fails(user: str, password: str) -> bool:
        raise ConnectionError(f"no answer about {password}")

    async def run() -> None:
        assert await using(fails).ask(basic("alice", "secret"), "a") == REFUSED
        monkeypatch.setattr(module, "PATIENCE", 0.01)
        users = using(lambda user, password: leave.wait(30))
        assert await users.ask(basic("alice", "secret"), "a") == REFUSED
        leave.set()

    asyncio.run(run())


def test_bad_ones_push_no_good_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GOOD_MAX", 3)
    monkeypatch.setattr(module, "BAD_MAX", 3)
    everybody = Passwords(**{f"u{number}": "x" for number in range(9)})
    users = using(everybody)
    assert users.accepts("u0", "x")
    assert not any(users.accepts("u0", f"{number}") for number in range(50))
    assert users.known(basic("u0", "x")) == "u0"
    for number in range(9):
        assert users.accepts(f"u{number}", "x")
    assert [len(users._good), len(users._bad)] == [3, 3]


def test_no_password_is_kept() -> None:
    """Neither in what is remembered nor in anything that it refers to."""

    async def run() -> None:
        users = using(lambda user, password: True)
        await users.ask(basic("alice", "correct-horse"), "a")
        kept = [users._good, users._bad, users._running]
        for one in kept:
            texts = repr(gc.get_referents(one)) + repr(one)
            assert "horse" not in texts
            assert basic("alice", "correct-horse")[6:] not in texts

    asyncio.run(run())


def test_who_tries_one_password_after_the_other_holds_up_nobody_else() -> None:
    """A hundred guesses from one address, then a user with another one: the second check of all is the user's."""
    entered, leave = threading.Event(), threading.Event()
    asked: list[str] = []

    def slow(user: str, password: str) -> bool:
        asked.append(user)
        entered.set()
        return leave.wait(30) and user == "alice"

    async def run() -> None:
        users = using(slow)
        guesses = [asyncio.ensure_future(users.ask(basic("eve", str(number)), "evil")) for number in range(100)]
        await asyncio.to_thread(entered.wait, 30)
        alice = asyncio.ensure_future(users.ask(basic("alice", "secret"), "good"))
        await asyncio.sleep(0)
        leave.set()
        assert await alice == "alice"
        assert set(await asyncio.gather(*guesses)) == {REFUSED}
        gc.collect()
        assert len(users._turns) == 0

    asyncio.run(run())
    assert asked.index("alice") == 1
    assert len(asked) == 101


# -- the head of a request ------------------------------------------------------------------------------------------

LINES = b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n%bAccept: */*\r\n\r\nGET"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"Proxy-Authorization: Basic YTpi\r\n", "Basic YTpi"),
        (b"proxy-authorization:\tBasic  YTpi \t\r\n", "Basic  YTpi"),
    ],
)
def test_the_line_is_taken_off(line: bytes, value: str) -> None:
    data, credential = take_credential(LINES % line, DEFAULT_HEAD_LIMITS)
    assert (data, credential) == (LINES % b"", value)
    request = parse_request(data)
    assert request is not None
    assert request != "unusual"
    assert data[request.size :] == b"GET"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"Proxy-Authorization: Basic YTpi\r\nProxy-Authorization: Basic YTpi\r\n",
        b"Proxy-Authorization:\r\n",
        b"X-Proxy-Authorization: Basic YTpi\r\n",
        b"Proxy-Authorization: Basic \xff\r\n",
        b"Proxy-Authorization: Basic YTpi\n",
        b"Proxy-Authorization : Basic YTpi\r\n",
        b"X: a\r\n Proxy-Authorization: Basic YTpi\r\n",
        b"Proxy-Authorization: Basic %b\r\n" % (b"a" * VALUE_MAX),
    ],
)
def test_what_is_not_one_clear_line_is_left_for_mitmproxy(line: bytes) -> None:
    assert take_credential(LINES % line, DEFAULT_HEAD_LIMITS) == (LINES % line, "")


def test_a_body_or_the_next_request_is_not_looked_at() -> None:
    data = LINES % b"" + b" / HTTP/1.1\r\nProxy-Authorization: Basic YTpi\r\n\r\n"
    assert take_credential(data, DEFAULT_HEAD_LIMITS) == (data, "")
    unfinished = b"GET / HTTP/1.1\r\nProxy-Authorization: Basic YTpi\r\n"
    assert take_credential(unfinished, DEFAULT_HEAD_LIMITS) == (unfinished, "")


def test_a_head_over_the_limits_with_the_line_stays_over_them() -> None:
    data = LINES % b"Proxy-Authorization: Basic YTpi\r\n"
    assert take_credential(data, HeadLimits(total=len(data) - 10)) == (data, "")
    assert take_credential(data, HeadLimits(fields=2)) == (data, "")


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("alice", "alice"),
        ("ci@team.example", "ci@team.example"),
        ("a b", "a%20b"),
        ("x] [10.0.0.1", "x%5D%20%5B10.0.0.1"),
        ("b\u00fccher", "b%C3%BCcher"),
        ("\r\n", "%0D%0A"),
        ("100%", "100%25"),
        ("", "user:"),
        ("10.0.0.7", "user:10.0.0.7"),
        ("unknown", "user:unknown"),
    ],
)
def test_a_user_is_one_word_in_the_log_and_no_address(user: str, name: str) -> None:
    assert user_name(user) == name
    assert user_name(name) == name
    assert client_of(node(name)) == name


def test_long_names_stay_different_and_short() -> None:
    names = {user_name("x" * 500 + end) for end in ("a", "b", "\u00e9")} | {user_name("%" * 300)}
    assert len(names) == 4
    for name in names:
        assert len(name) <= NAME_MAX
        assert client_of(node(name)) == name


@pytest.mark.parametrize("text", ["unknown", "_", "_10.0.0.7", "_a_20b", "_a]", "secret", "_a_ZZ", "_" + "x" * 200, ""])
def test_what_is_no_client_in_forwarded_is_none(text: str) -> None:
    assert client_of(text) is None


@pytest.mark.parametrize("address", ["10.0.0.7", "::1", "fe80::1"])
def test_addresses_are_told_as_addresses(address: str) -> None:
    assert client_of(node(address)) == address
    assert node("::1") == '"[::1]"'


# -- lanes ----------------------------------------------------------------------------------------------------------


class Transport:
    """Of a client at 10.0.0.7."""

    def get_extra_info(self, name: str) -> object:
        return ("10.0.0.7", 4711) if name == "peername" else None


def test_a_tunnel_is_its_users() -> None:
    """Nothing in it proves that again; not so where the proxy stands in for an origin."""
    app = App()
    app.users.use(parse, Passwords())
    lanes = Lanes(app, FlowObservers(app.users))
    mode = ProxyMode.parse("reverse:https://a.example:443")
    reverse, outer = (ClientLane(lanes, each, Transport()) for each in (mode, ProxyMode.parse("regular")))
    assert not reverse.has_requests
    outer.proven = "alice"
    tunnel = ClientLane(lanes, mode, Transport(), outer=outer)
    assert tunnel.has_requests
    assert (tunnel.client, tunnel.address, tunnel.users.is_on) == ("alice", "10.0.0.7", False)
    assert tunnel.known is not reverse.known


class Checked(Users):
    """Has just had the answer that others have waited for."""

    async def check(self, credential: str, address: str, then: Callable[[], None]) -> None:
        assert self.accepts("alice", "secret")
        then()


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="tasks wait for the next turn before 3.12")
def test_who_asks_the_moment_the_answer_comes_is_served() -> None:
    """mitmproxy's tasks run at once, and this one ends at once. Whoever has sent a request waits for no further bytes
    of its client."""
    served: list[str | None] = []
    raised: list[Exception] = []

    class Served(Exception):
        pass

    def policy(request: Any, target: object) -> None:
        served.append(request.user)
        raise Served

    async def run() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        users = Checked()
        users.use(parse, Passwords(alice="secret"))
        transport: Any = SimpleNamespace(
            get_extra_info=lambda name: SimpleNamespace(fileno=lambda: -1), is_closing=lambda: False, abort=lambda: None
        )
        host: Any = SimpleNamespace(
            known={}, users=users, head_limits=DEFAULT_HEAD_LIMITS, address="10.0.0.7", client="", absolute=True,
            lane_cache=object, lane_target=lambda text: text, admission=SimpleNamespace(route=lambda *_: Route.CACHE),
            lane_policy=policy, parse=parse_request, failed=raised.append,
        )  # fmt: skip
        lane = Lane(host, SimpleNamespace(transport=transport), asyncio.Protocol(), attached=False)  # type: ignore[arg-type]
        lane.data_received(
            b"GET http://packages.example/a HTTP/1.1\r\nHost: packages.example\r\n"
            b"Proxy-Authorization: %b\r\n\r\n" % basic("alice", "secret").encode()
        )

    asyncio.run(run())
    assert served == ["alice"]
    assert [type(error) for error in raised] == [Served]
