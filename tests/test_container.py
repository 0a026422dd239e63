"""The Containerfile: what it promises, by its instructions, and its commands as a container has them: another account
than root in mind, a root file system that can't be written, a volume at home."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from tests.support import manifests, read_only
from tests.support.looks import files_below
from tests.support.origin import Gate, Origin, Reply
from tests.support.proxy import ROOT, Proxy
from tests.support.tools import run


def of(word: str) -> list[str]:
    return [rest for found, rest in manifests.last_stage() if found == word]


# -- what it says -----------------------------------------------------------------------------------------------------


def test_a_linter_has_nothing_to_say() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    if not linter.exists():
        pytest.skip("hadolint is not installed")
    done = run([str(linter), "--no-color", str(manifests.CONTAINERFILE)])
    assert (done.returncode, done.stdout) == (0, b"")


def test_what_is_copied_is_there() -> None:
    copied = [rest.split() for word, rest in manifests.containerfile() if word == "COPY" and "--from" not in rest]
    sources = [source for *names, _ in copied for source in names]
    assert "proxy_cache" in sources
    assert all((ROOT / source).exists() for source in sources), sources
    lines = (ROOT / ".dockerignore").read_text().split()
    assert {line for line in lines if line.startswith("!")} == {f"!{source}" for source in sources}


def test_it_names_no_registry() -> None:
    """A first part with a dot or a colon is one."""
    bases = [rest.split()[0] for word, rest in manifests.containerfile() if word == "FROM"]
    assert not [base for base in bases if re.match(r"[^/]*[.:][^/]*/", base)]
    assert len(set(bases)) == 1, "a virtual environment fits the Python that it was made by"


def test_nothing_in_it_is_root() -> None:
    """By a number, without which Kubernetes' runAsNonRoot refuses it."""
    ((user, group),) = [rest.split(":") for rest in of("USER")]
    assert int(user) > 0
    assert int(group) > 0
    words = [word for word, _ in manifests.last_stage()]
    assert max(words.index(one) for one in ("COPY", "RUN")) < words.index("USER") < words.index("ENTRYPOINT")


def test_no_shell_stands_between() -> None:
    """A shell as process 1 would keep the signals for itself."""
    assert manifests.entrypoint() == ["proxy-cache", "run"]
    assert isinstance(manifests.healthcheck(), list)
    assert all(isinstance(json.loads(rest), list) for rest in of("CMD"))
    assert of("STOPSIGNAL") == ["SIGTERM"]


def test_home_is_the_volume() -> None:
    """A new volume gets the account and the mode of the folder in the image."""
    (volume,), (user,) = of("VOLUME"), of("USER")
    assert f"HOME={volume}" in of("ENV")[0].split()
    assert of("WORKDIR") == [volume]
    owner = " ".join(f"-{flag} {number}" for flag, number in zip("og", user.split(":"), strict=True))
    assert f"install -d -m 0700 {owner} {volume}" in of("RUN")
    environment = PurePosixPath(of("ENV")[0].split()[0].removeprefix("PATH=").partition(":")[0]).parent
    assert of("COPY") == [f"--from=build {environment} {environment}"]


# -- what it does -----------------------------------------------------------------------------------------------------


class ContainerProxy(Proxy):
    """The image's entrypoint, with the arguments that a test can't do without."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, execute=True, environment={"HOME": str(home), "PYTHONPATH": str(ROOT)})
        for name in ("confdir", "cache_dir"):
            del self.options[name]

    def command(self) -> list[str]:
        program, *first = manifests.entrypoint()
        assert program == "proxy-cache"
        _mitmdump, *arguments = super().command()
        script = arguments.index("-s")
        del arguments[script : script + 2]
        return [*read_only.all_but(self.folder), sys.executable, "-m", "proxy_cache.cli", *first, *arguments]


def test_it_runs_on_its_volume_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with Origin() as origin, ContainerProxy(home) as proxy:
        url = origin.serve("/x", Reply(size=10_000, headers=(("Cache-Control", "max-age=600"),)))
        assert proxy.get(url, expect=10_000).ok
        assert proxy.get(url, expect=10_000).hit
        proxy.signal(signal.SIGTERM)
        assert proxy.wait() == 0
    assert files_below(home / ".cache" / "proxy-cache")
    assert (home / ".mitmproxy" / "mitmproxy-ca.pem").exists()


def is_healthy(port: int) -> bool:
    """By the image's own check, which knows the default port of the metrics; whatever proxy is set there."""
    program, flag, code = manifests.healthcheck()
    assert (program, flag) == ("python", "-c")
    assert "'127.0.0.1', 8082," in code
    done = run([sys.executable, flag, code.replace("8082", str(port))], http_proxy="http://127.0.0.1:9")
    assert done.returncode in (0, 1)
    return done.returncode == 0


def test_it_is_healthy_while_it_answers_requests(start_proxy: Callable[..., Proxy], origin: Origin) -> None:
    proxy = start_proxy(shutdown_grace=120)
    assert proxy.metrics_address is not None
    port = proxy.metrics_address[1]
    assert is_healthy(port)
    gate = Gate()
    fetch = proxy.start_get(origin.serve("/x", Reply(size=100_000, body_gate=gate, gate_at=50_000)), expect=100_000)
    fetch.received(50_000)
    proxy.signal(signal.SIGTERM)
    proxy.wait_for_log("1 responses to finish")
    assert not is_healthy(port)
    gate.open()
    assert fetch.result().ok
    assert proxy.wait() == 0
    assert not is_healthy(port)
