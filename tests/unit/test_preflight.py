"""``proxy-cache check``: what it says of options and of their surroundings, and that it leaves nothing behind.
(``tests/test_options.py`` has it foretell each bad option.)"""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mitmproxy.certs import CertStore

from proxy_cache.cli.main import main
from proxy_cache.preflight import authority, clock, disk, listening, machine, others, versions
from proxy_cache.preflight.checks import check
from proxy_cache.preflight.finding import FAULT, OK, WARNING, Finding
from proxy_cache.store.folder import FolderLock
from proxy_cache.store.store import Quota
from tests.support.certificates import self_signed
from tests.support.origin import bind_new_port


@pytest.fixture
def free(tmp_path: Path) -> list[str]:
    """Arguments with which there is nothing to say: ports that are free, folders of its own."""
    return [
        "--listen-host", "127.0.0.1", "--listen-port", "0", "--set", "metrics_listen=127.0.0.1:0",
        "--set", f"confdir={tmp_path / 'mitmproxy'}", "--set", f"cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip


def _without_metrics(arguments: list[str]) -> list[str]:
    at = arguments.index("metrics_listen=127.0.0.1:0")
    return [*arguments[: at - 1], *arguments[at + 1 :]]


def levels(findings: Iterable[Finding]) -> set[str]:
    return {one.level for one in findings}


def told(findings: Iterable[Finding], subject: str, level: str) -> str:
    """What is said of it, at that level."""
    return "\n".join(one.text for one in findings if (one.subject, one.level) == (subject, level))


def test_nothing_wrong_and_nothing_left(tmp_path: Path, free: list[str]) -> None:
    findings = check(free)
    assert not [one for one in findings if one.level == FAULT]
    assert "6 set" in told(findings, "options", OK) or "5 set" in told(findings, "options", OK)
    assert "with a new CA" in told(findings, "confdir", OK)
    assert "can be made" in told(findings, "cache_dir", OK)
    assert list(tmp_path.iterdir()) == []


def test_each_bad_option_is_named(tmp_path: Path, free: list[str]) -> None:
    (tmp_path / "mitmproxy").mkdir()
    (tmp_path / "mitmproxy" / "config.yaml").write_text(
        "origin_queue_max: lots\ncache_hots: a\ncache_ttl: ['|~d a|1d']\n"
    )
    findings = check(
        [*free, "--set", "cache_max_size=foo", "--set", "origin_retries=-1", "--set", "cache_memory=50%", "-m", "bogus"]
    )
    assert "no such option; did you mean cache_hosts?" in told(findings, "cache_hots", FAULT)
    for name in ("origin_queue_max", "cache_max_size", "origin_retries", "cache_memory", "mode"):
        assert told(findings, name, FAULT), name
    assert not told(findings, "cache_ttl", FAULT)


def test_arguments_that_mitmdump_does_not_take(free: list[str]) -> None:
    assert told(check([*free, "--bogus"]), "options", FAULT) == "unrecognized arguments: --bogus"


def test_the_command_line_wins_over_the_file(tmp_path: Path, free: list[str]) -> None:
    (tmp_path / "mitmproxy").mkdir()
    (tmp_path / "mitmproxy" / "config.yaml").write_text("cache_max_size: foo\n")
    assert told(check(free), "cache_max_size", FAULT)
    (tmp_path / "mitmproxy" / "config.yaml").write_text("cache_memory: 1g\n")
    assert "2.0 MiB of" in told(check([*free, "--set", "cache_memory=2m"]), "cache_memory", OK)


def test_an_option_of_another_script_may_be_its_own(tmp_path: Path, free: list[str]) -> None:
    script = tmp_path / "other.py"
    script.write_text("raise SystemExit('it is not run')\n")
    findings = check([*free, "-s", str(script), "--set", "of_another=1"])
    assert "one of the scripts may have it" in told(findings, "of_another", WARNING)


# -- ports ------------------------------------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[int]:
    with bind_new_port() as server:
        server.listen()
        yield server.getsockname()[1]


def test_a_port_that_is_taken(free: list[str], taken: int) -> None:
    assert "the port is taken" in told(check([*free, "-p", str(taken)]), "listen_port", FAULT)
    findings = check([*_without_metrics(free), "--set", f"metrics_listen=127.0.0.1:{taken}"])
    assert "the port is taken" in told(findings, "metrics_listen", FAULT)
    findings = check([*free, "-m", "regular", "-m", f"reverse:https://packages.example@{taken}"])
    assert "the port is taken" in told(findings, "mode", FAULT)


def test_one_port_for_two(free: list[str]) -> None:
    with bind_new_port() as server:
        port = server.getsockname()[1]
    findings = check([*_without_metrics(free), "-p", str(port), "--set", f"metrics_listen=127.0.0.1:{port}"])
    assert "regular has that port" in told(findings, "metrics_listen", FAULT)


def test_an_address_of_another_machine_and_none(free: list[str]) -> None:
    findings = list(listening.check([], ("192.0.2.1", 0)))
    assert levels(findings) == {FAULT}
    assert "off" in told(listening.check([], None), "metrics_listen", WARNING)
    assert "whoever reaches it" in told(listening.check([], ("0.0.0.0", 0)), "metrics_listen", WARNING)
    udp = told(check([*free, "-m", "dns@127.0.0.1:0"]), "mode", OK)
    assert "dns" in udp


# -- the disk ---------------------------------------------------------------------------------------------------

QUOTA = Quota(0.8, 0.05)


def test_a_folder_that_is_none_or_in_use(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is no folder" in told(disk.check(tmp_path / "file", QUOTA), "cache_dir", FAULT)
    assert "is no folder" in told(disk.check(tmp_path / "file" / "cache", QUOTA), "cache_dir", FAULT)
    lock = FolderLock(tmp_path / "cache")
    lock.acquire()
    try:
        assert f"pid {os.getpid()}" in told(disk.check(tmp_path / "cache", QUOTA), "cache_dir", FAULT)
    finally:
        lock.release()
    assert "can be written" in told(disk.check(tmp_path / "cache", QUOTA), "cache_dir", OK)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]
    (tmp_path / "cache").chmod(0o755)
    assert "read by others" in told(disk.check(tmp_path / "cache", QUOTA), "cache_dir", WARNING)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written" in told(disk.check(tmp_path / "cache", QUOTA), "cache_dir", FAULT)


def test_a_cache_that_the_disk_has_no_room_for(tmp_path: Path) -> None:
    findings = list(disk.check(tmp_path, Quota(1 << 60, 0)))
    assert "for a cache of 1048576.0 TiB" in told(findings, "cache_max_size", WARNING)
    assert "no more than 0 B" in told(disk.check(tmp_path, Quota(0.8, 1 << 60)), "cache_max_size", WARNING)


def test_memory_that_looks_like_a_disk() -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or disk.file_system(memory) != "tmpfs":
        pytest.skip("no tmpfs at /dev/shm")
    assert "tmpfs" in told(disk.check(memory / "cache", QUOTA), "cache_dir", WARNING)


# -- the CA and the files with secrets ---------------------------------------------------------------------------


@pytest.fixture
def confdir(tmp_path: Path) -> Path:
    folder = tmp_path / "mitmproxy"
    CertStore.from_store(folder, "mitmproxy", 2048)
    return folder


def authority_file(folder: Path, *, days: int, is_ca: bool = True, begins: int = -100) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a company")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
        .not_valid_before(now + datetime.timedelta(days=begins)).not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / authority.FILE).write_bytes(secret + built.public_bytes(pem))


