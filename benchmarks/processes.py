"""The processes of a benchmark: nginx as the origin, a mitmdump for each contender. Each ends with its ``with``."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"1 kB": 1_000, "10 kB": 10_000, "100 kB": 100_000, "1 MB": 1_000_000}
BIG = 16_000_000
"""Bytes of the object that ranges are asked of."""
START_TIMEOUT = 40.0
"""Seconds a process may take to listen."""

NGINX = """
daemon off;
master_process off;  # one process: ending it leaves none behind
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/tmp;
    proxy_temp_path {folder}/tmp;
    fastcgi_temp_path {folder}/tmp;
    uwsgi_temp_path {folder}/tmp;
    scgi_temp_path {folder}/tmp;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {folder}/files;
        default_type application/octet-stream;
        add_header Cache-Control max-age=86400;
        # /SIZE and everything below it is the file SIZE, so there are as many URLs of a size as anyone wants.
        location / {{ rewrite ^(/[0-9]+)/ $1 break; }}
        location = /status {{ stub_status; }}
    }}
}}
"""


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without proxies of the machine, which would come between what is measured here."""
    proxies = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    return {name: value for name, value in os.environ.items() if name.lower() not in proxies} | extra


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pinned(core: int | None, command: Sequence[str]) -> list[str]:
    """The command, kept on one core (on any, with ``None``)."""
    return [*(() if core is None else ("taskset", "-c", str(core))), *command]


def fetch(port: int, target: str) -> tuple[int, bytes]:
    """Status and body of one GET on a connection of its own.

    It doesn't ask for ``Connection: close``: the textbook addon would store the origin's ``Connection: close`` and from
    then on close every client's connection, which is a fault of its own but not what is measured here.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Server:
    """A process that listens on a port of 127.0.0.1."""

    def __init__(
        self, name: str, command: Sequence[str], port: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = list(command)
        self.port = port
        self.environment = dict(environment or {})

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=clean_environment(**self.environment),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait_until_listening(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"{self.name} did not start; to see why: {' '.join(self.command)}")

    def check(self, target: str, body: bytes) -> None:
        """A proxy that answers wrong may be as fast as it likes. Asks twice, so that a cache has answered once."""
        for _ in range(2):
            status, got = fetch(self.port, target)
            if (status, got) != (200, body):
                raise SystemExit(
                    f"{self.name} answers {target} with {status} and {len(got)} bytes, not the origin's body"
                )

    def cpu_ticks(self) -> int:
        """CPU time used so far, in the kernel's ticks (of 10 ms)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])


def wait_until_idle(servers: Sequence[Server], patience: float = 3.0) -> None:
    """Wait until the last measurement is digested (files written, fills ended), ``patience`` seconds at most."""
    deadline = time.monotonic() + patience
    before = sum(server.cpu_ticks() for server in servers)
    while time.monotonic() < deadline:
        time.sleep(0.1)
        now = sum(server.cpu_ticks() for server in servers)
        if now - before <= 1:
            return
        before = now


class Origin(Server):
    def __init__(self, folder: Path, core: int | None) -> None:
        port = free_port()
        (folder / "files").mkdir(parents=True)
        for size in (*SIZES.values(), BIG):
            (folder / "files" / str(size)).write_bytes(os.urandom(size))
        configuration = folder / "nginx.conf"
        configuration.write_text(NGINX.format(folder=folder, port=port))
        command = ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(configuration)]
        super().__init__("nginx", pinned(core, command), port)
        self.folder = folder

    def url(self, size: int) -> str:
        return f"http://127.0.0.1:{self.port}/{size}"

    def body(self, size: int) -> bytes:
        return (self.folder / "files" / str(size)).read_bytes()

    def requests(self) -> int:
        """Requests answered so far, this one included."""
        lines = fetch(self.port, "/status")[1].decode().splitlines()
        return int(lines[2].split()[2])


def mitmdump(port: int, confdir: Path, python: Path = Path(sys.executable)) -> list[str]:
    """mitmdump on a port of 127.0.0.1, out of the virtual environment of this Python or of another one."""
    program = str(python.parent / "mitmdump")
    return [program, "--listen-host", "127.0.0.1", "--listen-port", str(port), "--set", f"confdir={confdir}"]


def to_loopback(script: Path) -> list[str]:
    """Options by which the proxy of a checkout goes to origins on loopback, if it knows of any that keep it away."""
    known = (script.parents[1] / "proxy_cache" / "mitm" / "options.py").read_text()
    rules = ("access_destinations=allow 127.0.0.0/8", "access_connect_ports=*")
    return [word for rule in rules if '"access_destinations"' in known for word in ("--set", rule)]


class Mitmdump(Server):
    """A contender: mitmdump with some arguments and, like all of them, its default logging, sent to /dev/null."""

    def __init__(
        self, name: str, arguments: Sequence[str], confdir: Path, core: int | None, port: int | None = None
    ) -> None:
        port = port or free_port()
        own = [path for path in map(Path, arguments) if path.parts[-2:] == ("addons", "cache.py")]
        arguments = [*arguments, *(to_loopback(own[0]) if own else ())]
        super().__init__(name, pinned(core, [*mitmdump(port, confdir), *arguments]), port)
