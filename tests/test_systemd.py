"""The unit in ``deploy/systemd``: what systemd thinks of it, and that the proxy does all it does within its limits."""

from __future__ import annotations

import functools
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

from proxy_cache.mitm.options import NAMES, OPTIONS
from tests.support import read_only
from tests.support.agents import results
from tests.support.origin import Origin, Reply
from tests.support.proxy import ROOT, Proxy
from tests.support.tools import need, run

FOLDER = ROOT / "deploy" / "systemd"
UNIT = FOLDER / "proxy-cache.service"
DROP_IN = FOLDER / "proxy-cache.service.d" / "tokens.conf"
PROGRAM = "/opt/proxy-cache/bin/proxy-cache"


def settings(path: Path = UNIT) -> dict[str, list[str]]:
    """What follows each name. (No line here is continued.)"""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def only(name: str) -> str:
    (value,) = settings()[name]
    return value


def seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)(s|min)", text)
    assert match, text
    return int(match[1]) * {"s": 1, "min": 60}[match[2]]


# -- what systemd says ------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with its drop-in, where the program exists."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(PROGRAM, sys.executable))
    (tmp_path / DROP_IN.parent.name).mkdir()
    (tmp_path / DROP_IN.parent.name / DROP_IN.name).write_text(DROP_IN.read_text())
    return unit


def test_systemd_has_nothing_to_say_about_it(installed: Path) -> None:
    done = run([need("systemd-analyze"), "verify", "--man=no", str(installed)])
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
    installed.write_text(installed.read_text().replace("ProtectHome=", "ProtectHouse="))
    assert b"ProtectHouse" in run([need("systemd-analyze"), "verify", "--man=no", str(installed)]).stderr


def test_its_exposure_is_below_two(installed: Path) -> None:
    """Of ten; the threshold is in tenths. A service without any setting has 9.6."""
    done = run([need("systemd-analyze"), "security", "--offline=true", "--threshold=19", str(installed)])
    if b"unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze is too old to look at files (before 250)")
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


# -- in agreement with the proxy --------------------------------------------------------------------------------------


def test_options_and_folders_agree() -> None:
    program, command, *arguments = shlex.split(only("ExecStart"))
    assert (program, command) == (PROGRAM, "run")
    options = dict(argument.removeprefix("--set=").split("=", 1) for argument in arguments)
    assert options == {
        "confdir": f"%S/{only('StateDirectory')}",
        "cache_dir": f"%C/{only('CacheDirectory')}",
    }
    assert "cache_dir" in NAMES
    assert only("StateDirectoryMode") == only("CacheDirectoryMode") == "0700"


def test_there_is_time_to_finish() -> None:
    defaults = {name: default for name, _, default, _ in OPTIONS}
    assert isinstance(defaults["shutdown_grace"], int)
    assert seconds(only("TimeoutStopSec")) >= defaults["shutdown_grace"] + 15


def test_secrets_are_found_where_the_drop_in_says() -> None:
    for credential in settings(DROP_IN)["LoadCredential"]:
        name, _, source = credential.partition(":")
        assert source == f"/etc/{only('ConfigurationDirectory')}/{name}"
        option = name.replace("-", "_").replace("peer", "cache_peer") + "_file"
        assert f"{option}: /run/credentials/{UNIT.name}/{name}\n" in DROP_IN.read_text()


def test_the_administrators_config_is_linked_and_one_that_is_there_stays(tmp_path: Path) -> None:
    for name in ("state", "etc"):
        (tmp_path / name / "proxy-cache").mkdir(parents=True)
    line = only("ExecStartPre").replace("%S", str(tmp_path / "state")).replace("%E", str(tmp_path / "etc"))
    command = [word.replace("$$", "$") for word in shlex.split(line)]
    link, source = (tmp_path / one / "proxy-cache" / "config.yaml" for one in ("state", "etc"))
    for _ in range(2):  # also while there is none
        assert run(command).returncode == 0
    source.write_text("origin_retries: 1\n")
    assert run(command).returncode == 0
    assert link.read_text() == "origin_retries: 1\n"
    link.unlink()
    link.write_text("origin_retries: 2\n")
    assert run(command).returncode == 0
    assert link.read_text() == "origin_retries: 2\n"


# -- within its limits ------------------------------------------------------------------------------------------------

WITHOUT_NEW_CODE = """
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Memory can't be made executable after that, as with MemoryDenyWriteExecute. (Linux before 6.3 has no such thing.)"""
AS_ROOT = {"fchown"} if os.geteuid() == 0 else set()
"""SQLite hands its files over to their folder's account, if it may. The service has another account."""


@functools.cache
def system_calls(group: str) -> frozenset[str]:
    """Those of a group like ``@system-service``, and of the groups in it."""
    done = run([need("systemd-analyze"), "syscall-filter", group])
    assert done.returncode == 0, done.stderr
    found: set[str] = set()
    for word in (line.split("#")[0].strip() for line in done.stdout.decode().splitlines()[1:]):
        if word.startswith("@"):
            found |= system_calls(word)
        elif word:
            found.add(word)
    return frozenset(found)


def permitted() -> list[str]:
    """By the unit's lines, in their order."""
    calls: set[str] = set()
    for line in settings()["SystemCallFilter"]:
        named: set[str] = set()
        for word in line.removeprefix("~").split():
            named |= system_calls(word) if word.startswith("@") else {word}
        calls = calls - named if line.startswith("~") else calls | named
    return sorted(calls)


class ConfinedProxy(Proxy):
    """Its folder is all that it can write, and system calls that the unit's filter has not fail, with EPERM, and are
    written down."""

    @property
    def refused(self) -> Path:
        return self.folder / "refused"

    def command(self) -> list[str]:
        others = "!" + ",".join(f"?{name}" for name in permitted())
        # -D: the proxy is the child, and gets the signals.
        tracer = [need("strace"), "-D", "-f", "-qq", "--seccomp-bpf", "-o", str(self.refused)]
        tracer += [
            "-e",
            "signal=none",
            "-e",
            f"trace={others}",
            "-e",
            f"inject={others}:error={only('SystemCallErrorNumber')}",
        ]
        wrapper = [*read_only.all_but(self.folder), sys.executable, "-c", WITHOUT_NEW_CODE]
        return [*wrapper, *tracer, *super().command()]


def test_all_that_the_proxy_does_is_permitted(tmp_path: Path) -> None:
    with Origin() as origin, ConfinedProxy(tmp_path, execute=True, environment={"HOME": "/"}) as proxy:
        for size in (1_000, 200_000, 8_000_000):  # in memory, by sendfile, by splice and from its own file
            url = origin.serve(f"/{size}", Reply(size=size, headers=(("Cache-Control", "max-age=600"),)))
            assert proxy.get(url, expect=size).ok
            proxy.wait_until_idle()
            assert all(answer.hit for answer in results([proxy.start_get(url, expect=size) for _ in range(3)]))
        assert proxy.request("POST", origin.url("/post"), body=b"x").ok
        proxy.signal(signal.SIGHUP)
        proxy.wait_for_log("config.yaml read again")
        proxy.signal(signal.SIGTERM)
        assert proxy.wait() == 0
    calls = {match[1]: match[0] for match in re.finditer(r"^\d+ (\w+)\(.*", proxy.refused.read_text(), re.MULTILINE)}
    assert calls.keys() <= AS_ROOT, calls
