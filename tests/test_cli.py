"""The command ``proxy-cache`` against a proxy that runs: in a pipe, on a terminal, and as JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command import ProxyCache
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import Proxy

TOKEN = "a-token-for-tests-of-the-command"
TAGGED = (("Cache-Control", "max-age=600"), ("Surrogate-Key", "wheels release-7"))


@dataclass
class Scene:
    """A proxy with two slots, an origin, and the command that knows both proxy and token."""

    proxy: Proxy
    origin: Origin
    command: ProxyCache
    token: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("cli")
    token = folder / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    # Nobody but the command looks for what is corrupt: the store's own walk would find it first, every ten seconds.
    options = {
        "admin_token_file": token, "origin_max_in_flight": 2, "origin_queue_timeout": 60, "cache_verify_rate": 0,
    }  # fmt: skip
    with Origin() as origin, Proxy(folder, **options) as proxy:
        yield Scene(proxy, origin, ProxyCache(proxy, token), token)


@pytest.fixture
def scene(running: Scene) -> Scene:
    """With nothing stored."""
    running.command("purge", "--all")
    return running


def test_status(scene: Scene) -> None:
    url = scene.origin.serve("/status", Reply(size=1000))
    for _ in range(3):
        assert scene.proxy.get(url).ok
    gate = Gate()
    fetches = [
        scene.proxy.start_get(scene.origin.serve(f"/held/{number}?token=hunter2", Reply(size=100, gate=gate)))
        for number in range(3)
    ]
    scene.proxy.wait_for_metric("origin_fetches_queued", 1)
    done = scene.command("status")
    assert (done.status, done.err) == (0, "")
    assert re.search(r"^ready +yes$", done.out, re.MULTILINE)
    assert re.search(r"^slots +2 of 2$", done.out, re.MULTILINE)
    assert re.search(r"^queue +1, the longest for ", done.out, re.MULTILINE)
    assert re.search(r"^127\.0\.0\.1 +1 +2$", done.out, re.MULTILINE), done.out
    assert done.out.count("/held/") == 3
    assert "hunter2" not in done.out
    assert "\x1b" not in done.out
    found = scene.command("status", "--json").json
    assert (found["limiter"]["queued"], len(found["fills"]), found["ready"]) == (1, 3, True)
    gate.open()
    assert all(fetch.result(60).ok for fetch in fetches)


def test_top_in_a_pipe_and_on_a_terminal(scene: Scene) -> None:
    gate = Gate()
    held = scene.proxy.start_get(scene.origin.serve("/top", Reply(size=100_000, body_gate=gate, gate_at=50_000)))
    held.received(50_000)
    once = scene.command("top")
    assert once.status == 0
    assert "Traffic\n" in once.out
    assert "1 of 2" in once.out
    assert re.search(r"running +1 +48\.8 KiB +97\.7 KiB", once.out), once.out
    twice = scene.command("top", "-n", "2", "-i", "0.2", "--json")
    assert [line["limiter"]["in_flight"] for line in twice.lines] == [1, 1]
    live = scene.command.on_terminal("top", "-n", "2", "-i", "0.2")
    assert live.status == 0, live.err
    assert "\x1b[?1049h" in live.out, "it has a screen of its own"
    assert live.out.rstrip().endswith("\x1b[?1049l"), "and gives the terminal back"
    assert "48.8 KiB" in live.out
    quit_ = scene.command.on_terminal("top", keys=b"q")
    assert quit_.status == 0, quit_.err
    gate.open()
    assert held.result(60).ok


def test_explain(scene: Scene) -> None:
    headers = (("Cache-Control", "max-age=600"), ("ETag", '"1"'))
    url = scene.origin.serve("/explained", Reply(size=100, headers=headers))
    missing = scene.command("explain", url)
    assert missing.status == 1
    assert missing.out.startswith(f"miss: {url}\n")
    assert scene.proxy.get(url).ok
    stored = scene.command("explain", url, "-H", "Cache-Control: no-cache")
    assert stored.status == 0
    assert stored.out.startswith(f"revalidate: {url}\n")
    assert "RFC 9111 §" in stored.out
    assert re.search(r"^fresh until +\S+ \(in (9m|10m)", stored.out, re.MULTILINE)
    found = scene.command("explain", url, "--json").json
    assert (found["verdict"], len(found["stored"])) == ("hit", 1)
    never = scene.origin.serve("/never", Reply(size=100, headers=(("Cache-Control", "no-store"),)))
    assert scene.proxy.get(never).ok
    told = scene.command("explain", never)
    assert told.status == 1
    assert re.search(r"^reason +no-store$", told.out, re.MULTILINE)
    assert scene.command("explain", "nonsense").status == 2


def test_ls_and_find(scene: Scene) -> None:
    small = scene.origin.serve("/wheels/small.whl", Reply(size=100, headers=TAGGED))
    large = scene.origin.serve("/wheels/large.whl", Reply(size=200_000))
    other = scene.origin.serve("/other.txt?token=hunter2", Reply(size=100))
    for url in (small, large, other, small):
        assert scene.proxy.get(url).ok
    scene.proxy.wait_until_idle()

    def urls(*arguments: str) -> list[str]:
        return sorted(scene.command("find", *arguments, "--urls").out.split())

    listed = scene.command("ls", "--sort", "size")
    assert listed.status == 0
    assert listed.out.splitlines()[0].split() == ["SIZE", "AGE", "HITS", "STATE", "STATUS", "URL"]
    assert listed.out.splitlines()[1].split()[:2] == ["195.3", "KiB"]
    assert len(listed.out.splitlines()) == 4
    assert urls("*/wheels/*") == sorted([small, large])
    assert urls("*", "--host", "127.0.0.1", "--larger-than", "1k") == [large]
    assert urls("*", "--tag", "release-7") == [small]
    assert urls("*", "--min-hits", "1", "--smaller-than", "1k") == [small]
    assert urls("*other*") == [other], "with the token"
    assert urls("*", "--older-than", "1d") == []
    assert scene.command("find", "*nothing*").status == 1
    assert len(scene.command("ls", "-n", "2", "--json").json["entries"]) == 2
    assert "and more: the first 2 are shown" in scene.command("ls", "-n", "2").out
    cut = scene.command("ls", "-1", "-n", "2")
    assert (cut.status, len(cut.out.splitlines())) == (0, 2)
    assert cut.err == "proxy-cache ls: and more: the first 2 are listed (-n COUNT; -n 0: all)\n"
    assert scene.command("ls", "-1", "-n", "3").err == ""
    assert "hunter2" not in ProxyCache(scene.proxy)("ls").out
    assert "large.whl" in scene.command.on_terminal("ls", columns=60).out
    assert "state" in scene.command("ls", "--state", "rotten").err


def test_pages_are_put_together(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from proxy_cache.cli import entries
    from proxy_cache.cli.api import Api

    wanted = {scene.origin.serve(f"/page/{number}", Reply(size=10)) for number in range(7)}
    for url in wanted:
        assert scene.proxy.get(url).ok
    scene.proxy.wait_until_idle()
    monkeypatch.setattr(entries, "PAGE", 3)
    pages = entries._Pages(Api(scene.command.environment["PROXY_CACHE_API"]), [("match", "*/page/*")], 0)
    assert {entry["url"] for entry in pages} == wanted
    assert pages.cursor is None


def test_purge(scene: Scene) -> None:
    urls = [scene.origin.serve(f"/purge/{number}", Reply(size=100, headers=TAGGED)) for number in range(5)]

    def fill() -> None:
        for url in urls:
            assert scene.proxy.get(url).ok
        scene.proxy.wait_until_idle()

    fill()
    done = scene.command("purge", urls[0])
    assert (done.status, done.out.split()[:2]) == (0, ["1", "purged"])
    assert not scene.proxy.get(urls[0]).hit
    assert scene.command("purge", "--tag", "wheels", "--soft", "--json").json["purged"] == 5
    assert not scene.proxy.get(urls[1]).hit, "the origin is asked whether it has changed"
    assert scene.command("purge", "--match", "*/purge/*", "--json").json["purged"] >= 4
    fill()
    assert scene.command("purge", "--host", "127.0.0.1", "--json").json["purged"] == 5
    fill()
    assert scene.command("purge", "--all", "--json").json["purged"] == 5
    empty = scene.command("purge", "--all")
    assert (empty.status, empty.out) == (1, "0 purged (0 B)\n")


def test_what_changes_anything_takes_the_token(scene: Scene, start_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    without = ProxyCache(scene.proxy)
    for arguments in (["purge", "--all"], ["warm", "http://127.0.0.1/"]):
        done = without(*arguments)
        assert done.status == 2
        assert done.err.startswith(f"proxy-cache {arguments[0]}: 401: ")
        assert "--token-file" in done.err
    (tmp_path / "wrong").write_text("another-token-of-that-length")
    assert "401" in without("purge", "--all", "--token-file", tmp_path / "wrong").err
    assert without("purge", "--all", "--token-file", scene.token).status in (0, 1)
    off = ProxyCache(start_proxy(), scene.token)("purge", "--all")
    assert off.status == 2
    assert "403: " in off.err
    assert "admin_token_file" in off.err


def test_warm(scene: Scene, tmp_path: Path) -> None:
    urls = [scene.origin.serve(f"/warm/{number}", Reply(size=1000)) for number in range(3)]
    never = scene.origin.serve("/warm/never", Reply(size=100, headers=(("Cache-Control", "no-store"),)))
    file = tmp_path / "urls.txt"
    file.write_text(f"# what builds begin with\n{urls[0]}\n  {urls[1]} # twice\n{urls[1]}\n\n")
    done = scene.command("warm", file, urls[2])
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "3 filled; 2.9 KiB fetched"
    assert sorted(line.split()[-1] for line in done.out.splitlines()[:-1]) == sorted(urls)
    assert all(scene.proxy.get(url).hit for url in urls)
    again = scene.command("warm", "-", "--json", stdin="\n".join([*urls, never]))
    assert again.status == 1
    outcomes = {line["url"]: line["outcome"] for line in again.lines if "outcome" in line}
    assert outcomes == {**dict.fromkeys(urls, "hit"), never: "not_stored"}
    quiet = scene.command("warm", "-q", file, never)
    assert quiet.out.splitlines()[0].startswith("not stored")
    assert quiet.out.splitlines()[1] == "2 hit, 1 not stored; 0 B fetched"


def test_warm_on_a_terminal_shows_how_far_it_is(scene: Scene) -> None:
    slow = [scene.origin.serve(f"/slow/{number}", Reply(size=3_000_000, rate=1_500_000)) for number in range(2)]
    done = scene.command.on_terminal("warm", "-q", *slow)
    assert done.status == 0, done.err
    assert "0/2" in done.out
    assert "━" in done.out
    assert "2 filled; 5.7 MiB fetched" in done.out


def test_verify(scene: Scene) -> None:
    urls = [scene.origin.serve(f"/verified/{number}", Reply(size=500_000)) for number in range(3)]
    for url in urls:
        assert scene.proxy.get(url).ok
    scene.proxy.wait_until_idle()
    good = scene.command("verify")
    assert (good.status, good.out.splitlines()[-1]) == (0, "3 verified, 1.4 MiB read, 0 corrupt")
    bodies = (Path(scene.proxy.options["cache_dir"]) / "bodies").rglob("*")
    file = next(path for path in bodies if path.is_file() and path.stat().st_size == 500_000)
    with file.open("r+b") as body:
        first = body.read(1)[0]
        body.seek(0)
        body.write(bytes([first ^ 1]))
    scene.proxy.expects_errors = True
    bad = scene.command("verify", "--json")
    assert bad.status == 1
    assert [line["corrupt"] in urls for line in bad.lines if isinstance(line.get("corrupt"), str)] == [True]
    assert bad.lines[-1]["corrupt"] == 1


def test_a_proxy_that_is_named_in_the_environment_is_not_asked(scene: Scene) -> None:
    """(All tests here have one.)"""
    assert scene.command.environment["http_proxy"] == "http://127.0.0.1:9"
    assert scene.command("status").status == 0
