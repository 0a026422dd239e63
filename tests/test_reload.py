"""A script that is touched while mitmproxy runs (``git pull``): nothing happens, or for developers (``dev_reload``) it
is loaded again."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.agents import Fetch
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import ROOT, SCRIPT, SCRIPTS, Proxy
from tests.support.tools import free_port


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A checkout of one's own: to touch the script that is tested would reload it in all proxies there are."""
    checkout = tmp_path / "checkout"
    (checkout / "addons").mkdir(parents=True)
    (checkout / "proxy_cache").symlink_to(ROOT / "proxy_cache")
    return Path(shutil.copy(SCRIPT, checkout / "addons"))


def reload(proxy: Proxy, script: Path, ready: str = r"proxy-cache: cache .*metrics on ") -> None:
    """Touch the script, and wait until the next instance has started, or failed to."""
    since = len(proxy.log)
    begin_reload(script)
    proxy.wait_for_log(ready, since=since)


def begin_reload(script: Path) -> None:
    times = script.stat()
    os.utime(script, (times.st_atime, times.st_mtime + 10))


@pytest.mark.parametrize("how", ["touched", "replaced"])
def test_a_running_proxy_is_left_alone(
    start_proxy: Callable[..., Proxy], origin: Origin, script: Path, how: str
) -> None:
    """mitmproxy would load a script again that was touched, and unload one that is missing for a moment. It looks once
    a second; that it has looked can be seen by another script, which it does load again."""
    other = script.with_name("other.py")
    other.write_text("")
    proxy = start_proxy(script=script, scripts=[other])
    url = origin.serve("/x", Reply())
    assert proxy.get(url).ok
    since = len(proxy.log)
    if how == "touched":
        begin_reload(script)
    else:
        script.unlink()
    for _ in range(2):
        begin_reload(other)
        proxy.wait_for_log(r"Loading script .*other\.py", since=since)
        since = len(proxy.log)
    assert proxy.get(url).hit
    assert proxy.text().count("metrics on") == 1
    assert not any("Removing script" in line or "stopping" in line for line in proxy.log)


def test_it_serves_again_on_the_same_port(start_proxy: Callable[..., Proxy], origin: Origin, script: Path) -> None:
    """Which mitmproxy has chosen itself (``listen_port`` 0), and what was stored is there; again and again."""
    proxy = start_proxy(dev_reload=True, script=script)
    url = origin.serve("/x", Reply(size=300_000))
    assert proxy.get(url, expect=300_000).ok
    for _ in range(2):
        reload(proxy, script)
        assert proxy.get(url, expect=300_000).hit
    assert origin.count("/x") == 1
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0
    assert proxy.text().count("proxy-cache: stopped") == 3


def test_what_rewrites_requests_still_comes_first(
    start_proxy: Callable[..., Proxy], origin: Origin, script: Path
) -> None:
    """What of ours stands at the end of mitmproxy's chain of addons goes with the script, and comes back with it."""
    proxy = start_proxy(dev_reload=True, script=script, map_remote="|/mapped/|/other/")
    for _ in range(2):
        assert proxy.get(origin.url("/mapped/x")).ok
        assert proxy.request("POST", origin.url("/mapped/x"), body=b"x").ok
        reload(proxy, script)
    assert {request.target for request in origin.seen()} == {"/other/x"}


def test_users_are_still_asked(start_proxy: Callable[..., Proxy], origin: Origin, script: Path) -> None:
    """The option ``proxyauth``: by the next instance, which finds mitmproxy's own addon as it was before the first."""
    proxy = start_proxy(dev_reload=True, script=script, proxyauth="alice:secret")
    url = origin.serve("/x", Reply())
    alice = [("Proxy-Authorization", "Basic YWxpY2U6c2VjcmV0")]
    for _ in range(2):
        assert proxy.get(url).status == 407
        assert proxy.get(url, headers=alice).ok
        reload(proxy, script)
        assert proxy.get(url).status == 407
        assert proxy.get(url, headers=alice).hit
    assert "[alice]" in proxy.text()


