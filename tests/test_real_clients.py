"""The clients that build agents really use, through the proxy, against what this machine is set up for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.content import content
from tests.support.origin import Origin, Reply
from tests.support.proxy import Proxy
from tests.support.tools import curl, free_port, need, run, run_in_background

Start = Callable[..., Proxy]
PATIENCE = 100.0
"""Seconds a client may take to fetch something small from far away."""


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

    def asked() -> list[str]:
        return (tmp_path / "access.log").read_text().splitlines()

    assert curl(proxy, f"{base}/fixed/a.bin").body == content("a", 100_000)
    again = curl(proxy, f"{base}/fixed/a.bin")
    assert again.hit
    assert again.body == content("a", 100_000)
    assert len(asked()) == 1

    for turn in range(2):
        assert curl(proxy, f"{base}/index.txt").body == b"first line\n" * 1000
        packed = curl(proxy, f"{base}/index.txt", "--compressed")
        assert packed.body == b"first line\n" * 1000
        assert packed.header("Content-Encoding") == "gzip"
        assert len(asked()) == 3 + 2 * turn
    assert sum(" 304 " in line for line in asked()) == 2
    (root / "index.txt").write_bytes(b"second line\n" * 1000)
    assert curl(proxy, f"{base}/index.txt").body == b"second line\n" * 1000


# -- the origin is far away ----------------------------------------------------------------------------------


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
    """apt-get with state and caches of its own, and only those sources of the machine that are plain HTTP."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = need("apt-get")
        sources = folder / "sources"
        sources.mkdir(parents=True)
        found = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
        for number, file in enumerate(found):
            if file.suffix not in (".list", ".sources") or not file.is_file():
                continue
            text = "\n".join(line for line in file.read_text().splitlines() if not line.lstrip().startswith("#"))
            if "http://" in text and "https://" not in text:
                (sources / f"{number}{file.suffix}").write_text(text + "\n")
        if not any(sources.iterdir()):
            pytest.skip("apt has no sources over plain HTTP")

    def command(self, state: str, *arguments: str, proxy: Proxy | None = None) -> list[str]:
        base = self.folder / state
        for folder in ("lists/partial", "archives/partial"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        settings = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": self.folder / "sources",
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


def test_apt_update_and_download_twice(start_proxy: Start, tmp_path: Path) -> None:
    """Two machines after each other: what the second one needs is there already."""
    apt = Apt(tmp_path)
    online(apt.command("direct", "update", "--error-on=any"))
    proxy = start_proxy()
    readings = [proxy.metrics()]
    packages = []
    for machine in ("first", "second"):
        done = run(apt.command(machine, "update", "--error-on=any", proxy=proxy), PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        folder = tmp_path / machine / "downloads"
        folder.mkdir()
        done = subprocess.run(
            apt.command(machine, "download", "hostname", proxy=proxy),
            cwd=folder,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (package,) = folder.glob("*.deb")
        packages.append(package.read_bytes())
        readings.append(proxy.metrics())
    assert packages[0] == packages[1]
    first, second = readings[1] - readings[0], readings[2] - readings[1]
    for name, change in (("first", first), ("second", second)):
        hits, misses = change.value("hits_total"), change.value("misses_total")
        fetched = change.value("bytes_served_total", source="miss")
        print(f"{name}: {hits:.0f} hits, {misses:.0f} misses, {fetched:.0f} bytes from the origin")
    assert first.value("misses_total") > 0
    assert second.value("hits_total") > second.value("misses_total")
    assert second.value("bytes_served_total", source="miss") < 0.1 * first.value("bytes_served_total", source="miss")
