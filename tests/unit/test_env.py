"""``proxy-cache env``: what it prints for each shell, the bundle that it writes, and what it says about bad input."""

from __future__ import annotations

import datetime
import re
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mitmproxy.certs import CertStore

from proxy_cache.cli.certificates import as_java_store
from proxy_cache.cli.main import main
from proxy_cache.cli.variables import ProxyUrl
from tests.support.certificates import issued, self_signed


@pytest.fixture(scope="module")
def confdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mitmproxy's folder, as it makes it."""
    folder = tmp_path_factory.mktemp("confdir")
    CertStore.from_store(folder, "mitmproxy", 2048)
    return folder


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A system's certificates, among remarks."""
    root, intermediate, _ = issued(tmp_path, "company")
    file = tmp_path / "system.pem"
    file.write_text(f"# The company's\n{root.read_text()}\n# b\u00fccher\n{intermediate.read_text()}", encoding="utf8")
    return file


def certificates(file: Path) -> list[bytes]:
    text = file.read_text()
    assert "PRIVATE" not in text
    blocks = re.findall("-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----", text)
    return [ssl.PEM_cert_to_DER_cert(block) for block in blocks]


def run(*arguments: str | Path, **environment: str) -> int:
    return main(["env", *map(str, arguments)], environment)


def values(text: str, shell: str) -> dict[str, str]:
    """The variables as that shell has them afterwards."""
    if shell in ("github", "docker"):
        return dict(line.split("=", 1) for line in text.splitlines())
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        [program, "-c", f"{text}\nenv -0"], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    return dict(one.split("=", 1) for one in done.stdout.split("\0") if "=" in one)


@pytest.mark.parametrize("shell", ["sh", "fish", "github", "docker"])
def test_a_shell_has_the_variables_afterwards(
    shell: str, tmp_path: Path, confdir: Path, system: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "it's a 'folder' $HOME" / "bundle.pem"
    proxy = "http://user:p%40ss$word@proxy.example:3128"
    assert run("--shell", shell, "--proxy", proxy, "--confdir", confdir, "--system", system, "--bundle", bundle) == 0
    printed = capsys.readouterr()
    found = values(printed.out, shell)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "YARN_HTTPS_PROXY"):
        assert found[name] == proxy
    assert found["no_proxy"] == found["NO_PROXY"] == "localhost,127.0.0.1,::1"
    for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO"):
        assert found[name] == str(bundle)
    assert "-Dhttps.proxyHost=proxy.example" in found["JAVA_TOOL_OPTIONS"]
    assert "p%40ss" not in found["JAVA_TOOL_OPTIONS"] + printed.err
    ours = certificates(confdir / "mitmproxy-ca-cert.pem")
    assert certificates(Path(found["NODE_EXTRA_CA_CERTS"])) == ours
    assert certificates(bundle) == [*certificates(system), *ours]
    assert str(bundle) in printed.err


