"""A real mitmdump with the cache, as a user would start it, on ports of its own and a cache folder of the test's."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from . import fork_server
from .agents import Agents, Response
from .looks import files_below, open_files
from .origin import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "addons" / "cache.py"
SCRIPTS = Path(__file__).resolve().parent / "scripts"
CONTROL = SCRIPTS / "control.py"
RECORDER = SCRIPTS / "recorder.py"

START_TIMEOUT = 240.0
"""Seconds a mitmdump may take to listen, on a machine that does other things too."""
POLL, MAX_POLL = 0.01, 0.2
"""Seconds between looks at something outside of this process: at first, and when it takes long. A look costs both
processes CPU time that what is waited for could have had."""


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without proxies of the machine, which would reach into what is tested here."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy")
    }
    environment["PYTHONUNBUFFERED"] = "1"
    environment.update(extra)
    return environment


TO_LOOPBACK = {
    "access_destinations": ["allow 127.0.0.0/8:1-65535", "allow [::1]:1-65535"],
    "access_connect_ports": "*",
}
"""Options without which nothing of a test would be reached: its origins are on loopback, on any port, and where it is
about loops it is the proxy itself."""
DEFAULT_ACCESS: dict[str, Any] = {"access_destinations": [], "access_connect_ports": "443"}
"""As the product has it, for tests about that."""

AT_FIRST = clean_environment()
"""Before any test changes it."""


class Proxy:
    """``with Proxy(tmp_path, origin_max_in_flight=8) as proxy: proxy.get(url)``."""

    def __init__(
        self,
        folder: Path,
        *,
        scripts: Sequence[Path] = (),
        script: Path = SCRIPT,
        mode: str | Sequence[str] = (),
        program: str = "mitmdump",
        arguments: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        control: bool = False,
        record: bool = False,
        execute: bool = False,
        **options: Any,
    ) -> None:
        """``execute``: as a process of its own from the beginning, for tests about what a start does or how much memory
        it takes. Otherwise it is forked from one that has imported mitmproxy, which takes a fifth of the CPU time."""
        self.folder = folder
        self.program = program
        self.script = script
        self.modes = [mode] if isinstance(mode, str) else list(mode)
        self.arguments = list(arguments)
        self.scripts = list(scripts)
        self.environment = dict(environment or {})
        self.execute = execute
        self.flow_file = folder / "flows.jsonl"
        if control:
            self.scripts.append(CONTROL)
        if record:
            self.scripts.append(RECORDER)
            self.environment["RECORDER_FILE"] = str(self.flow_file)
        self.options: dict[str, Any] = {
            "cache_dir": folder / "cache",
            "metrics_listen": "127.0.0.1:0",
            "listen_port": 0,
            "confdir": folder / "mitmproxy",
            **TO_LOOPBACK,
            **options,
        }
        self._has_own_confdir = "confdir" not in options
        self.expects_errors = False
        """Set by a test that makes the product log a traceback."""
        self.address: tuple[str, int] = ("127.0.0.1", 0)
        self.metrics_address: tuple[str, int] | None = None
        self.log: list[str] = []
        self.process: subprocess.Popen[str] | fork_server.ForkedProcess | None = None
        self.agents: Agents | None = None
        self._logged = threading.Condition()
        self._reader: threading.Thread | None = None
        self._mark = 0

    # -- running ---------------------------------------------------------------------------------------------

    def command(self) -> list[str]:
        program = Path(sys.executable).parent / self.program
        command = [str(program), "--listen-host", "127.0.0.1", "-s", str(self.script)]
        for script in self.scripts:
            command += ["-s", str(script)]
        for mode in self.modes:
            command += ["--mode", mode]
        for name, values in self.options.items():
            for value in values if isinstance(values, list) else [values]:
                text = str(value).lower() if isinstance(value, bool) else str(value)
                command += ["--set", f"{name}={text}"]
        return command + self.arguments

    def launch(self) -> None:
        """Start the process, and wait for nothing."""
        self._mark = len(self.log)
        command, environment = self.command(), clean_environment(**self.environment)
        server = None if self.execute else fork_server.server_for(command, environment, AT_FIRST)
        if server is not None:
            if self._has_own_confdir:
                server.give_certificates(self.folder / "mitmproxy")
            self.process = server.start(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE)
        else:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                cwd=self.folder,
                env=environment,
            )
        self._reader = threading.Thread(target=self._read_log, args=(self.process,), daemon=True)
        self._reader.start()

    def start(self) -> Self:
        self.launch()
        match = self.wait_for_log(r"proxy.* listening at (\S+):(\d+)", START_TIMEOUT)
        self.address = (match[1].strip("[]"), int(match[2]))
        if self.options["metrics_listen"]:
            match = self.wait_for_log(r"metrics on http://(\S+):(\d+)/metrics", START_TIMEOUT)
            self.metrics_address = (match[1].strip("[]"), int(match[2]))
        if CONTROL in self.scripts:
            self._control_port = int(self.wait_for_log(r"test control on port (\d+)", START_TIMEOUT)[1])
        if self.agents is None:
            self.agents = Agents(self.address)
            self.agents.__enter__()
        self.agents.proxy = self.address
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()
        if kind is None:
            self.check_log()

    def close(self) -> None:
        """End the process and everything that belongs to it."""
        if self.agents is not None:
            self.agents.__exit__(None, None, None)
            self.agents = None
        self.terminate()

    def check_log(self) -> None:
        """Nothing that the product did may have ended in a traceback."""
        if self.expects_errors:
            return
        for number, line in enumerate(self.log):
            if "StreamReaderProtocol.connection_made" in "".join(self.log[max(0, number - 2) : number]):
                continue  # mitmproxy, with or without us, on Python 3.11: it ends while a client is connected
            if "Traceback (most recent call last)" in line or "was never retrieved" in line or "never awaited" in line:
                raise AssertionError("the proxy logged an error:\n" + "\n".join(self.log[max(0, number - 2) :][:60]))

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the process to end by itself; its exit status."""
        assert self.process is not None
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the proxy still runs after {timeout} s:\n{self.text()}") from None
        if self._reader is not None:
            self._reader.join(PATIENCE)
        return status

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def terminate(self, timeout: float = 40.0) -> int | None:
        """SIGTERM, and SIGKILL if that does not help in time."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PATIENCE)
        if self._reader is not None:
            self._reader.join(PATIENCE)
        return self.process.returncode

    def kill9(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def restart(self) -> None:
        """End the process, if it has not ended, and start it again on the same cache folder."""
        self.terminate()
        self.start()

    # -- the log ---------------------------------------------------------------------------------------------

    def _read_log(self, process: subprocess.Popen[str] | fork_server.ForkedProcess) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                with self._logged:
                    self.log.append(line.rstrip("\n"))
                    self._logged.notify_all()
        with self._logged:
            self._logged.notify_all()

    def text(self) -> str:
        return "\n".join(self.log)

    def wait_for_log(self, pattern: str, timeout: float = PATIENCE, since: int | None = None) -> re.Match[str]:
        """Wait for a line of this run's log."""
        start = self._mark if since is None else since

        def found() -> re.Match[str] | None:
            return next((match for line in self.log[start:] if (match := re.search(pattern, line))), None)

        deadline = time.monotonic() + timeout
        with self._logged:
            while (match := found()) is None:
                assert self.process is not None
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._reader_alive()):
                    state = f"exit status {self.process.poll()}"
                    raise AssertionError(f"no line {pattern!r} in the log ({state}):\n{self.text()}")
                self._logged.wait(min(left, 0.2))
        return match

    def _reader_alive(self) -> bool:
        return self._reader is not None and self._reader.is_alive()

    # -- requests --------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    def start_request(self, method: str, url: str, **options: Any) -> Any:
        assert self.agents is not None
        return self.agents.start(method, url, **options)

    def start_get(self, url: str, **options: Any) -> Any:
        return self.start_request("GET", url, **options)

    def request(self, method: str, url: str, timeout: float = 60.0, **options: Any) -> Response:
        response = self.start_request(method, url, **options).result(timeout)
        assert isinstance(response, Response)
        return response

    def get(self, url: str, timeout: float = 60.0, **options: Any) -> Response:
        return self.request("GET", url, timeout, **options)

    # -- options while running -------------------------------------------------------------------------------

    def set_option(self, spec: str) -> str:
        """``name=value``, as with ``:set``; the answer is ``ok`` or the error. Needs ``control=True``."""
        with socket.create_connection(("127.0.0.1", self._control_port), timeout=PATIENCE) as connection:
            connection.sendall(spec.encode() + b"\n")
            with connection.makefile() as answer:
                return answer.readline().strip()

    def default_of(self, name: str) -> Any:
        """An option's default. Needs ``control=True``."""
        return json.loads(self.set_option(f"?{name}"))

    # -- numbers ---------------------------------------------------------------------------------------------

    def admin(self, path: str) -> tuple[int, bytes]:
        """GET from the metrics port: status and body."""
        assert self.metrics_address is not None
        connection = http.client.HTTPConnection(*self.metrics_address, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def metrics(self) -> Metrics:
        status, body = self.admin("/metrics")
        assert status == 200
        return Metrics(body.decode())

    def value(self, name: str, **labels: str) -> float:
        return self.metrics().value(name, **labels)

    def status(self) -> Any:
        status, body = self.admin("/status")
        assert status == 200
        return json.loads(body)

    def eventually(
        self, what: Callable[[], Any], good: Callable[[Any], bool] = bool, timeout: float = PATIENCE, told: str = ""
    ) -> Any:
        """Ask ``what()`` until the answer is ``good``: something outside of this process has to come about."""
        deadline, pause = time.monotonic() + timeout, POLL
        while not good(value := what()):
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{told or what} is still {value!r} after {timeout} s\n" + "\n".join(self.log[-20:])
                )
            time.sleep(pause)
            pause = min(1.3 * pause, MAX_POLL)
        return value

    def wait_for_metric(
        self, name: str, good: float | Callable[[float], bool], timeout: float = PATIENCE, **labels: str
    ) -> float:
        """Wait until a metric has a value, or one that is ``good``."""
        check = good if callable(good) else lambda value: value == good
        value = self.eventually(lambda: self.value(name, **labels), check, timeout, name)
        assert isinstance(value, float)
        return value

    def waiters(self) -> int:
        """Flows that wait for, or read from, a running fill."""
        return sum(fill["waiters"] for fill in self.status()["fills"])

    def wait_for_waiters(self, count: int, timeout: float = PATIENCE) -> None:
        self.eventually(self.waiters, lambda value: value == count, timeout, "the number of waiters")

    def wait_until_idle(self, timeout: float = PATIENCE) -> None:
        """No fill runs or waits, and everything that was to be stored is on the disk."""
        self.eventually(
            lambda: (status := self.status())["fills"] or status["store"]["unwritten"],
            lambda left: not left, timeout, "the list of running fills, or what is unwritten",
        )  # fmt: skip

    def settled(self, timeout: float = PATIENCE) -> Metrics:
        """The metrics once nothing is under way. A client has its last byte a moment before its request is counted,
        and its line in the access log comes later still."""
        self.eventually(
            lambda: (status := self.status())["requests_in_flight"] or status["fills"] or status["store"]["unwritten"],
            lambda left: not left, timeout, "what is under way",
        )  # fmt: skip
        return self.metrics()

    def open_files(self) -> list[str]:
        """What its descriptors lead to."""
        return open_files(self.pid)

    def anonymous_memory(self) -> int:
        """Bytes of memory of the process that no file stands behind."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon in /proc")

    # -- what it left ----------------------------------------------------------------------------------------

    @property
    def cache_dir(self) -> Path:
        return Path(self.options["cache_dir"])

    def files(self) -> list[Path]:
        """The files below the cache folder that are not the index or the lock. While it runs they come and go."""
        return [path for path, _ in self._files()]

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        return [found for found in files_below(self.cache_dir) if not found[0].name.startswith(("index.", "lock"))]

    def stored(self) -> list[bytes]:
        """The bodies below the cache folder: each is a file, or lies in a segment, on blocks of its own."""
        found = []
        for path in self.files():
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            if path.parent.name != "segments":
                found.append(data)
                continue
            at = 0
            while at + 16 <= len(data):  # what is being written now may end anywhere
                entry_id, length = struct.unpack_from("<qq", data, at)
                if entry_id:
                    found.append(data[at + 16 : at + 16 + length])
                at += -(-(16 + length) // 4096) * 4096 if entry_id else 4096
        return found

    def body_files(self, content: bytes) -> list[Path]:
        """The files that hold exactly ``content``, and the segments with it in them."""
        found = []
        for path in self.files():
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            if data == content or (path.parent.name == "segments" and content in data):
                found.append(path)
        return found

    def disk_usage(self) -> int:
        """Bytes on the disk of everything but the index."""
        return sum(found.st_blocks * 512 for _, found in self._files())

    def flows(self) -> list[dict[str, Any]]:
        """What another addon saw, hook by hook. Needs ``record=True``."""
        if not self.flow_file.exists():
            return []
        whole, _, _ = self.flow_file.read_text().rpartition("\n")  # the last line may be half written
        return [json.loads(line) for line in whole.splitlines()]

    def forget_cache(self) -> None:
        shutil.rmtree(self.cache_dir, ignore_errors=True)


Sample = tuple[str, dict[str, str], float]
"""Name, labels and value."""


class Metrics:
    """One reading of /metrics."""

    PREFIX = "cache_proxy_"

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def samples(self) -> list[Sample]:
        lines = [line.rpartition(" ") for line in self.text.splitlines() if not line.startswith("#")]
        return [(*parsed_series(series), float(value)) for series, _, value in lines]

    def value(self, name: str, **labels: str) -> float:
        """The sum over all samples of this name with these labels; 0 if there is none. The metric has to exist."""
        full = name if name.startswith(self.PREFIX) else self.PREFIX + name
        family = re.sub("_(total|count|sum|bucket|created)$", "", full)
        assert any(f"# TYPE {one} " in self.text for one in (full, family)), f"there is no metric {full}"
        return sum(
            value
            for found, value in self._by_name.get(full, ())
            if all(found.get(label) == wanted for label, wanted in labels.items())
        )

    @cached_property
    def _by_name(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for name, labels, value in self.samples:
            found.setdefault(name, []).append((labels, value))
        return found

    def waits(self, outcome: str) -> float:
        """How many waits in the origin queue ended so."""
        return self.value("origin_fetch_queue_wait_seconds_count", outcome=outcome)

    def __sub__(self, earlier: Metrics) -> Difference:
        return Difference(earlier, self)


@lru_cache(maxsize=1 << 14)
def parsed_series(series: str) -> tuple[str, dict[str, str]]:
    """Name and labels. A reading has a thousand, almost all of them the same as in the one before: to parse it all
    takes 35 ms, and whoever waits for a value reads again and again."""
    (family,) = text_string_to_metric_families(f"{series} 0")
    return family.samples[0].name, dict(family.samples[0].labels)


class Difference:
    """What changed between two readings."""

    def __init__(self, before: Metrics, after: Metrics) -> None:
        self.before = before
        self.after = after

    def value(self, name: str, **labels: str) -> float:
        return self.after.value(name, **labels) - self.before.value(name, **labels)
