"""The clients that build agents really use, over HTTPS that ends in the proxy (``intercept_hosts``): by the variables
of ``proxy-cache env``, against servers on loopback with certificates of a CA that only the proxy knows.

A second client, new and with nothing on its disk, costs the origin nothing that can be cached.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import pytest

from tests.support import repositories
from tests.support.certificates import issued, server_context
from tests.support.content import content
from tests.support.git_server import GitServer
from tests.support.intercepted import ca_of
from tests.support.proxy import DEFAULT_ACCESS, ROOT, Metrics, Proxy
from tests.support.repositories import Repository
from tests.support.tools import need
from tests.test_env import bare

Start = Callable[..., Proxy]
PATIENCE = 100.0
"""Seconds for one run of a client on a busy machine."""
far_away = pytest.mark.timeout(8 * PATIENCE)


# -- origins, and what clients know ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Authority:
    """The CA of the origins: its certificate, and what a server shows."""

    root: Path
    server: Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    root, _, server = issued(tmp_path_factory.mktemp("authority"), "private", "localhost")
    return Authority(root, server)


class Upstream(Protocol):
    port: int

    def asked(self) -> list[str]: ...


def data_file(base: str) -> repositories.Replies:
    return {"/data.bin": repositories.for_good(content("data", 300_000))}


def table(base: str) -> repositories.Replies:
    """A file of Parquet."""
    duckdb = pytest.importorskip("duckdb")
    pytest.importorskip("duckdb_extension_httpfs")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "table.parquet")
        duckdb.execute(f"COPY (SELECT i, hash(i) AS h FROM range(200000) t(i)) TO '{file}' (FORMAT parquet)")
        return {"/table.parquet": repositories.for_good(file.read_bytes())}


@dataclass(frozen=True)
class Client:
    """``command``: of the origin's base URL and a folder of the client's own, where ``result`` (a pattern) appears."""

    name: str
    make: Callable[[str], repositories.Replies] | None
    command: Callable[[str, Path], list[str]]
    result: str
    distrusts: str
    """What it says about a certificate that it does not trust; empty: nothing, it tries again by itself."""
    environment: dict[str, str] = field(default_factory=dict)
    not_cacheable: str = r"(?!)"
    """Requests that every client of this kind costs its origin."""

    def __str__(self) -> str:
        return self.name


def own_python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def pip(base: str, folder: Path) -> list[str]:
    return own_python(
        "pip", "download", "--no-cache-dir", "--no-deps", "--retries", "0", "--disable-pip-version-check",
        "--index-url", f"{base}/simple/", "-d", str(folder / "out"), "sample",
    )  # fmt: skip


def uv(base: str, folder: Path) -> list[str]:
    return [
        str(Path(sys.executable).parent / "uv"), "pip", "install", "-q", "--no-config", "--no-cache", "--no-deps",
        "--python", sys.executable, "--index-url", f"{base}/simple/", "--target", str(folder / "out"), "sample",
    ]  # fmt: skip


def npm(base: str, folder: Path) -> list[str]:
    return [
        need("npm"), "pack", "sample", "--registry", f"{base}/", "--fetch-retries", "0",
        "--cache", str(folder / "cache"), "--pack-destination", str(folder),
    ]  # fmt: skip


QUERY = """
import os, pathlib, sys, duckdb, duckdb_extension_httpfs
with duckdb.connect() as database:
    extension = next(pathlib.Path(duckdb_extension_httpfs.__path__[0]).rglob("httpfs.duckdb_extension"))
    database.execute(f"LOAD '{extension}'")
    database.execute(f"SET ca_cert_file = '{os.environ['SSL_CERT_FILE']}'")
    database.execute("SET enable_server_cert_verification = true")
    rows = database.execute(f"SELECT sum(h % 7), count(*) FROM '{sys.argv[1]}/table.parquet' WHERE i > 1000").fetchall()
    pathlib.Path("answer").write_text(repr(rows))
