"""The API on the metrics port, as whoever calls it sees it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy_cache import __version__
from proxy_cache.admin.status_schema import STATUS
from tests.support.agents import results
from tests.support.api import TOKEN, call, token_file
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy


def test_the_status_is_a_superset_of_the_plain_one(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(origin_max_in_flight=1, origin_queue_timeout=60)
    stored = origin.serve("/stored", Reply(size=1000))
    for _ in range(3):
        assert proxy.get(stored).ok
    gate = Gate()
    running = origin.serve("/running?token=secret-of-a-user", Reply(size=100_000, body_gate=gate, gate_at=50_000))
    fetch = proxy.start_get(running)
    fetch.received(50_000)
    queued = proxy.start_get(origin.url("/queued"), source="127.0.0.9")
    proxy.wait_for_metric("origin_fetches_queued", 1)
    answer = call(proxy, "GET", "/api/v1/status")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    status, plain = answer.json, proxy.status()
    assert plain.keys() <= status.keys()
    assert plain["limiter"].keys() <= status["limiter"].keys()
    assert plain["store"].keys() <= status["store"].keys()
    assert status["version"] == __version__
    assert status["uptime_seconds"] >= 0
    assert status["limiter"]["clients"] == [
        {"client": "127.0.0.9", "queued": 1, "in_flight": 0},
        {"client": "127.0.0.1", "queued": 0, "in_flight": 1},
    ]
    fill = next(fill for fill in status["fills"] if fill["state"] == "running")
    assert (fill["bytes"], fill["total"], fill["waiters"], fill["source"]) == (50_000, 100_000, 1, "origin")
    assert fill["client"] == "127.0.0.1"
    assert fill["url"].endswith("/running?token=***")
    assert {fill["state"] for fill in status["fills"]} == {"running", "queued"}
    assert status["store"]["disk_free_bytes"] > 0
    assert status["totals"]["hits"] == 2
    assert status["totals"]["bytes_saved"] == 2000
    assert not_described(status, STATUS) == []
    gate.open()
    results([fetch, queued])


def test_the_status_is_as_it_is_described(tmp_path: Path) -> None:
    """Also what only some proxies have."""
    bucket = f"file://{tmp_path}/bucket"
    with Proxy(tmp_path, intercept_hosts="a.example", cache_peers="http://127.0.0.1:9", cache_shared=bucket) as proxy:
        status = call(proxy, "GET", "/api/v1/status").json
    assert not_described(status, STATUS) == []
    assert status.keys() == STATUS["properties"].keys()


def not_described(value: Any, schema: Any, name: str = "status") -> list[str]:
    """What of a value the schema has not, or has as something else."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
        "null": type(None),
    }  # fmt: skip
    told = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(isinstance(value, kinds[kind]) for kind in told):
        return [f"{name}: {value!r}"]
    found = []
    if isinstance(value, dict):
        for key, member in value.items():
            of_member = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            found += [f"{name}.{key}"] if of_member is None else not_described(member, of_member, f"{name}.{key}")
    elif isinstance(value, list):
        for member in value:
            found += not_described(member, schema["items"], f"{name}[]")
    return found


