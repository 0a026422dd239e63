"""Who may ask the metrics port, and who may change something by it."""

from __future__ import annotations

import re
import socket

import pytest

from proxy_cache.admin.guard import check_host, check_site, check_token, is_token
from proxy_cache.admin.problems import Problem
from proxy_cache.mitm.option_values import host_pattern
from proxy_cache.settings import AdminSettings

TOKENS = ("the-first-token-of-two", "the-second-token-of-two")
SETTINGS = AdminSettings(TOKENS, (host_pattern("cache.example.com", "admin_hosts"), host_pattern("*.internal:8082")))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.0.0.1:8082", "10.1.2.3:8082", "[::1]", "[::1]:8082", "[2001:db8::5]:80", "localhost",
        "LocalHost:8082", "cache.localhost", "localhost.:80", "cache.example.com", "CACHE.example.com:9",
        "a.internal:8082", socket.gethostname(), socket.gethostname().upper() + ":8082",
    ],
)  # fmt: skip
def test_own_names_are_answered(host: str) -> None:
    check_host([host], SETTINGS)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8082", "localhost.evil.example", "127.0.0.1.evil.example", "evillocalhost",
        "xcache.example.com", "a.internal", "a.internal:80", "0x7f.1", "127.1", "10.0.0.1.nip.io",
    ],
)  # fmt: skip
def test_other_names_are_misdirected(host: str) -> None:
    with pytest.raises(Problem, match="admin_hosts") as raised:
        check_host([host], SETTINGS)
    assert raised.value.status == 421


@pytest.mark.parametrize(
    "hosts", [[""], ["a b"], ["a@localhost"], ["[::1"], ["localhost:x"], ["localhost", "localhost"]]
)
def test_what_is_no_host_is_refused(hosts: list[str]) -> None:
    with pytest.raises(Problem) as raised:
        check_host(hosts, SETTINGS)
    assert raised.value.status == 400


def test_http_1_0_has_no_host() -> None:
    check_host([], SETTINGS)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"Host": "localhost:8082", "Origin": "http://localhost:8082"},
        {"Host": "cache.example.com", "Origin": "https://cache.example.com"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_its_own_page_and_programs_may_ask(fields: dict[str, str]) -> None:
    check_site(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"Host": "localhost:8082", "Origin": "http://evil.example"},
        {"Host": "localhost:8082", "Origin": "http://localhost:3000"},
        {"Host": "localhost:8082", "Origin": "http://localhost"},
        {"Host": "localhost:8082", "Origin": "null"},
        {"Host": "", "Origin": "null"},
        {"Origin": "null"},
        {"Host": "localhost:8082", "Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": ""},
    ],
)
def test_pages_of_others_may_not(fields: dict[str, str]) -> None:
    with pytest.raises(Problem) as raised:
        check_site(fields)
    assert raised.value.status == 403


@pytest.mark.parametrize("authorization", [f"Bearer {TOKENS[0]}", f"bearer  {TOKENS[1]} "])
def test_each_token_of_the_file_is_good(authorization: str) -> None:
    check_token(authorization, SETTINGS)


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", f"Basic {TOKENS[0]}", TOKENS[0], f"Bearer {TOKENS[0][:-1]}", f"Bearer {TOKENS[0]}x",
     f"Bearer {' '.join(TOKENS)}", "Bearer \udcff\udcfe", "Bearer é"],
)  # fmt: skip
def test_anything_else_is_not(authorization: str | None) -> None:
    with pytest.raises(Problem) as raised:
        check_token(authorization, SETTINGS)
    assert raised.value.status == 401
    assert raised.value.headers == {"WWW-Authenticate": "Bearer"}


def test_without_tokens_nothing_is() -> None:
    for authorization in (None, "Bearer ", "Bearer x"):
        with pytest.raises(Problem, match="admin_token_file") as raised:
            check_token(authorization, AdminSettings())
        assert raised.value.status == 403
    assert not is_token("", ())


def test_settings_do_not_show_their_tokens() -> None:
    assert not re.search("token-of-two", repr(SETTINGS))
