"""Certificates that nobody but a test trusts."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def self_signed(
    file: Path, host: str = "", *, address: str | None = "127.0.0.1", days: int = 1, name: str = "origin.test"
) -> Path:
    """A certificate for an address and a host (or just for a common name, as they once were) with its key, in one file.
    ``days``: until it expires, less than 0 if it has."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
    names: list[x509.GeneralName] = [x509.DNSName(host)] if host else []
    if address is not None:
        names.append(x509.IPAddress(ipaddress.ip_address(address)))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = builder.sign(key, hashes.SHA256())
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return file


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def folder_of(certificate: Path, folder: Path) -> Path:
    """A folder in which OpenSSL finds it, by the hash of its name."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl")
    command = [openssl, "x509", "-in", certificate, "-noout", "-subject_hash"]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    folder.mkdir()
    shutil.copy(certificate, folder / f"{name}.0")
    return folder


def issued(folder: Path, name: str, host: str = "") -> tuple[Path, Path, Path]:
    """A private CA ``name``, as companies have them: the files of its root, of an intermediate CA, and of a certificate
    for 127.0.0.1 (and ``host``) from that, with its key and the intermediate in the same file. None has a key
    identifier."""
    now = datetime.datetime.now(datetime.UTC)
    files, issuer = [], None
    for number, rank in enumerate(("root", "intermediate", "server")):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{name} {rank}")])
        issuer_name, issuer_key = issuer or (subject, key)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=10))
            .not_valid_after(now + datetime.timedelta(days=1))
        )
        if number < 2:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        else:
            names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            if host:
                names.append(x509.DNSName(host))
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        pem = builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        if number == 2:
            private = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            pem = private + pem + files[1].read_bytes()
        files.append(folder / f"{name} {rank}.pem")
        files[-1].write_bytes(pem)
        issuer = subject, key
    return files[0], files[1], files[2]
