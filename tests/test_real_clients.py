"""The clients that build agents really use, through the proxy, against what this machine is set up for."""

from __future__ import annotations

import email.utils
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.content import content
from tests.support.origin import Origin, Reply
from tests.support.proxy import Difference, Proxy
from tests.support.tools import curl, free_port, need, run, run_in_background

Start = Callable[..., Proxy]
PATIENCE = 100.0
"""Seconds a client may take to fetch something small from far away."""
far_away = pytest.mark.timeout(8 * PATIENCE)
"""Several clients, one after the other, each of which may take so long."""


def online(command: list[str], **environment: str) -> None:
    """Skip the test if a client cannot do its work without the proxy either."""
    try:
        done = run(command, PATIENCE, **environment)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{command[0]} gets no answer from outside of this machine")
    if done.returncode != 0:
        pytest.skip(f"{command[0]} reaches nothing outside of this machine")


# -- the origin is ours --------------------------------------------------------------------------------------


def test_wget(proxy: Proxy, origin: Origin, tmp_path: Path) -> None:
    wget = need("wget")
    url = origin.serve("/file", Reply(size=500_000))
    for turn in range(2):
        file = tmp_path / f"file{turn}"
        done = run([wget, "-nv", "-O", str(file), url], http_proxy=proxy.url)
        assert done.returncode == 0, done.stderr
        assert file.read_bytes() == content("/file", 500_000)
    assert origin.count("/file") == 1


def test_wget_resumes(proxy: Proxy, origin: Origin, tmp_path: Path) -> None:
    """Half of the file is there: the client asks for the rest, from what is in the cache."""
    wget = need("wget")
    url = origin.serve(
        "/file.bin", Reply(size=500_000, headers=(("Cache-Control", "max-age=3600"), ("Accept-Ranges", "bytes")))
    )
    assert proxy.get(url).ok
    file = tmp_path / "file.bin"
    file.write_bytes(content("/file.bin", 200_000))
    done = run([wget, "-nv", "-c", "-P", str(tmp_path), url], http_proxy=proxy.url)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == content("/file.bin", 500_000)
    assert origin.count("/file.bin") == 1


def test_curl_reuses_its_connection(proxy: Proxy, origin: Origin) -> None:
    urls = [origin.serve(f"/{n}", Reply(size=10_000)) for n in range(5)]
    done = run([need("curl"), "-q", "-sSf", "-x", proxy.url, *urls, *urls])
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"".join(content(f"/{n}", 10_000) for n in range(5)) * 2
    assert origin.count() == 5


