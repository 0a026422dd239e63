"""Downloads taken up again where they broke off, by real clients: the cache has what came, and gets the rest."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.content import content
from tests.support.origin import PATIENCE, Gate, Origin, Reply
from tests.support.proxy import Proxy
from tests.support.tools import need, run
from tests.test_real_clients import Apt, far_away, make_repository, nginx, online  # noqa: F401 - nginx is a fixture

Start = Callable[..., Proxy]
OBJECT = (("Cache-Control", "max-age=3600"), ("ETag", '"v1"'), ("Accept-Ranges", "bytes"))


def asked(origin: Origin, target: str) -> list[str]:
    return [request.header("Range") or "all" for request in origin.seen(target, "GET")]


@pytest.mark.parametrize("stored", [True, False])
def test_curl(proxy: Proxy, origin: Origin, tmp_path: Path, stored: bool) -> None:
    """curl -C - asks for what its file lacks."""
    size = 6_000_000
    url = origin.serve("/curl", Reply(size=size, headers=OBJECT))
    if stored:
        proxy.get(url)
    file = tmp_path / "file"
    file.write_bytes(origin.body_of("/curl", 2_500_000))
    done = run([need("curl"), "-sS", "-f", "-C", "-", "-o", str(file), "-x", proxy.url, url])
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == origin.body_of("/curl", size)
    assert asked(origin, "/curl") == (["all"] if stored else ["bytes=2097152-18874367"])


def test_wget(proxy: Proxy, origin: Origin, tmp_path: Path) -> None:
    size = 6_000_000
    url = origin.serve("/wget", Reply(size=size, headers=OBJECT))
    proxy.get(url)
    (tmp_path / "wget").write_bytes(origin.body_of("/wget", 2_500_000))
    done = run([need("wget"), "-q", "-c", url], http_proxy=proxy.url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "wget").read_bytes() == origin.body_of("/wget", size)
    assert origin.count("/wget", "GET") == 1


@pytest.mark.timeout(600)
def test_a_gigabyte_of_which_most_has_come(start_proxy: Start, origin: Origin) -> None:
    """The client is killed at 900 MB, and asks again: the origin is asked for the rest."""
    proxy = start_proxy(cache_max_object_size="2g")  # the default is a tenth of a cache that a full disk makes small
    size, came = 1_000_000_000, 900_000_000
    gate = Gate()
    url = origin.serve(
        "/giga", Reply(size=size, headers=OBJECT, body_gate=gate, gate_at=came), Reply(size=size, headers=OBJECT)
    )
    fetch = proxy.start_get(url, expect=size)
    fetch.received(came, timeout=250)
    fetch.leave()
    origin.wait(lambda: origin.seen("/giga")[0].aborted, told="the first request to end")
    proxy.wait_until_idle()
    again = proxy.start_get(url, expect=size).result(timeout=250)
    assert again.ok
    assert again.right
    first, second = origin.seen("/giga")
    origin.wait(lambda: second.answered, told="that all has been sent: the client has it before the origin counts it")
    assert second.header("Range") == f"bytes={came}-{size - 1}"
    assert second.header("If-Range") == '"v1"'
    assert first.sent + second.sent == size
    gate.open()


def test_sigterm_keeps_what_has_come(start_proxy: Start, origin: Origin) -> None:
    proxy = start_proxy(shutdown_grace=0)
    gate = Gate()
    url = origin.serve(
        "/term", Reply(size=5_000_000, headers=OBJECT, body_gate=gate, gate_at=3_000_000),
        Reply(size=5_000_000, headers=OBJECT),
    )  # fmt: skip
    fetch = proxy.start_get(url)
    fetch.received(3_000_000)
    proxy.terminate()
    gate.open()
    proxy.restart()
    assert proxy.get(url).body == origin.body_of("/term", 5_000_000)
    assert asked(origin, "/term") == ["all", "bytes=3000000-4999999"]


def wheel(folder: Path) -> Path:
    """A wheel of some megabytes."""
    path = folder / "sample-1.0-py3-none-any.whl"
    files = {
        "sample/data.bin": content("wheel", 3_000_000),
        "sample/__init__.py": b"",
        "sample-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n",
        "sample-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in files.items()
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr("sample-1.0.dist-info/RECORD", record + "sample-1.0.dist-info/RECORD,,\n")
    return path


@far_away
def test_pip(start_proxy: Start, origin: Origin, tmp_path: Path) -> None:
    """A pip that resumes (25.1 and newer), from an index whose downloads break off in the middle."""
    newer = tmp_path / "pip"
    online([sys.executable, "-m", "pip", "install", "-q", "--target", str(newer), "pip>=25.1"])
    proxy = start_proxy(origin_retries=0)
    file = wheel(tmp_path)
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    page = f'<!DOCTYPE html><html><body><a href="/files/{file.name}#sha256={digest}">{file.name}</a></body></html>'
    origin.serve("/simple/sample/", Reply(body=page.encode(), headers=(("Content-Type", "text/html"),)))
    whole = Reply(body=data, headers=(*OBJECT, ("Content-Type", "application/octet-stream")))
    target = f"/files/{file.name}"
    origin.serve(target, Reply(body=data, headers=whole.headers, cut=1_000_000), whole)
    (tmp_path / "out").mkdir()
    done = run(
        [
            sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir", "--resume-retries", "5",
            "--index-url", origin.url("/simple/"), "--trusted-host", "127.0.0.1", "-d", str(tmp_path / "out"), "sample",
        ],
        PATIENCE * 2,
        PYTHONPATH=str(newer), http_proxy=proxy.url, PIP_CONFIG_FILE=os.devnull, PIP_FIND_LINKS="",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / file.name).read_bytes() == data
    assert asked(origin, target)[0] == "all"
    assert "all" not in asked(origin, target)[1:]
    assert sum(request.sent for request in origin.seen(target)) <= len(data) + 1


@far_away
def test_apt(start_proxy: Start, nginx: tuple[str, Path], tmp_path: Path) -> None:  # noqa: F811
    """apt sends Range and If-Range with the time of its partial file."""
    base, root = nginx
    make_repository(root, tmp_path / "build")
    package = root / "pool" / "sample_1.0_all.deb"
    apt = Apt(tmp_path / "apt")
    (apt.sources / "own.list").write_text(f"deb [trusted=yes arch=all] {base}/mirror stable main\n")
    proxy = start_proxy(record=True)
    apt.fetch("first", "sample", proxy)
    done = run(apt.command("second", "update", "--error-on=any", proxy=proxy), PATIENCE)
    assert done.returncode == 0, done.stderr
    status = tmp_path / "status"
    status.touch()
    partial = tmp_path / "apt" / "second" / "archives" / "partial" / package.name
    partial.write_bytes(package.read_bytes()[:50_000])
    stamp = package.stat().st_mtime
    os.utime(partial, (stamp, stamp))
    before = proxy.settled()
    done = run(
        apt.command("second", "-o", f"Dir::State::status={status}", "-y", "-d", "install", "sample", proxy=proxy),
        PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (partial.parent.parent / package.name).read_bytes() == package.read_bytes()
    change = proxy.settled() - before
    assert change.value("hits_total") == 1
    assert change.value("bytes_served_total", source="hit") == package.stat().st_size - 50_000
    assert time.time() > stamp
