"""SIGHUP: config.yaml is read again and log files are begun anew, and nothing that runs is hurt."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agents import results
from tests.support.origin import PATIENCE, Gate, Origin, Reply
from tests.support.proxy import POLL, START_TIMEOUT, Proxy, clean_environment

READ_AGAIN = r"SIGHUP: config.yaml read again: (.*)"
REFUSED = r"SIGHUP: config.yaml not taken, nothing changed: (.*)"


def config_of(proxy: Proxy) -> Path:
    return proxy.folder / "mitmproxy" / "config.yaml"


def configure(folder: Path, text: str) -> Path:
    """mitmproxy's folder with a config.yaml, for the option confdir."""
    confdir = folder / "confdir"
    confdir.mkdir(exist_ok=True)
    (confdir / "config.yaml").write_text(text)
    return confdir


def hang_up(proxy: Proxy, text: str | None = None, said: str = READ_AGAIN) -> str:
    """Write config.yaml, send the signal, and wait for what the log says to it."""
    if text is not None:
        (Path(proxy.options["confdir"]) / "config.yaml").write_text(text)
    since = len(proxy.log)
    proxy.signal(signal.SIGHUP)
    return proxy.wait_for_log(said, since=since)[1]


def test_a_raised_limit_lets_in_who_queues(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> None:
    """The limits apply to the queue at hand; what runs goes on."""
    confdir = configure(tmp_path, "origin_max_in_flight: 1\norigin_queue_timeout: 600\n")
    proxy = start_proxy(confdir=confdir)
    gate = Gate()
    fetches = [proxy.start_get(origin.serve(f"/{n}", Reply(gate=gate))) for n in range(3)]
    proxy.wait_for_metric("origin_fetches_queued", 2)
    said = hang_up(proxy, "origin_max_in_flight: 3\norigin_queue_timeout: 600\n")
    assert said == "origin_max_in_flight from 1 to 3"
    proxy.wait_for_metric("origin_fetches_in_flight", 3)
    gate.open()
    assert all(response.ok for response in results(fetches))


def test_a_lowered_timeout_ends_the_waits(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> None:
    confdir = configure(tmp_path, "origin_max_in_flight: 1\norigin_queue_timeout: 600\n")
    proxy = start_proxy(confdir=confdir)
    gate = Gate()
    first = proxy.start_get(origin.serve("/first", Reply(gate=gate)))
    proxy.wait_for_metric("origin_fetches_in_flight", 1)
    second = proxy.start_get(origin.serve("/second", Reply()))
    proxy.wait_for_metric("origin_fetches_queued", 1)
    hang_up(proxy, "origin_max_in_flight: 1\norigin_queue_timeout: 0\n")
    assert second.result().status == 503
    gate.open()
    assert first.result().ok


def test_what_is_taken_out_is_as_by_default(start_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    proxy = start_proxy(confdir=configure(tmp_path, "origin_max_in_flight: 4\ncache_ttl:\n- /~d packages.example/1d\n"))
    assert hang_up(proxy, "origin_queue_max: 7\n") == (
        "cache_ttl, origin_max_in_flight from 4 to 0, origin_queue_max from 1024 to 7"
    )
    assert proxy.status()["limiter"]["max_in_flight"] == 0
    assert hang_up(proxy) == "nothing changed"


def test_the_command_line_has_the_last_word(start_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    """At the start, and later."""
    proxy = start_proxy(confdir=configure(tmp_path, "origin_max_in_flight: 4\n"), origin_max_in_flight=2)
    assert proxy.status()["limiter"]["max_in_flight"] == 2
    assert hang_up(proxy, "origin_max_in_flight: 5\norigin_queue_max: 3\n") == (
        "origin_queue_max from 1024 to 3; the command line has the last word on origin_max_in_flight"
    )
    assert hang_up(proxy, "") == (
        "origin_queue_max from 3 to 1024; the command line has the last word on origin_max_in_flight"
    )
    assert proxy.status()["limiter"]["max_in_flight"] == 2


def test_what_needs_a_restart_is_named(start_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    confdir = configure(tmp_path, "")
    proxy = start_proxy(confdir=confdir)
    said = hang_up(proxy, "mode:\n- regular\n- socks5\ndev_reload: true\norigin_retries: 1\n")
    assert said == "origin_retries from 3 to 1; a restart is needed for dev_reload, mode"
    assert hang_up(proxy) == "nothing changed; a restart is needed for dev_reload, mode"
    assert hang_up(proxy, "origin_retries: 1\n") == "nothing changed"


def test_mitmproxys_own_options_too(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> None:
    proxy = start_proxy(confdir=configure(tmp_path, ""))
    url = origin.serve("/x", Reply())
    assert proxy.get(url).ok
    assert hang_up(proxy, "block_list:\n- '|~all|418'\n") == "block_list"
    assert proxy.get(url).status == 418
    assert hang_up(proxy, "") == "block_list"
    assert proxy.get(url).ok


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("origin_max_in_flight: [\n", "line"),
        ("origin_max_in_flight: 1\norigin_max_in_flight: 2\n", "line 2"),
        ("- origin_max_in_flight\n", "of the form"),
        ("origin_max_in_flight\n", "config.yaml"),
        ("5: 6\n", "of the form"),
        ("origin_max_in_flight: many\n", "origin_max_in_flight: must be a whole number, not 'many'"),
        ("origin_max_in_flight: true\n", "origin_max_in_flight: must be a whole number"),
        ("origin_max_in_flight:\n", "origin_max_in_flight: must be a whole number"),
        ("fast_lane: 1\n", "fast_lane: must be true or false"),
        ("cache_ttl: /~d a/1d\n", "cache_ttl: must be a list"),
        ("origin_queue_max: 5\norigin_max_in_flight: -1\n", "origin_max_in_flight: must be"),
        ("origin_queue_max: 5\ncache_max_size: lots\n", "cache_max_size: 'lots' is not a size"),
        ("origin_queue_max: 5\ncache_ttl:\n- ~d foo/1d\n", "cache_ttl: '~d foo/1d' is no rule"),
        (
            "origin_queue_max: 5\nmax_in_flight: 3\n",
            "max_in_flight: no such option; did you mean origin_max_in_flight?",
        ),
        ("origin_queue_max: 5\nblock_list:\n- nonsense\n", "block_list"),
        ("origin_queue_max: 5\ntermlog_verbosity: loud\n", "termlog_verbosity: must be one of"),
        ("origin_queue_max: 5\ndev_reload: 1\n", "dev_reload: must be true or false"),
        ("origin_queue_max: 5\nmode:\n- nonsense\n", "mode: 'nonsense': unknown mode"),
        ("origin_queue_max: 5\nmode:\n- upstream:nonsense:x\n", "mode: 'upstream:nonsense:x': "),
        ("origin_queue_max: 5\nignore_hosts:\n- (\n", "ignore_hosts: missing )"),
        ("origin_queue_max: 5\ncerts:\n- /nowhere/cert.pem\n", "does not exist: /nowhere"),
        ("origin_queue_max: 5\ncerts:\n- /dev\n", "certs: "),
        ("origin_queue_max: 5\ncache_max_size: -1\n", "cache_max_size: '-1' is not a size"),
    ],
)
def test_a_broken_file_changes_nothing(shared_reader: Proxy, text: str, reason: str) -> None:
    proxy = shared_reader
    said = hang_up(proxy, text, REFUSED)
    assert reason in said
    assert len(said) < 400
    assert proxy.status()["limiter"]["max_in_flight"] == 4
    assert proxy.status()["limiter"]["queue_max"] == 1024
    assert hang_up(proxy, "origin_max_in_flight: 4\n") == "nothing changed"


@pytest.fixture(scope="module")
def shared_reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("reader")
    with Proxy(folder, confdir=configure(folder, "origin_max_in_flight: 4\n")) as proxy:
        yield proxy


def test_what_the_next_start_would_refuse_changes_nothing(tmp_path: Path) -> None:
    own = f"metrics_listen: 127.0.0.1:0\ncache_dir: {tmp_path / 'cache'}\nlisten_port: 0\n"
    proxy = Proxy(tmp_path, confdir=configure(tmp_path, own))
    for name in ("metrics_listen", "cache_dir", "listen_port"):
        del proxy.options[name]  # the command line would have the last word on it
    proxy.launch()
    try:
        proxy.wait_for_log("metrics on", START_TIMEOUT)
        for line, why in (
            ("metrics_listen: nonsense", "metrics_listen: 'nonsense' is not host:port"),
            ("cache_dir: ''", "cache_dir: must name a folder"),
            ("listen_port: 99999", "listen_port: must be"),
        ):
            assert why in hang_up(proxy, re.sub(f"{line.partition(':')[0]}: .*", line, own), REFUSED)
        assert hang_up(proxy, own) == "nothing changed"
    finally:
        proxy.close()


def test_a_plain_number_is_a_size(start_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    """At the start, and later."""
    proxy = start_proxy(confdir=configure(tmp_path, "cache_max_size: 20000000\ncache_verify_rate: 0\n"))
    assert proxy.value("cache_capacity_bytes") == 20000000
    said = hang_up(proxy, "cache_max_size: 30000000\ncache_verify_rate: 0\nspill_max: 0\n")
    assert said == "cache_max_size from 20000000 to 30000000, spill_max from 1g to 0"
    assert hang_up(proxy) == "nothing changed"


@pytest.mark.parametrize("first", ["true", "false"])
def test_the_access_log_goes_on_and_off(
    start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path, first: str
) -> None:
    """It is all that there is of a request: mitmdump's own lines come with its option flow_detail alone."""
    proxy = start_proxy(confdir=configure(tmp_path, f"access_log: {first}\n"))
    url = origin.serve("/x", Reply(headers=(("Cache-Control", "max-age=60"),)))
    ours = re.compile(r"GET http://\S+/x 200 .* \[127\.0\.0\.1\]")
    for is_on in (first == "true", first != "true", first == "true"):
        hang_up(proxy, f"access_log: {str(is_on).lower()}\n")
        since = len(proxy.log)
        assert proxy.get(url).ok
        assert proxy.get(url).hit
        proxy.settled()
        if is_on:
            proxy.wait_for_log(r" \d+ B .* hit \[", since=since)
        hang_up(proxy)
        told = [line for line in proxy.log[since:] if "/x" in line or "client " in line or "server " in line]
        assert len(told) == (2 if is_on else 0), proxy.text()
        assert all(ours.search(line) for line in told), told
    assert not any("fast lane off" in line for line in proxy.log)


def test_mitmdumps_own_lines_on_and_off(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> None:
    proxy = start_proxy(confdir=configure(tmp_path, "access_log: false\n"))
    url = origin.serve("/x", Reply(headers=(("Cache-Control", "max-age=60"),)))
    assert hang_up(proxy, "access_log: false\nflow_detail: 1\n") == "flow_detail"
    assert proxy.get(url).ok
    proxy.wait_for_log("client connect")
    proxy.wait_for_log("<< 200 ")
    proxy.wait_for_log("fast lane off: option flow_detail is set")
    since = len(proxy.log)
    assert hang_up(proxy, "access_log: false\n") == "flow_detail"
    assert proxy.get(url).ok
    proxy.wait_for_log("fast lane on", since=since)


def test_mitmdumps_own_lines_from_the_start(start_proxy: Callable[..., Proxy], origin: Origin, tmp_path: Path) -> None:
    """Also at the level that it has by default."""
    proxy = start_proxy(confdir=configure(tmp_path, "access_log: false\nflow_detail: 1\n"))
    assert proxy.get(origin.serve("/x", Reply())).ok
    proxy.wait_for_log("<< 200 ")


def test_a_file_that_is_gone_or_unreadable_changes_nothing(start_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    """It may be on its way: to fall back to the defaults would take the origins' limits away."""
    confdir = configure(tmp_path, "origin_max_in_flight: 4\n")
    proxy = start_proxy(confdir=confdir)
    (confdir / "config.yaml").unlink()
    assert "is gone" in hang_up(proxy, said=REFUSED)
    (confdir / "config.yaml").write_bytes(b"\xff\xfe\x00")
    assert "no UTF-8" in hang_up(proxy, said=REFUSED)
    assert proxy.status()["limiter"]["max_in_flight"] == 4


def test_a_file_that_was_not_there(start_proxy: Callable[..., Proxy]) -> None:
    proxy = start_proxy()
    assert hang_up(proxy) == "nothing changed"
    assert hang_up(proxy, "origin_max_in_flight: 4\n") == "origin_max_in_flight from 0 to 4"


def test_twice_in_a_row(start_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    proxy = start_proxy(confdir=configure(tmp_path, ""))
    (tmp_path / "confdir" / "config.yaml").write_text("origin_max_in_flight: 6\n")
    for _ in range(5):
        proxy.signal(signal.SIGHUP)
    proxy.wait_for_log("origin_max_in_flight from 0 to 6")
    assert hang_up(proxy) == "nothing changed"


def test_before_the_start_has_finished(tmp_path: Path) -> None:
    """From the moment in which the script begins to load: it is done when the proxy has started."""
    proxy = Proxy(tmp_path, execute=True)  # with every moment of its start
    proxy.launch()
    try:
        proxy.wait_for_log("Loading script", START_TIMEOUT)
        proxy.eventually(lambda: catches_hangups(proxy.pid), timeout=START_TIMEOUT)
        proxy.signal(signal.SIGHUP)
        proxy.wait_for_log(READ_AGAIN, START_TIMEOUT)
        assert any("metrics on" in line for line in proxy.log)
        proxy.signal(signal.SIGTERM)
        assert proxy.wait() == 0
    finally:
        proxy.close()


def catches_hangups(pid: int) -> bool:
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert caught is not None
    return bool(int(caught[1], 16) & 1 << (signal.SIGHUP - 1))


def test_while_it_stops(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    """Running responses are finished all the same."""
    proxy = start_proxy(shutdown_grace=60)
    gate = Gate()
    fetch = proxy.start_get(origin.serve("/x", Reply(size=100_000, body_gate=gate, gate_at=50_000)), expect=100_000)
    fetch.received(50_000)
    proxy.signal(signal.SIGTERM)
    proxy.wait_for_log("1 responses to finish")
    hang_up(proxy, said="SIGHUP (while stopping)")
    gate.open()
    assert fetch.result().ok
    for _ in range(20):  # to the very end
        if proxy.returncode is None:
            proxy.signal(signal.SIGHUP)
            time.sleep(POLL)
    assert proxy.wait() == 0


# -- logs -----------------------------------------------------------------------------------------------------------


class Logging:
    """A proxy that logs to a file, as behind ``mitmdump ... >> proxy.log 2>&1``."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.path = folder / "proxy.log"
        self.proxy = Proxy(folder, **options)  # type: ignore[arg-type]
        with self.path.open("ab") as file:
            self.process = subprocess.Popen(
                self.proxy.command(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=folder,
                env=clean_environment(),
            )

    def wait_for(self, pattern: str, path: Path | None = None, timeout: float = PATIENCE) -> re.Match[str]:
        deadline = time.monotonic() + timeout
        while True:
            text = (path or self.path).read_text() if (path or self.path).exists() else ""
            if (match := re.search(pattern, text)) is not None:
                return match
            assert time.monotonic() < deadline, f"no {pattern!r} in {text}"
            assert self.process.poll() is None, text
            time.sleep(POLL)

    def __enter__(self) -> Logging:
        self.wait_for("metrics on", timeout=START_TIMEOUT)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            assert self.process.wait(PATIENCE) == 0
        finally:
            self.process.kill()
            self.process.wait()


def test_a_rotated_log_goes_on_in_a_new_file(tmp_path: Path) -> None:
    """After logrotate's rename: no line is lost, and none comes twice."""
    renamed = tmp_path / "proxy.log.1"
    with Logging(tmp_path) as logging:
        os.chmod(logging.path, 0o640)
        logging.path.rename(renamed)
        logging.process.send_signal(signal.SIGHUP)
        logging.wait_for("SIGHUP: log goes on in a new proxy.log")
        logging.wait_for("config.yaml read again: nothing changed")
        assert logging.path.stat().st_mode & 0o777 == 0o640
        assert "SIGHUP" not in renamed.read_text()
        size = renamed.stat().st_size
    assert "proxy-cache: stopped" in logging.path.read_text()
    assert renamed.stat().st_size == size, "stderr has moved, too"


def test_a_log_that_was_not_rotated_goes_on(tmp_path: Path) -> None:
    with Logging(tmp_path) as logging:
        logging.process.send_signal(signal.SIGHUP)
        logging.wait_for("config.yaml read again: nothing changed")
        assert "metrics on" in logging.path.read_text()
        assert "log goes on" not in logging.path.read_text()


def test_a_log_that_cannot_be_begun_anew_goes_on_where_it_was(tmp_path: Path) -> None:
    renamed = tmp_path / "old"
    with Logging(tmp_path) as logging:
        logging.path.rename(renamed)
        logging.path.mkdir()
        logging.process.send_signal(signal.SIGHUP)
        logging.wait_for("log goes on where it was: .*proxy.log: Is a directory", renamed)
        logging.wait_for("config.yaml read again: nothing changed", renamed)


# -- terminals ------------------------------------------------------------------------------------------------------


class Terminal:
    """A proxy in a terminal of its own."""

    def __init__(self, folder: Path, *, nohup: bool = False, stdout: object = None, **options: object) -> None:
        self.proxy = Proxy(folder, **options)  # type: ignore[arg-type]
        self.master, slave = pty.openpty()
        # As from a shell of its own, also where the tests were started with nohup.
        shell = ["env", "--default-signal=HUP", "sh", "-c", ("trap '' HUP; " if nohup else "") + 'exec "$@"', "sh"]
        self.process = subprocess.Popen(
            shell + self.proxy.command(),
            stdin=slave,
            stdout=slave if stdout is None else stdout,  # type: ignore[arg-type]
            stderr=slave,
            cwd=folder,
            env=clean_environment(),
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def read_until(self, pattern: str) -> re.Match[str]:
        while (match := re.search(pattern, self.text)) is None:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # EIO: nobody has it open any more
                data = b""
            assert data, f"no {pattern!r} in {self.text}"
            self.text += data.decode()
        return match

    def close(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            self.close()


def test_a_start_in_a_terminal_says_what_is_next(tmp_path: Path) -> None:
    with Terminal(tmp_path) as terminal:
        port = terminal.read_until(r"listening at \S*?:(\d+)")[1]
        terminal.read_until(rf"export http_proxy=http://127\.0\.0\.1:{port} HTTP_PROXY=http://127\.0\.0\.1:{port}\s")
        terminal.process.terminate()
        terminal.read_until("stopped")
        assert terminal.text.count("export") == 1


def test_also_where_the_log_goes_to_a_file(tmp_path: Path) -> None:
    with (
        (tmp_path / "log").open("wb") as file,
        Terminal(tmp_path, stdout=file, mode=["reverse:http://packages.example@0"]) as terminal,
    ):
        terminal.read_until(r"In place of http://packages.example\S*:  http://127\.0\.0\.1:\d+\s")
    text = (tmp_path / "log").read_text()
    assert "metrics on" in text
    assert "In place of" not in text


def test_a_log_file_has_nothing_of_it(tmp_path: Path) -> None:
    with Logging(tmp_path) as logging:
        pass
    assert "export" not in logging.path.read_text()


def test_a_terminal_that_is_closed_ends_the_proxy_in_an_orderly_way(tmp_path: Path, origin: Origin) -> None:
    with Terminal(tmp_path) as terminal:
        terminal.read_until("metrics on")
        terminal.close()
        terminal.process.send_signal(signal.SIGHUP)  # as the kernel does, if it was the terminal of the session
        assert terminal.process.wait(PATIENCE) == 0


def test_with_nohup_it_does_not(tmp_path: Path) -> None:
    with Terminal(tmp_path, nohup=True) as terminal:
        address = terminal.read_until(r"metrics on http://([^/]+)/")[1]
        terminal.close()
        terminal.process.send_signal(signal.SIGHUP)
        host, _, port = address.rpartition(":")
        terminal.proxy.metrics_address = (host, int(port))
        for _ in range(3):
            assert terminal.proxy.admin("/readyz")[0] == 200
        assert terminal.process.poll() is None