def test_curl_in_parallel(proxy: Proxy, origin: Origin, tmp_path: Path) -> None:
    url = origin.serve("/big", Reply(size=3_000_000, rate=30_000_000))
    done = run([need("curl"), "-q", "-sSfZ", "--parallel-immediate", "-x", proxy.url, "-o",
                f"{tmp_path}/#1", f"{url}?[1-4]"])  # fmt: skip
    assert done.returncode == 0, done.stderr
    for number in range(1, 5):
        assert (tmp_path / str(number)).stat().st_size == 1000


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server that was not written for these tests: its address, and the folder it serves."""
    program = need("nginx")
    port = free_port()
    root = tmp_path / "www"
    root.mkdir()
    for folder in (tmp_path, root):
        folder.chmod(0o755)
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        f"daemon off; master_process off; pid {tmp_path}/nginx.pid; error_log stderr;\n"
        "events {}\n"
        "http {\n"
        f"  access_log {tmp_path}/access.log;\n"
        f"  client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;\n"
        f"  fastcgi_temp_path {tmp_path}/fcgi; uwsgi_temp_path {tmp_path}/uwsgi; scgi_temp_path {tmp_path}/scgi;\n"
        "  server {\n"
        f"    listen 127.0.0.1:{port};\n"
        f"    root {root};\n"
        "    location / { expires -1; gzip on; gzip_types text/plain; gzip_vary on; gzip_proxied any; }\n"
        "    location /fixed/ { expires 1h; }\n"
        f"    location /mirror/ {{ alias {root}/; }}\n"
        "  }\n"
        "}\n"
    )
    with run_in_background([program, "-e", "stderr", "-c", str(conf)], ("127.0.0.1", port)):
        yield f"http://127.0.0.1:{port}", root


def test_nginx_as_the_origin(proxy: Proxy, nginx: tuple[str, Path], tmp_path: Path) -> None:
    """Fresh hits, validated ones, changes, and compressed variants of a real server."""
    base, root = nginx
    (root / "fixed").mkdir()
    (root / "fixed" / "a.bin").write_bytes(content("a", 100_000))
    (root / "index.txt").write_bytes(b"first line\n" * 1000)

    def asked(count: int) -> list[str]:
        """So many lines: nginx writes them when the client has its answer, a moment later."""

        def lines() -> list[str]:
            return (tmp_path / "access.log").read_text().splitlines()

        found = proxy.eventually(lines, lambda lines: len(lines) >= count)
        assert len(found) == count
        return list(found)

    assert curl(proxy, f"{base}/fixed/a.bin").body == content("a", 100_000)
    again = curl(proxy, f"{base}/fixed/a.bin")
    assert again.hit
    assert again.body == content("a", 100_000)
    asked(1)

    for turn in range(2):
        assert curl(proxy, f"{base}/index.txt").body == b"first line\n" * 1000
        packed = curl(proxy, f"{base}/index.txt", "--compressed")
        assert packed.body == b"first line\n" * 1000
        assert packed.header("Content-Encoding") == "gzip"
        lines = asked(3 + 2 * turn)
    assert sum(" 304 " in line for line in lines) == 2
    (root / "index.txt").write_bytes(b"second line\n" * 1000)
    assert curl(proxy, f"{base}/index.txt").body == b"second line\n" * 1000


# -- the origin is far away ----------------------------------------------------------------------------------


@far_away
def test_pip_download(start_proxy: Start, tmp_path: Path) -> None:
    """A small package, from whatever index pip is set up for; over HTTPS that is a tunnel."""
    settings = {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def download(folder: str) -> list[str]:
        return [
            sys.executable, "-m", "pip", "download", "-q", "--no-cache-dir", "--no-deps", "--retries", "1",
            "-d", str(tmp_path / folder), "six",
        ]  # fmt: skip

    online(download("direct"), **settings)
    proxy = start_proxy()
    done = run(
        download("proxied"),
        PATIENCE,
        HTTP_PROXY=proxy.url,
        HTTPS_PROXY=proxy.url,
        http_proxy=proxy.url,
        https_proxy=proxy.url,
        **settings,
    )
    assert done.returncode == 0, done.stderr
    (direct,) = (tmp_path / "direct").iterdir()
    (proxied,) = (tmp_path / "proxied").iterdir()
    assert direct.read_bytes() == proxied.read_bytes()
    metrics = proxy.metrics()
    if metrics.value("forward_requests_total", method="CONNECT") + metrics.value("misses_total") == 0:
        pytest.skip("pip's index is not on the network")
    assert metrics.value("hook_errors_total") == 0


@far_away
def test_npm_pack(start_proxy: Start, tmp_path: Path) -> None:
    npm = need("npm")

    def pack(folder: str, *arguments: str) -> list[str]:
        (tmp_path / folder).mkdir()
        return [
            npm, "pack", "isarray", "--silent", "--fetch-retries", "1", "--cache", str(tmp_path / f"{folder}-cache"),
            "--pack-destination", str(tmp_path / folder), *arguments,
        ]  # fmt: skip

    online(pack("direct"))
    proxy = start_proxy()
    done = run(pack("proxied", "--proxy", proxy.url, "--https-proxy", proxy.url), PATIENCE)
    assert done.returncode == 0, done.stderr
    (direct,) = (tmp_path / "direct").iterdir()
    (proxied,) = (tmp_path / "proxied").iterdir()
    assert direct.read_bytes() == proxied.read_bytes()
    metrics = proxy.metrics()
    assert metrics.value("forward_requests_total", method="CONNECT") + metrics.value("misses_total") > 0


class Apt:
    """apt-get with sources, state and caches of its own, as on a machine of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = need("apt-get")
        self.sources = folder / "sources"
        self.sources.mkdir(parents=True)

    def use_sources_of_the_machine(self) -> None:
        """Those that are plain HTTP."""
        found = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
        for number, file in enumerate(found):
            if file.suffix not in (".list", ".sources") or not file.is_file():
                continue
            text = "\n".join(line for line in file.read_text().splitlines() if not line.lstrip().startswith("#"))
            if "http://" in text and "https://" not in text:
                (self.sources / f"{number}{file.suffix}").write_text(text + "\n")
        if not any(self.sources.iterdir()):
            pytest.skip("apt has no sources over plain HTTP")

    def command(self, machine: str, *arguments: str, proxy: Proxy | None = None) -> list[str]:
        base = self.folder / machine
        for folder in ("lists/partial", "archives/partial"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        settings = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": self.sources,
            "Dir::State::lists": base / "lists",
            "Dir::Cache": base,
            "Dir::Cache::archives": base / "archives",
            "APT::Sandbox::User": "root",
            "Acquire::Retries": "1",
            "Acquire::Languages": "none",
            "Acquire::http::Proxy": proxy.url if proxy else "DIRECT",
        }
        options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        return [self.program, "-q", *options, *arguments]

    def fetch(self, machine: str, package: str, proxy: Proxy) -> bytes:
        """`apt-get update` and `apt-get download` on a machine that has nothing yet."""
        done = run(self.command(machine, "update", "--error-on=any", proxy=proxy), PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        folder = self.folder / machine / "downloads"
        folder.mkdir()
        done = run(self.command(machine, "download", package, proxy=proxy), PATIENCE, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        (file,) = folder.glob("*.deb")
        return file.read_bytes()


def report(name: str, change: Difference) -> None:
    hits, misses = change.value("hits_total"), change.value("misses_total")
    print(
        f"{name}: {hits:.0f} hits, {misses:.0f} misses, {change.value('bytes_served_total', source='miss'):.0f} bytes"
    )


@far_away
def test_apt_and_the_mirrors_of_this_machine(start_proxy: Start, tmp_path: Path) -> None:
    """Two machines, one after the other, update and download: the second one needs little from outside."""
    apt = Apt(tmp_path)
    apt.use_sources_of_the_machine()
    online(apt.command("direct", "update", "--error-on=any"))
    proxy = start_proxy(record=True)
    readings = [proxy.metrics()]
    packages = []
    for machine in ("first", "second"):
        packages.append(apt.fetch(machine, "hostname", proxy))
        readings.append(proxy.settled())
    assert packages[0] == packages[1]
    first, second = readings[1] - readings[0], readings[2] - readings[1]
    report("first", first)
    report("second", second)
    assert first.value("misses_total") > 0
    good = [flow for flow in proxy.flows() if flow["status"] == 200]
    if not any(flow["reusable"] for flow in good):
        pytest.skip("the downloads were right, but this mirror gives no answer a time or a validator to reuse it by")
    assert second.value("hits_total") > second.value("misses_total")
    assert second.value("bytes_served_total", source="miss") < 0.1 * first.value("bytes_served_total", source="miss")


def make_repository(root: Path, folder: Path) -> None:
    """An apt repository of one package, as files to be served, a year old."""
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = "Package: sample\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
    (tree / "DEBIAN" / "control").write_text(control + "Description: a sample\n")
    (tree / "data").write_bytes(content("sample", 200_000))
    for path in (tree, tree / "DEBIAN"):
        path.chmod(0o755)
    package = root / "pool" / "sample_1.0_all.deb"
    package.parent.mkdir()
    done = run([need("dpkg-deb"), "--root-owner-group", "--build", str(tree), str(package)])
    assert done.returncode == 0, done.stderr

    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    dist = root / "dists" / "stable"
    packages = dist / "main" / "binary-all" / "Packages"
    packages.parent.mkdir(parents=True)
    packages.write_text(
        f"{control}Filename: pool/{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest(package)}\n"
        "Description: a sample\n\n"
    )
    (dist / "Release").write_text(
        "Suite: stable\nCodename: stable\nArchitectures: all\nComponents: main\n"
        f"Date: {email.utils.formatdate(usegmt=True)}\n"
        f"SHA256:\n {digest(packages)} {packages.stat().st_size} main/binary-all/Packages\n"
    )
    past = time.time() - 365 * 86400
    for file in (package, packages, dist / "Release"):
        os.utime(file, (past, past))
    for path in root.rglob("*"):
        path.chmod(0o755)


@far_away
def test_apt_and_a_mirror_of_our_own(start_proxy: Start, nginx: tuple[str, Path], tmp_path: Path) -> None:
    """The same with a server that says when its files were last changed, as mirrors do: the second has mostly hits."""
    base, root = nginx
    make_repository(root, tmp_path / "build")
    apt = Apt(tmp_path / "apt")
    (apt.sources / "own.list").write_text(f"deb [trusted=yes arch=all] {base}/mirror stable main\n")
    proxy = start_proxy()
    readings = [proxy.metrics()]
    packages = []
    for machine in ("first", "second"):
        packages.append(apt.fetch(machine, "sample", proxy))
        readings.append(proxy.settled())
    assert packages[0] == packages[1] == (root / "pool" / "sample_1.0_all.deb").read_bytes()
    first, second = readings[1] - readings[0], readings[2] - readings[1]
    report("first", first)
    report("second", second)
    assert second.value("hits_total") >= 3
    assert second.value("hits_total") > second.value("misses_total")
    proxy.eventually(lambda: (tmp_path / "access.log").read_text().count("sample_1.0_all.deb"), lambda count: count > 0)
    assert (tmp_path / "access.log").read_text().count("sample_1.0_all.deb") == 1
