"""Certificates for hosts that are intercepted, as clients see them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from mitmproxy import certs

from proxy_cache.mitm import leaves
from proxy_cache.mitm.leaves import Leaves, ca_problem


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> Any:
    """The certificate that a client has accepted."""
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(one, other, server_side=True), client.wrap_bio(other, one, server_hostname=name)]
    for _ in range(4):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[1].getpeercert(binary_form=True)


async def made(store: Any, host: str) -> ssl.SSLContext:
    return await Leaves(lambda: store).context(host)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return certs.CertStore.from_store(tmp_path_factory.mktemp("ca"), "mitmproxy", 2048)


@pytest.mark.parametrize("host", ["packages.example", "10.1.2.3", "::1", "a" * 60 + ".b" * 60 + ".example"])
def test_it_is_for_the_host_alone(store: Any, host: str) -> None:
    context = asyncio.run(made(store, host))
    client = ssl.create_default_context(cadata=store.default_ca.to_pem().decode())
    leaf = x509.load_der_x509_certificate(handshake(context, client, host))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    try:
        expected: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        expected = x509.DNSName(host)
    assert list(names) == [expected]
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, client, "other.example")


KEYS = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ec": lambda: ec.generate_private_key(ec.SECP384R1()),
}


FOR_SIGNING = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
)  # fmt: skip


def own_ca(folder: Path, kind: str) -> tuple[Any, bytes]:
    """An operator's own CA under a root, as mitmproxy's documentation has it: its store, and the root in PEM."""
    now = datetime.datetime.now(datetime.UTC)
    issuer: Any = None
    pems, root = b"", b""
    for name in ("root", "own"):
        key: Any = KEYS[kind]()
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signer_name, signer = issuer or (subject, key)
        pem = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signer_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(FOR_SIGNING, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .sign(signer, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )
        issuer = subject, key
        root = root or pem
        pems = pem + pems
    private = issuer[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "mitmproxy-ca.pem").write_bytes(private + pems)
    return certs.CertStore.from_store(folder, "mitmproxy", 2048), root


@pytest.mark.parametrize("kind", list(KEYS))
def test_a_ca_of_the_operators_under_a_root(tmp_path: Path, kind: str) -> None:
    """Clients trust the root alone: what is between comes with the leaf."""
    store, root = own_ca(tmp_path, kind)
    context = asyncio.run(made(store, "packages.example"))
    client = ssl.create_default_context(cadata=root.decode())
    assert handshake(context, client, "packages.example")


def test_a_ca_that_no_client_can_trust_is_told(store: Any, tmp_path: Path) -> None:
    """mitmproxy takes it, and each client would be told to trust a CA that it trusts already."""
    own, _ = own_ca(tmp_path, "ec")
    assert ca_problem(store) == ca_problem(own) == ""
    own.default_privatekey = KEYS["ec"]()
    assert ca_problem(own) == "its key is not the one of its certificate"


@pytest.mark.parametrize("wrong", ["expired", "a server's"])
def test_a_certificate_that_is_no_good_for_a_ca_is_told(wrong: str) -> None:
    key, now = KEYS["ec"](), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, wrong)])
    until = now + datetime.timedelta(days=-1 if wrong == "expired" else 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=wrong == "expired", path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    told = ca_problem(SimpleNamespace(default_ca=certs.Cert(certificate), default_privatekey=key))
    assert told == (f"it has expired ({until:%Y-%m-%d})" if wrong == "expired" else NO_CA)


NO_CA = "its certificate is no CA's, but one of a server or a person"


def test_a_certificate_of_the_operators(store: Any, tmp_path: Path) -> None:
    """mitmproxy's option ``certs``."""
    from tests.support.certificates import self_signed

    file = self_signed(tmp_path / "given.pem", "given.example", address=None)
    store.add_cert_file("given.example", file)
    context = asyncio.run(made(store, "given.example"))
    client = ssl.create_default_context(cadata=file.read_text()[file.read_text().index("-----BEGIN CERT") :])
    assert handshake(context, client, "given.example")


def test_one_is_made_once_for_all_who_ask(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "KEPT", 2)

    async def ask() -> None:
        kept = Leaves(lambda: store)
        first = [kept.context("a.example") for _ in range(50)]
        assert len(set(map(id, first))) == 1
        context = await first[0]
        assert await kept.context("a.example") is context
        for host in ("b.example", "c.example"):
            await kept.context(host)
        assert await kept.context("a.example") is not context

    asyncio.run(ask())


def test_another_ca_and_a_failure_are_not_kept(store: Any, tmp_path: Path) -> None:
    class Broken:
        def asterisk_forms(self, host: str) -> list[str]:
            raise OSError("disk full")

    async def ask() -> None:
        stores: list[Any] = [Broken()]
        kept = Leaves(lambda: stores[-1])
        for _ in range(2):
            with pytest.raises(OSError, match="disk full"):
                await kept.context("a.example")
        stores.append(store)
        context = await kept.context("a.example")
        stores.append(certs.CertStore.from_store(tmp_path, "mitmproxy", 2048))
        assert await kept.context("a.example") is not context

    asyncio.run(ask())


def test_who_asks_for_a_thousand_names_holds_up_nobody_else(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client has one made at a time; and none is made for those who have left."""
    made: list[str] = []
    monkeypatch.setattr(leaves, "_context", lambda store, host: made.append(host) or ssl.create_default_context())

    async def run() -> None:
        found = Leaves(lambda: store)
        stays = True
        greedy = [found.context(f"{number}.example", "mallory", lambda: stays) for number in range(1500)]
        assert found.context("1499.example", "bob") is greedy[-1]
        await found.context("packages.example", "alice")
        assert len(made) <= 4
        stays = False
        results = await asyncio.gather(*greedy, return_exceptions=True)
        assert len(made) <= 8
        assert isinstance(results[-1], ssl.SSLContext)  # somebody else waits for that
        assert all(isinstance(each, leaves.Abandoned) for each in results[10:-1])
        assert not any(each.wanted for each in found._kept.values())  # nor are their connections kept
        again = found.context("1400.example", "bob")
        assert isinstance(await again, ssl.SSLContext)
        assert len(found._kept) <= leaves.KEPT

    asyncio.run(run())