"""


def duckdb(base: str, folder: Path) -> list[str]:
    return [sys.executable, "-c", QUERY, base]


def git(base: str, folder: Path) -> list[str]:
    return [need("git"), "clone", "-q", f"{base}/sample.git", "out"]


def git_with_bundle(base: str, folder: Path) -> list[str]:
    return [*git(base, folder), "--bundle-uri", f"{base}/bundles/sample.bundle"]


# What is in its bundle; of the rest the first GET is not to be kept (max-age=0), and a POST is never cached.
GIT = Client("git", None, git_with_bundle, "out/data.bin", r"(?i)certificate verif",
             {"GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"},
             r"GET /sample\.git/info/refs|POST /sample\.git/git-upload-pack")  # fmt: skip
CLIENTS = (
    Client("curl", data_file, lambda base, folder: [need("curl"), "-q", "-sSf", "-o", "data.bin", f"{base}/data.bin"],
           "data.bin", r"SSL certificate problem: unable to get local issuer"),
    # Debian's has GnuTLS, which looks at no variable.
    Client("wget", data_file,
           lambda base, folder: [need("sh"), "-c", f'echo "ca_certificate=$SSL_CERT_FILE" > wgetrc; '
                                                   f'WGETRC=wgetrc exec wget -nv {base}/data.bin'],
           "data.bin", r"cannot verify localhost's certificate|not trusted"),
    # pip has index pages validated each time (max-age=0).
    Client("pip", repositories.python, pip, "out/*.whl", r"CERTIFICATE_VERIFY_FAILED",
           {"PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_CONSTRAINT": ""},
           r"GET /simple/sample/$"),
    Client("uv", repositories.python, uv, "out/sample/data.bin", r"(?i)invalid peer certificate|UnknownIssuer",
           {"UV_HTTP_RETRIES": "0"}),
    Client("npm", repositories.npm, npm, "*.tgz", r"UNABLE_TO_VERIFY_LEAF_SIGNATURE",
           {"npm_config_userconfig": "none", "npm_config_audit": "false", "npm_config_update_notifier": "false"}),
    Client("duckdb", table, duckdb, "answer", ""),
    GIT,
)  # fmt: skip


class Machine:
    """Where clients run: each in a folder of its own, with one set of variables."""

    def __init__(self, folder: Path, proxy: Proxy, authority: Path) -> None:
        """``authority``: the CA that its clients trust."""
        self._folder = folder
        folder.mkdir()
        command = [
            sys.executable, "-m", "proxy_cache.cli", "env", "--proxy", proxy.url, "--no-proxy", "", "--ca",
            str(authority), "--bundle", str(folder / "bundle.pem"),
        ]  # fmt: skip
        script = '"$@" > exports 2> told && . ./exports && env -0'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *command], cwd=folder, env={**bare(), "PYTHONPATH": str(ROOT)}, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        self.variables = dict(one.split("=", 1) for one in done.stdout.split("\0") if "=" in one)
        self._runs = 0

    def run(
        self, command: Callable[[Path], list[str]], **environment: str
    ) -> tuple[subprocess.CompletedProcess[bytes], Path]:
        """By a new user: what came of it, and the folder that it ran in."""
        self._runs += 1
        folder = self._folder / str(self._runs)
        folder.mkdir()
        home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), "XDG_CACHE_HOME": str(folder / "xdg")}
        done = subprocess.run(
            command(folder), stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, cwd=folder,
            env={**self.variables, **home, **environment}, check=False,
        )  # fmt: skip
        return done, folder


@pytest.fixture
def serve(authority: Authority, tmp_path: Path) -> Iterator[Callable[[Client], tuple[Upstream, str]]]:
    """Start what a client fetches from: the server, and its URL."""
    tls = server_context(authority.server)
    with ExitStack() as stack:

        def start(client: Client) -> tuple[Upstream, str]:
            if client.make is None:
                git_server = stack.enter_context(GitServer(tmp_path / "git", tls))
                return git_server, f"https://localhost:{git_server.port}"
            repository = stack.enter_context(Repository(client.make, tls=tls))
            base = f"https://localhost:{repository.port}"
            repository.open(base)
            return repository, base

        yield start


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Proxy]:
    with Proxy(
        tmp_path_factory.mktemp("proxy"), intercept_hosts="localhost", ssl_verify_upstream_trusted_ca=authority.root
    ) as proxy:
        yield proxy


def outcomes(metrics: Metrics, *names: str) -> tuple[float, ...]:
    return tuple(metrics.value("intercepts_total", outcome=name) for name in names)


@pytest.mark.timeout(4 * PATIENCE)
@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_the_second_one_costs_the_origin_nothing(
    proxy: Proxy, serve: Callable[[Client], tuple[Upstream, str]], tmp_path: Path, client: Client
) -> None:
    origin, base = serve(client)
    machine = Machine(tmp_path / "machine", proxy, ca_of(proxy))
    before, got, asked = proxy.settled(), [], [0]
    for _ in range(2):
        done, folder = machine.run(lambda folder: client.command(base, folder), **client.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        (file,) = folder.glob(client.result)
        got.append(file.read_bytes())
        asked.append(len(origin.asked()))
    assert got[0] == got[1] != b""
    new = [one for one in origin.asked()[asked[1] :] if not re.match(client.not_cacheable, one)]
    assert new == []
    change = proxy.settled() - before
    assert change.value("hits_total") >= 1
    assert asked[1] >= 1
    assert change.value("tunnels_total") == 0
    assert change.value("intercepts_total", outcome="intercepted") >= 2


@pytest.mark.timeout(4 * PATIENCE)
@pytest.mark.parametrize("client", [*CLIENTS[:-1], replace(GIT, command=git)], ids=str)  # a bundle it goes on without
def test_one_that_does_not_trust_the_proxy_fails_once(
    start_proxy: Start, authority: Authority, serve: Callable[[Client], tuple[Upstream, str]], tmp_path: Path,
    client: Client,
) -> None:  # fmt: skip
    """With its own message; the next one goes through a tunnel, to a server that it knows."""
    origin, base = serve(client)
    proxy = start_proxy(intercept_hosts="localhost", ssl_verify_upstream_trusted_ca=authority.root)
    machine = Machine(tmp_path / "machine", proxy, authority.root)
    done, _ = machine.run(lambda folder: client.command(base, folder), **client.environment)
    told = (done.stdout + done.stderr).decode(errors="replace")
    assert (done.returncode == 0) is not bool(client.distrusts), told
    assert re.search(client.distrusts, told), told
    assert bool(origin.asked()) is not bool(client.distrusts)
    proxy.wait_for_log(
        rf"127\.0\.0\.1 does not trust our certificate for localhost:{origin.port} .*/mitmproxy-ca-cert\.pem"
    )
    done, _ = machine.run(lambda folder: client.command(base, folder), **client.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    distrusted, fallback = outcomes(proxy.settled(), "distrusted", "fallback")
    assert distrusted >= 1
    assert fallback >= 1
    assert proxy.text().count("does not trust our certificate") == 1


# -- what this machine is set up for ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Registry:
    """A small package, from wherever a client of this machine looks for it. ``files``: their URLs."""

    command: Callable[[Path], list[str]]
    result: str
    files: str
    environment: dict[str, str]

    def run(self, machine: Machine) -> bytes | None:
        """``None``: nothing came."""
        try:
            done, folder = machine.run(self.command, **self.environment)
        except subprocess.TimeoutExpired:
            return None
        found = list(folder.glob(self.result))
        return found[0].read_bytes() if done.returncode == 0 and found else None


REGISTRIES = {
    "pip": Registry(
        lambda folder: own_python("pip", "download", "-q", "--no-cache-dir", "--no-deps", "--retries", "1", "-d",
                                  str(folder / "out"), "six"),
        "out/six*", r"\.(?:whl|tar\.gz)\b",
        {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    ),
    "uv": Registry(
        lambda folder: [str(Path(sys.executable).parent / "uv"), "pip", "install", "-q", "--no-cache", "--no-deps",
                        "--python", sys.executable, "--target", str(folder / "out"), "six"],
        "out/six.py", r"\.(?:whl|tar\.gz)\b", {"UV_HTTP_RETRIES": "1", "UV_FIND_LINKS": ""},
    ),
    "npm": Registry(
        lambda folder: [need("npm"), "pack", "isarray", "--fetch-retries", "1", "--cache", str(folder / "cache"),
                        "--pack-destination", str(folder)],
        "*.tgz", r"\.tgz\b", {"npm_config_update_notifier": "false"},
    ),
}  # fmt: skip


@far_away
@pytest.mark.parametrize("name", REGISTRIES)
def test_the_registries_of_this_machine(start_proxy: Start, tmp_path: Path, name: str) -> None:
    """Their hosts are those that a client has tunnels to. Of their files a second client has all from the cache; the
    origin is asked for indexes at the most, which pip insists on (max-age=0)."""
    registry = REGISTRIES[name]
    tunnels = start_proxy(**DEFAULT_ACCESS)
    expected = registry.run(Machine(tmp_path / "tunnels", tunnels, ca_of(tunnels)))
    tunnels.settled()
    tunnels.signal(signal.SIGTERM)
    tunnels.wait()
    hosts = sorted(set(re.findall(r" CONNECT (\S+):443 200 ", tunnels.text())))
    if expected is None or not hosts:
        pytest.skip(f"{name} gets nothing by HTTPS from outside of this machine")
    # As an operator would have it where a mirror gives no lifetimes, and npm is logged in for packages that are public.
    lifetimes = [f"/~d {re.escape(host)}/1h" for host in hosts]
    public = " | ".join(f"~d {re.escape(host)}" for host in hosts)
    proxy = start_proxy(
        intercept_hosts=hosts, cache_ttl=lifetimes, cache_ignore_authorization=public, **DEFAULT_ACCESS
    )  # fmt: skip
    machine = Machine(tmp_path / "machine", proxy, ca_of(proxy))
    assert registry.run(machine) == expected, proxy.text()
    before, mark = proxy.settled(), len(proxy.log)
    assert registry.run(machine) == expected, proxy.text()
    change = proxy.settled() - before
    proxy.signal(signal.SIGTERM)
    proxy.wait()
    lines = [line for line in proxy.log[mark:] if " GET " in line]
    files = [line for line in lines if re.search(registry.files, line)]
    assert files
    assert all(" hit " in line for line in files), files
    assert change.value("hits_total") >= len(files)
    assert change.value("origin_fetches_total") <= len(lines) - len(files)
    assert change.value("tunnels_total") == 0