def test_a_ca_that_clients_can_trust(confdir: Path) -> None:
    assert levels(authority.check(str(confdir), is_needed=True)) == {OK}
    (confdir / authority.FILE).chmod(0o644)
    assert "others may read it (0644)" in told(authority.check(str(confdir), is_needed=True), "confdir", WARNING)


@pytest.mark.parametrize(("is_needed", "level"), [(True, FAULT), (False, WARNING)])
def test_a_ca_that_clients_cannot_trust(tmp_path: Path, is_needed: bool, level: str) -> None:
    def said() -> str:
        return told(authority.check(str(tmp_path), is_needed=is_needed), "confdir", level)

    authority_file(tmp_path, days=-1)
    assert "has expired" in said()
    authority_file(tmp_path, days=100, begins=10)
    assert "not valid before" in said()
    authority_file(tmp_path, days=100, is_ca=False)
    assert "no CA's" in said()
    self_signed(tmp_path / authority.FILE)
    assert "no CA's" in said()


def test_a_ca_at_its_end_and_files_that_are_none(tmp_path: Path, confdir: Path) -> None:
    authority_file(tmp_path, days=10)
    assert "expires soon" in told(authority.check(str(tmp_path), is_needed=False), "confdir", WARNING)
    certificate = (confdir / "mitmproxy-ca-cert.pem").read_bytes()
    (tmp_path / authority.FILE).write_bytes(certificate)
    assert "no key in it" in told(authority.check(str(tmp_path), is_needed=False), "confdir", FAULT)
    (tmp_path / authority.FILE).write_bytes(b"nonsense")
    assert "no certificate" in told(authority.check(str(tmp_path), is_needed=False), "confdir", FAULT)
    (tmp_path / authority.FILE).unlink()
    assert "makes a new one" in told(authority.check(str(tmp_path), is_needed=False), "confdir", OK)


