"""``pip install`` without a checkout: what is in the wheel, and that the proxy starts from it, in both ways."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy_cache import __version__
from tests.support.installed import build_wheel, install
from tests.support.origin import Origin, Reply
from tests.support.proxy import ROOT, Proxy, clean_environment

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", "77", reason="setuptools is not installed, or too old")
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def commands(wheel: Path) -> Path:
    return install(wheel, wheel.parent)


@pytest.fixture
def run(commands: Path, tmp_path: Path) -> Run:
    """``proxy-cache`` with these arguments, from a folder that is no checkout."""

    def proxy_cache(*arguments: str, program: Path = commands / "proxy-cache") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments], cwd=tmp_path, env=clean_environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=90,
        )  # fmt: skip

    return proxy_cache


class InstalledProxy(Proxy):
    """Started by commands of the environment."""

    def __init__(self, folder: Path, *start: str) -> None:
        super().__init__(folder, execute=True)
        self._start = start

    def command(self) -> list[str]:
        _program, *arguments = super().command()
        script = arguments.index("-s")
        del arguments[script : script + 2]
        return [*self._start, *arguments]


def test_all_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    there = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "proxy_cache").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())
    assert packed == there


def test_its_version(wheel: Path, run: Run) -> None:
    assert run("--version").stdout == f"proxy-cache {__version__}\n"
    assert wheel.name.split("-")[1] == __version__


def serves_a_hit(folder: Path, *start: str) -> None:
    with Origin() as origin, InstalledProxy(folder, *start) as proxy:
        url = origin.serve("/x", Reply(size=10_000, headers=(("Cache-Control", "max-age=600"),)))
        assert proxy.get(url, expect=10_000).ok
        assert proxy.get(url, expect=10_000).hit


def test_what_is_imported_is_what_was_installed(commands: Path, run: Run) -> None:
    """Not the checkout, though the packages of the tests' environment are seen."""
    done = run("-c", "import mitmproxy, proxy_cache; print(proxy_cache.__file__)", program=commands / "python")
    assert Path(done.stdout).is_relative_to(commands.parent), done.stderr


def test_mitmdump_with_the_addons_path(commands: Path, run: Run, tmp_path: Path) -> None:
    path = run("addon-path").stdout.rstrip("\n")
    assert Path(path).is_relative_to(commands.parent)
    serves_a_hit(tmp_path, str(commands / "mitmdump"), "-s", path)


def test_the_short_form(commands: Path, tmp_path: Path) -> None:
    serves_a_hit(tmp_path, str(commands / "proxy-cache"), "run")


def test_the_short_form_becomes_mitmdump(commands: Path, run: Run, tmp_path: Path) -> None:
    """No process of its own stays between: signals reach the proxy. Its arguments are mitmdump's, options too."""
    done = run("run", "--version")
    assert done.returncode == 0
    assert done.stdout.startswith("Mitmproxy: ")
    done = run("run", "--set", "cache_max_size=lots", "--set", f"confdir={tmp_path}", "--listen-port", "0")
    assert done.returncode == 1
    assert "cache_max_size: 'lots' is not a size" in done.stdout + done.stderr


def test_without_mitmproxy_it_says_so(commands: Path, run: Run) -> None:
    """Not that of another environment, though there may be one on the PATH."""
    mitmdump = commands / "mitmdump"
    hidden = mitmdump.rename(commands / "hidden")
    try:
        done = run("run")
    finally:
        hidden.rename(mitmdump)
    assert done.returncode == 2
    assert done.stderr == f"proxy-cache run: there is no mitmdump in {commands}: mitmproxy has to be installed there\n"
