"""Build tools with the variables of ``proxy-cache env``: each refuses a certificate of the proxy's CA without them, and
takes it with them. Directly, from a server on this machine, with mitmproxy's own CA and a leaf as it makes them."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from mitmproxy.certs import CertStore

from tests.support import repositories
from tests.support.git_server import GitServer
from tests.support.origin import Reply
from tests.support.proxy import ROOT, clean_environment
from tests.support.repositories import Repository
from tests.support.tools import SHORT_JAVA, need, run

TRUST = (
    "SSL_CERT_FILE", "SSL_CERT_DIR", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "NODE_USE_SYSTEM_CA", "DENO_CERT", "NIX_SSL_CERT_FILE",
    "JAVA_TOOL_OPTIONS", "UV_SYSTEM_CERTS", "UV_NATIVE_TLS", "GIT_SSL_NO_VERIFY", "npm_config_cafile",
)  # fmt: skip
"""That the machine may have set."""


@pytest.fixture(scope="module")
def confdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("confdir")
    CertStore.from_store(folder, "mitmproxy", 2048)
    return folder


@pytest.fixture(scope="module")
def tls(confdir: Path) -> ssl.SSLContext:
    """A server's, with a certificate for ``localhost``."""
    store = CertStore.from_store(confdir, "mitmproxy", 2048)
    made = store.get_cert("localhost", [x509.DNSName("localhost")])
    file = confdir / "leaf.pem"
    key = subprocess.run(
        [need("openssl"), "pkey", "-in", confdir / "mitmproxy-ca.pem"], check=True, capture_output=True
    ).stdout  # leaves have the CA's key
    file.write_bytes(key + made.cert.to_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@pytest.fixture(scope="module")
def exports(confdir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the command prints, as it is installed: by a shell that reads it."""
    bundle = tmp_path_factory.mktemp("bundle") / "bundle.pem"
    command = [sys.executable, "-m", "proxy_cache.cli", "env", "--confdir", str(confdir), "--bundle", str(bundle)]
    script = f'eval "$({" ".join(command)} 2>/dev/null)" && env -0'
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, env=bare(), check=True, capture_output=True, text=True)
    return dict(one.split("=", 1) for one in done.stdout.split("\0") if "=" in one)


def bare() -> dict[str, str]:
    return {name: value for name, value in clean_environment().items() if name not in TRUST}


@pytest.fixture
def served(tls: ssl.SSLContext) -> Iterator[Callable[..., str]]:
    """Starts a repository, and tells where it is."""
    running: list[Repository] = []

    def start(replies: Callable[[str], repositories.Replies]) -> str:
        repository = Repository(replies, tls=tls)
        repository.__enter__()
        running.append(repository)
        base = f"https://localhost:{repository.port}"
        repository.open(base)
        return base

    yield start
    for repository in running:
        repository.__exit__(None, None, None)


def check(exports: dict[str, str], command: Callable[[Path], list[str]], tmp_path: Path, **more: str) -> None:
    """Fails without, works with the exports. ``command`` is made for a folder of its own."""
    for number, extra in enumerate(({}, exports)):
        folder = tmp_path / str(number)
        folder.mkdir()
        home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), "XDG_CACHE_HOME": str(folder / "cache")}
        environment = {**bare(), **extra, **home, **more}
        done = subprocess.run(
            command(folder), stdin=subprocess.DEVNULL, capture_output=True, timeout=240, cwd=folder, env=environment,
            check=False,
        )  # fmt: skip
        told = (done.stdout + done.stderr).decode(errors="replace")
        assert (done.returncode == 0) == bool(extra), told
        if not extra:
            assert any(word in told.lower() for word in ("certif", "ssl", "x509", "tls", "issuer", "pkix")), told


def page(base: str) -> repositories.Replies:
    return {"/page": Reply(body=b"hello")}


def test_curl(served: Callable[..., str], exports: dict[str, str], tmp_path: Path) -> None:
    url = f"{served(page)}/page"
    check(exports, lambda folder: [need("curl"), "-q", "-sS", "--fail", url], tmp_path)


def test_pythons_own(served: Callable[..., str], exports: dict[str, str], tmp_path: Path) -> None:
    program = f"import urllib.request; urllib.request.urlopen('{served(page)}/page').read()"
    check(exports, lambda folder: [sys.executable, "-c", program], tmp_path)


def test_git(tls: ssl.SSLContext, exports: dict[str, str], tmp_path: Path) -> None:
    with GitServer(tmp_path / "git", tls) as server:
        url = f"https://localhost:{server.port}/sample.git"
        check(exports, lambda folder: [need("git"), "clone", "-q", url, "clone"], tmp_path)


def test_pip(served: Callable[..., str], exports: dict[str, str], tmp_path: Path) -> None:
    index = f"{served(repositories.python)}/simple/"
    options = ["--disable-pip-version-check", "--no-cache-dir", "--no-deps", "--retries", "0", "--index-url", index]
    check(exports, lambda folder: [sys.executable, "-m", "pip", "download", *options, "sample"], tmp_path,
          PIP_CONFIG_FILE="/dev/null")  # fmt: skip


def test_uv(served: Callable[..., str], exports: dict[str, str], tmp_path: Path) -> None:
    index = f"{served(repositories.python)}/simple/"
    uv = str(Path(sys.executable).parent / "uv")
    options = ["--no-config", "--no-cache", "--no-deps", "--python", sys.executable, "--index-url", index]
    check(exports, lambda folder: [uv, "pip", "install", *options, "--target", str(folder / "out"), "sample"], tmp_path,
          UV_HTTP_RETRIES="0")  # fmt: skip


def test_npm(served: Callable[..., str], exports: dict[str, str], tmp_path: Path) -> None:
    registry = f"{served(repositories.npm)}/"
    options = ["--registry", registry, "--fetch-retries", "0", "--no-audit", "--no-fund", "--cache", "npm"]
    check(exports, lambda folder: [need("npm"), "install", *options, "sample"], tmp_path, npm_config_userconfig="none")


def test_cargo(served: Callable[..., str], exports: dict[str, str], tmp_path: Path) -> None:
    need("cargo")
    registry = f"sparse+{served(repositories.cargo)}/index/"

    def command(folder: Path) -> list[str]:
        (folder / "src").mkdir()
        (folder / "src" / "lib.rs").touch()
        (folder / "Cargo.toml").write_text(
            '[package]\nname = "user"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\nsample = "1"\n'
        )
        (folder / "home").mkdir()
        (folder / "home" / "config.toml").write_text(
            f'[source.crates-io]\nreplace-with = "ours"\n[source.ours]\nregistry = "{registry}"\n[net]\nretry = 0\n'
        )
        environment = [f"CARGO_HOME={folder / 'home'}", f"RUSTUP_HOME={Path.home() / '.rustup'}"]
        return ["env", *environment, "cargo", "fetch"]

    check(exports, command, tmp_path)


def test_go(served: Callable[..., str], exports: dict[str, str], tmp_path: Path) -> None:
    proxy = f"{served(repositories.go)}/goproxy"
    check(
        exports, lambda folder: [need("go"), "mod", "download", "-modcacherw", "example.com/sample@v1.0.0"], tmp_path,
        GOPROXY=proxy, GONOSUMDB="*", GOFLAGS="-mod=mod", GOTOOLCHAIN="local", GOENV="off",
    )  # fmt: skip


def test_java(served: Callable[..., str], exports: dict[str, str], tmp_path: Path) -> None:
    java = need("java")
    if run([java, "--list-modules"]).stdout.find(b"jdk.compiler") < 0:
        pytest.skip("this Java has no compiler")
    url = f"{served(page)}/page"
    program = (
        "public class Get { public static void main(String[] a) throws Exception {"
        ' new java.net.URL(a[0]).openStream().readAllBytes(); System.out.println("done"); } }'
    )

    def command(folder: Path) -> list[str]:
        (folder / "Get.java").write_text(program)
        return [java, *SHORT_JAVA, "Get.java", url]

    check(exports, command, tmp_path)


def test_the_system_is_still_trusted(exports: dict[str, str]) -> None:
    """The bundle replaces the system's store, so it has to have that in it."""
    ours, system = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.create_default_context()
    ours.load_verify_locations(exports["SSL_CERT_FILE"])
    found = {str(one["serialNumber"]) for one in ours.get_ca_certs()}
    assert {str(one["serialNumber"]) for one in system.get_ca_certs()} <= found
    names = [dict(pair[0] for pair in one["subject"]).get("commonName") for one in ours.get_ca_certs()]  # type: ignore[misc]
    assert "mitmproxy" in names