@pytest.mark.parametrize(
    ("mode", "level"),
    [
        (0o600, OK), (0o400, OK), (0o644, WARNING), (0o620, FAULT), (0o666, FAULT),
        (0o440, WARNING if os.getuid() else OK), (0o640, WARNING if os.getuid() else OK),  # OK if it is root's
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["admin_token_file", "cache_peer_token_file"])
def test_who_may_read_a_secret(tmp_path: Path, free: list[str], name: str, mode: int, level: str) -> None:
    file = tmp_path / "token"
    file.write_text("a-secret-of-thirty-two-characters\n")
    file.chmod(mode)
    findings = check([*free, "--set", f"{name}={file}"])
    assert told(findings, name, level)
    assert "a-secret" not in str(findings)


def test_secrets_on_the_command_line_are_not_repeated(free: list[str]) -> None:
    findings = check(
        [*free, "--set", "upstream_auth=user:hunter2", "--set", "proxyauth=user:hunter2", "-m", "upstream:x@y"]
    )
    assert "hunter2" not in str(findings)


# -- others -----------------------------------------------------------------------------------------------------


def test_peers_by_address_by_name_and_in_a_file(tmp_path: Path, free: list[str]) -> None:
    listed = tmp_path / "peers.json"
    listed.write_text(json.dumps([{"targets": ["127.0.0.1:1", "127.0.0.2:1"]}]))
    peers = ("http://127.0.0.1:8080", "http://localhost:8080", f"file://{listed}")
    arguments = [*free, *(word for peer in peers for word in ("--set", f"cache_peers={peer}"))]
    said = told(check(arguments), "cache_peers", OK)
    assert "http://127.0.0.1:8080 is an address" in said
    assert "http://localhost:8080 is 127.0.0.1" in said or "localhost:8080 is ::1" in said
    assert "lists 2 peers" in said
    listed.write_text("[{]")
    assert "peers.json: not JSON" in told(check(arguments), "cache_peers", FAULT)


def test_a_name_that_is_not_found() -> None:
    """(One that can't be asked for: nobody is.)"""
    found = others._name("http://xxx:80", "x" * 64)
    assert (found.level, found.subject) == (WARNING, "cache_peers")
    assert "not found" in found.text


def test_a_shared_store_in_a_folder(tmp_path: Path, free: list[str]) -> None:
    pytest.importorskip("obstore")
    arguments = [*free, "--set", f"cache_shared=file://{tmp_path / 'shared'}"]
    assert "no folder" in told(check(arguments), "cache_shared", FAULT)
    (tmp_path / "shared").mkdir()
    assert told(check(arguments), "cache_shared", OK)
    bad = told(check([*free, "--set", "cache_shared=ftp://bucket"]), "cache_shared", FAULT)
    assert "ftp://bucket" in bad


def test_a_clock_that_stands_in_the_past(tmp_path: Path) -> None:
    assert levels(clock.check(tmp_path)) == {OK}
    assert "is before" in told(clock.check(tmp_path, now=1000.0), "clock", WARNING)
    (tmp_path / "index.sqlite").touch()
    os.utime(tmp_path / "index.sqlite", times=(time.time() + 86400,) * 2)
    assert "the cache's index" in told(clock.check(tmp_path), "clock", WARNING)


def test_the_machine() -> None:
    assert levels(versions.check()) == {OK}
    assert told(machine.check(1 << 60), "cache_memory", WARNING)
    assert told(machine.check(1), "cache_memory", OK)


# -- the command ------------------------------------------------------------------------------------------------


def test_the_exit_status_and_json(tmp_path: Path, free: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *free], {}) == 0
    assert "\nok " in capsys.readouterr().out
    assert main(["check", "--json", *free, "--set", "cache_max_size=foo"], {}) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert {"subject": "cache_max_size", "level": "fault"}.items() <= found["findings"][2].items()
    assert main(["check", "--problems", *free, "--set", "cache_max_size=foo"], {}) == 1
    assert capsys.readouterr().out.startswith("fault")
    assert main(["check", "--confdir", str(tmp_path / "other"), *free[:-4], *free[-2:]], {}) == 0
    assert str(tmp_path / "other") in capsys.readouterr().out


def test_ports_are_free_again(free: list[str]) -> None:
    with bind_new_port() as server:
        port = server.getsockname()[1]
    assert told(check([*free, "-p", str(port)]), "listen_port", OK)
    with socket.create_server(("127.0.0.1", port)):
        pass