def test_all_servers_come_back(start_proxy: Callable[..., Proxy], origin: Origin, script: Path) -> None:
    ports = [free_port(), free_port()]
    modes = [f"regular@{ports[0]}", f"reverse:http://{origin.netloc}@{ports[1]}"]
    proxy = start_proxy(dev_reload=True, script=script, mode=modes)
    reload(proxy, script)
    url = origin.serve("/x", Reply())
    assert proxy.agents is not None
    for port in ports:
        proxy.agents.proxy = ("127.0.0.1", port)
        assert proxy.get(url).ok
    assert origin.count("/x") == 1


def reload_in_the_middle(proxy: Proxy, origin: Origin, script: Path) -> tuple[str, Fetch, Gate, int]:
    """Half of a response has come when the script is reloaded: its URL, the request, what holds back its rest, and
    how many lines there were in the log."""
    gate = Gate()
    url = origin.serve("/x", Reply(size=2_000_000, body_gate=gate, gate_at=1_000_000))
    fetch: Fetch = proxy.start_get(url, expect=2_000_000)
    fetch.received(1_000_000)
    since = len(proxy.log)
    begin_reload(script)
    proxy.wait_for_log("stopping, 1 responses to finish", since=since)
    return url, fetch, gate, since


def test_what_runs_is_finished_first(start_proxy: Callable[..., Proxy], origin: Origin, script: Path) -> None:
    proxy = start_proxy(dev_reload=True, script=script, shutdown_grace=60)
    url, fetch, gate, since = reload_in_the_middle(proxy, origin, script)
    gate.open()
    assert fetch.result().ok
    proxy.wait_for_log("proxy-cache: cache ", since=since)
    assert proxy.get(url, expect=2_000_000).hit


def test_the_end_comes_while_one_waits_for_the_other(
    start_proxy: Callable[..., Proxy], origin: Origin, script: Path
) -> None:
    """The process ends when the first instance has stopped: nothing is lost, and nothing listens again."""
    proxy = start_proxy(dev_reload=True, script=script, shutdown_grace=60)
    url, fetch, gate, since = reload_in_the_middle(proxy, origin, script)
    proxy.signal(signal.SIGTERM)
    gate.open()
    assert fetch.result().ok
    assert proxy.wait() == 0
    assert not any("listening at" in line for line in proxy.log[since:])
    assert any("proxy-cache: stopped" in line for line in proxy.log[since:])
    proxy.start()
    assert proxy.get(url, expect=2_000_000).hit


@pytest.mark.parametrize("folder", ["broken by a bug: break-me", "a file"])
def test_a_start_that_fails_is_a_503(
    start_proxy: Callable[..., Proxy], origin: Origin, script: Path, tmp_path: Path, folder: str
) -> None:
    """Nobody waits for ever for what will not come. When it can start again, it does."""
    proxy = start_proxy(
        dev_reload=True,
        script=script,
        scripts=[SCRIPTS / "breaker.py"],
        environment={"BREAK": "proxy_cache.store.folder:FolderLock.__init__"},
        control=True,
    )
    proxy.expects_errors = True
    (tmp_path / "a file").touch()
    assert proxy.set_option(f"cache_dir={tmp_path / folder}") == "ok"
    reload(proxy, script, "broken by the test|cannot be written")
    response = proxy.get(origin.url("/x"))
    assert response.status == 503, response
    assert not origin.count("/x")
    assert proxy.set_option(f"cache_dir={proxy.cache_dir}") == "ok"
    reload(proxy, script)
    assert proxy.get(origin.url("/x")).ok
    for _ in range(2):  # by way of the lane, which hands over what is not for it
        assert proxy.request("POST", origin.url("/post"), body=b"x").ok
