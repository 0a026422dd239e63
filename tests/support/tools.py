"""Programs of the machine that the tests use: curl and its like."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from .agents import Response, parse_head
from .origin import PATIENCE, bind_new_port
from .proxy import POLL, Proxy, clean_environment

SHORT_JAVA = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Options for Java programs that run for a few seconds: two thirds of the CPU time."""


def need(program: str) -> str:
    """The path of a program, or the test is skipped."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def run(
    command: Sequence[str], timeout: float = 90.0, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, without the machine's proxies."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        cwd=cwd,
        env=clean_environment(**environment),
        check=False,
    )


def curl(proxy: Proxy, url: str, *arguments: str, timeout: float = 90.0) -> Response:
    """``curl -x`` of one URL; of one of https the proxy has to be the server."""
    if url.startswith("https:"):
        arguments = ("--cacert", str(proxy.folder / "mitmproxy" / "mitmproxy-ca-cert.pem"), *arguments)
    done = run(
        [need("curl"), "-q", "-sS", "-i", "--suppress-connect-headers", "-x", proxy.url, *arguments, url], timeout
    )
    response = Response(error=done.stderr.decode(errors="replace"), complete=done.returncode == 0)
    raw = done.stdout
    while raw.startswith(b"HTTP/"):
        head, _, raw = raw.partition(b"\r\n\r\n")
        response.version, response.status, response.headers = parse_head(head + b"\r\n\r\n")
        if response.status >= 200:
            break
    response.body = raw
    response.received = len(raw)
    return response


def free_port() -> int:
    """A port for a program that cannot be told to take any: it is the caller's until this process ends.

    It is none of those that the kernel gives away for port 0: other tests, in other processes, connect from them all
    the time, and one that is free now would be taken in a moment. And it is kept from other tests that ask for one:
    it stays bound here, in such a way that a server can listen on it (all servers set SO_REUSEADDR) and that nobody
    else is given it (this was bound without).
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(max(1024, lowest - 16_384), lowest), 100):
        sock = socket.socket()
        try:
            sock.bind(("0.0.0.0", port))
        except OSError:
            sock.close()
            continue
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _kept.append(sock)
        return port
    raise AssertionError("no free port")


_kept: list[socket.socket] = []


@contextlib.contextmanager
def nobody_listens() -> Iterator[str]:
    """Host and port where connections are refused. The port is taken for that time, or somebody else might get it
    and listen."""
    with bind_new_port() as taken:
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@contextlib.contextmanager
def run_in_background(command: Sequence[str], listens: tuple[str, int], timeout: float = PATIENCE) -> Iterator[None]:
    """Run a server until the end of the block, which begins when it listens."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=clean_environment()
        )
        try:
            deadline = time.monotonic() + timeout
            while True:
                try:
                    socket.create_connection(listens, timeout=1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        output.seek(0)
                        raise AssertionError(f"{command[0]} does not listen: {output.read()!r}") from None
                    time.sleep(POLL)
            yield
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)


class Tmpfs:
    """A small file system of its own; the test is skipped where mounting one is not allowed."""

    def __init__(self, path: Path, size: str) -> None:
        self.path = path
        self.size = size

    def __enter__(self) -> Path:
        self.path.mkdir(parents=True, exist_ok=True)
        done = run([need("mount"), "-t", "tmpfs", "-o", f"size={self.size}", "none", str(self.path)])
        if done.returncode != 0:
            pytest.skip(f"mounting a tmpfs is not permitted: {done.stderr.decode(errors='replace').strip()}")
        return self.path

    def __exit__(self, *_: object) -> None:
        run(["umount", "-l", str(self.path)])