def test_what_is_there_already_is_kept(
    tmp_path: Path, confdir: Path, system: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another NO_PROXY, options of Java's, and a bundle of the company's: once, however often it is run."""
    bundle = tmp_path / "bundle.pem"
    environment = {"NO_PROXY": ".example.com", "JAVA_TOOL_OPTIONS": "-Xmx1g -Dhttp.proxyHost=old -Da=b"}
    arguments = ("--shell", "github", "--confdir", confdir, "--bundle", bundle)
    assert run(*arguments, SSL_CERT_FILE=str(system), **environment) == 0
    first = values(capsys.readouterr().out, "github")
    assert certificates(system)[0] in certificates(bundle)
    assert first["no_proxy"] == ".example.com"
    assert first["JAVA_TOOL_OPTIONS"].startswith("-Xmx1g -Da=b -Dhttp.proxyHost=127.0.0.1 ")
    assert run(*arguments, "--system", str(system), **first) == 0
    assert values(capsys.readouterr().out, "github") == first
    assert len(certificates(bundle)) == 3


def test_the_bundle_is_not_taken_for_the_systems(tmp_path: Path, confdir: Path, system: Path) -> None:
    """A second run in the same shell, where SSL_CERT_FILE names what the first one wrote, with another CA by then."""
    bundle = tmp_path / "bundle.pem"
    assert run("--confdir", confdir, "--system", system, "--bundle", bundle) == 0
    old = certificates(bundle)[-1]
    CertStore.from_store(tmp_path / "new", "mitmproxy", 2048)
    if run("--confdir", tmp_path / "new", "--bundle", bundle, SSL_CERT_FILE=str(bundle)) == 0:
        assert old not in certificates(bundle)


def test_an_operators_own_ca(tmp_path: Path, system: Path) -> None:
    """mitmproxy is given one as `mitmproxy-ca.pem`, key and certificate in one file: the key stays there."""
    now = datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a company")])
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(7).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "mitmproxy-ca.pem").write_bytes(secret + pem)
    bundle = tmp_path / "out" / "bundle.pem"
    assert run("--confdir", tmp_path, "--system", system, "--bundle", bundle) == 0
    assert certificates(bundle)[-1] == ssl.PEM_cert_to_DER_cert(pem.decode())
    for file in bundle.parent.iterdir():
        assert b"PRIVATE" not in file.read_bytes()
        assert file.stat().st_mode & 0o777 == 0o644


def test_java_reads_its_store(tmp_path: Path, system: Path) -> None:
    keytool = shutil.which("keytool")
    if keytool is None:
        pytest.skip("keytool is not installed")
    store = tmp_path / "store.jks"
    store.write_bytes(as_java_store(certificates(system)))
    command = [keytool, "-list", "-keystore", str(store), "-storepass", "changeit"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("trustedCertEntry") == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--proxy", "https://a:1"), "--proxy: the proxy speaks http to its clients, not https"),
        (("--proxy", "http://secret:word@host"), "--proxy: has to be http://HOST:PORT"),
        (("--proxy", "http://host:0"), "--proxy: has to be http://HOST:PORT"),
        (("--proxy", "http://host:99999"), "--proxy: has to be http://HOST:PORT"),
        (("--proxy", "http://host:80/path"), "--proxy: has to be http://HOST:PORT"),
        (("--proxy", "http://a b:80"), "--proxy: has to be http://HOST:PORT"),
        (("--proxy", "http://[::1:80"), "--proxy: has to be http://HOST:PORT"),
        (("--proxy", "http://a';reboot':80"), "--proxy: has to be http://HOST:PORT"),
        (("--no-proxy", "a\nb"), "no_proxy: there is a line break"),
        (("--confdir", "nowhere"), "--confdir: there is no folder nowhere"),
        (("--confdir", "."), "--confdir: . has no mitmproxy-ca-cert.pem that can be read"),
        (("--ca", "nowhere"), "--ca: nowhere cannot be read: No such file or directory"),
        (("--ca", "text"), "--ca: text has no certificate in it (PEM)"),
        (("--ca", "broken"), "--ca: broken has a certificate that cannot be read"),
        (("--ca", "leaf"), "--ca: leaf has no certificate of a CA in it"),
        (("--system", "nowhere"), "--system: nowhere cannot be read"),
        (("--system", "text"), "--system: text has no certificate in it"),
        (("--bundle", "."), "is a folder; name a file"),
        (("--bundle", "text/bundle.pem"), "cannot be written: "),
        (("--bundle", "bundle.jks"), "--bundle: the bundle is PEM"),
    ],
)
def test_bad_input_gets_one_line(
    arguments: tuple[str, ...],
    complaint: str,
    tmp_path: Path,
    confdir: Path,
    system: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("nothing")
    Path("broken").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    self_signed(Path("leaf"))
    good = ["--confdir", confdir, "--system", system, "--bundle", tmp_path / "bundle.pem"]
    assert run(*good, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("proxy-cache env: ")
    assert complaint in printed.err
    assert printed.err.count("\n") == 1
    assert "secret" not in printed.err
    assert not (tmp_path / "bundle.pem").exists()


def test_an_expired_ca_is_named(tmp_path: Path, system: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old")])
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(7).not_valid_before(now - datetime.timedelta(days=9))
    built = built.not_valid_after(now - datetime.timedelta(days=1))
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    file = tmp_path / "old.pem"
    file.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    assert run("--ca", file, "--system", system, "--bundle", tmp_path / "bundle.pem") == 2
    assert "--ca: the CA in " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "url", "host"),
    [
        ("proxy.example:8080", "http://proxy.example:8080", "proxy.example"),
        ("http://127.0.0.1:1/", "http://127.0.0.1:1", "127.0.0.1"),
        ("http://[::1]:8080", "http://[::1]:8080", "::1"),
        ("http://me:a%3Ab@h:8080", "http://me:a%3Ab@h:8080", "h"),
    ],
)
def test_forms_of_a_proxys_url(text: str, url: str, host: str) -> None:
    found = ProxyUrl.of(text)
    assert (found.url, found.host) == (url, host)