def test_a_body_that_is_not_coded_as_it_says_is_the_callers_fault(
    start_proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    proxy = start_proxy(admin_token_file=token_file(tmp_path))
    for token, status in ((TOKEN, 400), (None, 401)):
        answer = call(proxy, "POST", "/api/v1/purge", {"all": True}, token=token, Content_Encoding="gzip")
        assert (answer.status, bool(answer.detail)) == (status, True)


def test_errors_are_problems_that_name_what_is_wrong(start_proxy: Callable[..., Proxy]) -> None:
    proxy = start_proxy()
    assert "'colour'" in call(proxy, "GET", "/api/v1/status?colour=red").detail
    missing = call(proxy, "GET", "/api/v1/nothing")
    assert (missing.status, missing.detail) == (404, "GET /api/v1/nothing: Not Found")
    wrong = call(proxy, "DELETE", "/api/v1/status")
    assert wrong.status == 405
    assert "GET" in wrong.headers["Allow"]
    assert wrong.detail


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/status", "/api/v1/status", "/nothing"])
def test_browsers_of_other_sites_get_nothing(path: str, proxy: Proxy) -> None:
    for refused, status in (
        ({"Host": "rebound.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
    ):
        for method in ("GET", "OPTIONS", "POST"):
            answer = call(proxy, method, path, **refused)
            assert answer.status == status
            assert answer.detail
            assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_another_name_of_the_machine_can_be_told(start_proxy: Callable[..., Proxy]) -> None:
    proxy = start_proxy(admin_hosts="cache.example.com,*.internal")
    for host, status in (("cache.example.com", 200), ("a.internal:8082", 200), ("other.example", 421)):
        assert call(proxy, "GET", "/metrics", Host=host).status == status


@pytest.mark.parametrize("text", ["", "short", "with spaces in it, which is no token", "\n".join(["x" * 20] * 5)])
def test_a_file_without_a_token_is_told_at_the_start(text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    proxy = Proxy(tmp_path, admin_token_file=file)
    proxy.launch()
    try:
        assert proxy.wait() != 0
        assert f"admin_token_file: '{file}' must have" in proxy.text()
    finally:
        proxy.close()


def test_a_file_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, admin_token_file=tmp_path / "gone")
    proxy.launch()
    try:
        assert proxy.wait() != 0
        assert "admin_token_file: " in proxy.text()
    finally:
        proxy.close()


# -- what is stored ----------------------------------------------------------------------------------------------


@pytest.fixture
def filled(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> Proxy:
    """A proxy with 25 entries of growing size, some of them tagged, stale, or used."""
    proxy = start_proxy(admin_token_file=token_file(tmp_path))
    for number in range(25):
        lifetime = 1 if number >= 20 else 3600
        headers = [("Cache-Control", f"max-age={lifetime}"), ("Age", "2"), ("ETag", f'"{number}"')]
        if number % 5 == 0:
            headers.append(("Surrogate-Key", "five all"))
        origin.serve(f"/list/{number:02}", Reply(size=1000 * (number + 1), headers=tuple(headers)))
        assert proxy.get(origin.url(f"/list/{number:02}")).ok
    proxy.wait_until_idle()
    for number in (3, 3, 3, 4):
        assert proxy.get(origin.url(f"/list/{number:02}")).hit
    return proxy


def listed(proxy: Proxy, query: str) -> list[int]:
    answer = call(proxy, "GET", f"/api/v1/entries?{query}")
    assert answer.status == 200, answer.body
    return [int(entry["url"][-2:]) for entry in answer.json["entries"]]


def test_what_is_stored_is_listed(filled: Proxy, origin: Origin) -> None:
    assert listed(filled, "") == list(range(25))
    assert listed(filled, f"host=127.0.0.1:{origin.port}&match=*/list/0*") == list(range(10))
    assert listed(filled, "host=other.example") == []
    assert listed(filled, "tag=five") == [0, 5, 10, 15, 20]
    assert listed(filled, "tag=fiv") == []
    assert listed(filled, "larger_than=23000") == [23, 24]
    assert listed(filled, "larger_than=1k&smaller_than=3k") == [1, 2]
    assert listed(filled, "state=stale") == list(range(20, 25))
    assert listed(filled, "older_than=1h") == []
    assert len(listed(filled, "newer_than=1h&state=fresh")) == 20
    assert listed(filled, "min_hits=3") == [3]
    assert listed(filled, "sort=hits&limit=2") == [3, 4]
    assert listed(filled, "sort=size&limit=3") == [24, 23, 22]
    entry = call(filled, "GET", "/api/v1/entries?match=*/list/05").json["entries"][0]
    assert entry.pop("url") == origin.url("/list/05")
    for name in ("stored_at", "fresh_until", "age_seconds"):
        assert entry.pop(name) is not None
    assert entry == {
        "status": 200, "size_bytes": 6000, "present_bytes": 6000, "state": "fresh", "hits": 0, "last_hit_at": None,
        "vary": {}, "etag": '"5"', "last_modified": None, "tags": ["five", "all"],
    }  # fmt: skip


@pytest.mark.parametrize("sort", ["", "url", "size", "age", "hits"])
def test_pages_follow_each_other(sort: str, filled: Proxy) -> None:
    seen: list[int] = []
    query, cursor = f"limit=7{f'&sort={sort}' if sort else ''}", ""
    while True:
        page = call(filled, "GET", f"/api/v1/entries?{query}{cursor}").json
        assert page.get("total") == (25 if sort else None)
        seen += [int(entry["url"][-2:]) for entry in page["entries"]]
        if page["next"] is None:
            break
        assert len(page["entries"]) == 7
        cursor = f"&cursor={page['next']}"
    assert len(seen) == 25
    assert set(seen) == set(range(25))


def test_secrets_in_urls_are_for_who_has_the_token(filled: Proxy, origin: Origin) -> None:
    url = origin.url("/private?token=a-secret-of-somebody")
    assert filled.get(url).ok
    filled.wait_until_idle()
    path = "/api/v1/entries?match=*/private*"
    assert call(filled, "GET", path).json["entries"][0]["url"] == origin.url("/private?token=***")
    assert call(filled, "GET", path, token=TOKEN).json["entries"][0]["url"] == url


def test_secrets_in_urls_are_not_told_by_lists(filled: Proxy, origin: Origin) -> None:
    """Neither by a cursor, nor by what matches them, nor by their place among others."""
    urls = [origin.url(f"/private?token={secret}-of-somebody") for secret in ("first-secret", "other-secret")]
    for url in urls:
        assert filled.get(url).ok
    filled.wait_until_idle()

    def found(query: str, token: str | None = None) -> list[str]:
        return [entry["url"] for entry in call(filled, "GET", f"/api/v1/entries?{query}", token=token).json["entries"]]

    assert found("match=*token=first*") == []
    assert found("match=*token=first*", TOKEN) == urls[:1]
    assert len(found("match=*/private?token=***")) == 2
    page = call(filled, "GET", "/api/v1/entries?match=*/private*&sort=url&limit=1").json
    assert b"secret" not in base64.urlsafe_b64decode(page["next"] + "==")
    assert len(found(f"match=*/private*&sort=url&limit=1&cursor={page['next']}")) == 1
    between = base64.urlsafe_b64encode(json.dumps([origin.url("/private?token=m"), 1]).encode()).decode().rstrip("=")
    assert len(found(f"match=*/private*&sort=url&cursor={between}")) in (0, 2)


def test_lists_are_ascii(filled: Proxy, origin: Origin) -> None:
    """So that what an origin has sent does nothing to a terminal."""
    filled.get(origin.serve("/odd", Reply(headers=(("Cache-Control", "max-age=60"), ("ETag", '"\x9b31m"')))))
    filled.wait_until_idle()
    answer = call(filled, "GET", "/api/v1/entries?match=*/odd")
    assert answer.body.isascii()
    assert answer.json["entries"][0]["etag"] == '"\x9b31m"'


@pytest.mark.parametrize(
    "query",
    [
        "host=a/b", "match=", "tag=a,b", "tag=", "larger_than=big", "larger_than=-1", "older_than=yesterday", "limit=0",
        "limit=1001", "limit=%D9%A3", "sort=colour", "state=rotten", "min_hits=x", "cursor=x", "cursor=bnVsbA",
        "sort=url&cursor=WzEsIDFd", "limit=1&limit=2", "colour=red",
    ],
)  # fmt: skip
def test_a_list_that_makes_no_sense_is_refused_by_name(query: str, proxy: Proxy) -> None:
    answer = call(proxy, "GET", f"/api/v1/entries?{query}")
    assert answer.status == 400
    assert query.rpartition("&")[2].partition("=")[0] in answer.detail
