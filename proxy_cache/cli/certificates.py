"""Bundles of certificates: what the system trusts, and the proxy's own CA.

Most variables that name a bundle (``SSL_CERT_FILE`` and its like) replace the system's store, so one with the proxy's
CA alone would have every other connection fail.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import struct
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from .command import BadInput

SYSTEM: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",  # Alpine, FreeBSD, macOS
)
CA_NAMES: Final = ("mitmproxy-ca.pem", "mitmproxy-ca-cert.pem")
"""In mitmproxy's folder: the CA that it uses, with its key, which only the proxy's own user may read; and the
certificate alone."""
JAVA_PASSWORD: Final = "changeit"
"""Of Java's own store, too: there is no secret in it."""
_BLOCK: Final = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def proxy_ca(confdir: Path, file: Path | None) -> list[bytes]:
    """The proxy's CA, in DER: of ``file``, or of mitmproxy's folder. Raises :class:`BadInput`."""
    if file is not None:
        return _checked("--ca", file, _read("--ca", file))
    if not confdir.is_dir():
        raise BadInput(f"--confdir: there is no folder {confdir} (mitmproxy makes it when it starts); see also --ca")
    for name in CA_NAMES:
        path = confdir / name
        with suppress(FileNotFoundError, PermissionError):
            # Never the whole file: the first one has a key in it.
            return _checked("--confdir", path, path.read_text("ascii", "replace"))
    raise BadInput(f"--confdir: {confdir} has no {CA_NAMES[1]} that can be read (mitmproxy makes it when it starts)")


def system_store(file: Path | None, environment: Mapping[str, str], bundle: Path) -> tuple[Path, list[bytes]]:
    """The system's certificates in DER, and where they are from. ``bundle``: what is going to be written, which may be
    what ``SSL_CERT_FILE`` names by now. Raises :class:`BadInput`."""
    if file is not None:
        return file, _found("--system", file, _read("--system", file))
    named = environment.get("SSL_CERT_FILE")
    candidates = [Path(named)] if named and Path(named).absolute() != bundle.absolute() else []
    candidates += [Path(path) for path in (*SYSTEM, ssl.get_default_verify_paths().openssl_cafile)]
    for path in candidates:
        with suppress(OSError, BadInput):
            return path, _found("--system", path, path.read_text("ascii", "replace"))
    raise BadInput("--system: the system's certificates were not found; name a file with them (PEM)")


def _read(option: str, path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError as error:
        raise BadInput(f"{option}: {path} cannot be read: {error.strerror}") from error


def _found(option: str, path: Path, text: str) -> list[bytes]:
    """The certificates in a file, and nothing else of it."""
    found = []
    for block in _BLOCK.findall(text):
        try:
            found.append(ssl.PEM_cert_to_DER_cert(block))
        except ValueError as error:
            raise BadInput(f"{option}: {path} has a certificate that cannot be read") from error
    if not found:
        raise BadInput(f"{option}: {path} has no certificate in it (PEM)")
    return found


def _checked(option: str, path: Path, text: str) -> list[bytes]:
    """Those of CAs."""
    authorities = []
    for der in _found(option, path, text):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cadata=der)
        except ssl.SSLError as error:
            raise BadInput(f"{option}: {path} has a certificate that cannot be read") from error
        for one in context.get_ca_certs():
            authorities.append(der)
            if ssl.cert_time_to_seconds(str(one["notAfter"])) < time.time():
                raise BadInput(f"{option}: the CA in {path} has expired ({one['notAfter']})")
    if not authorities:
        raise BadInput(f"{option}: {path} has no certificate of a CA in it, but one of a server or a person")
    return authorities


def as_pem(certificates: Iterable[bytes]) -> str:
    return "".join(ssl.DER_cert_to_PEM_cert(one) for one in certificates)


def as_java_store(certificates: Iterable[bytes], password: str = JAVA_PASSWORD) -> bytes:
    """A store of trusted certificates in Java's own format (JKS), which all of its versions read."""
    entries = list(certificates)
    data = struct.pack(">III", 0xFEEDFEED, 2, len(entries))
    for der in entries:
        alias = hashlib.sha256(der).hexdigest()[:32].encode()
        data += struct.pack(">IH", 2, len(alias)) + alias + struct.pack(">Q", 0)
        data += struct.pack(">H", 5) + b"X.509" + struct.pack(">I", len(der)) + der
    # SHA-1 is the format's, against accidents. Who can write the file can trust what he likes anyway.
    check = hashlib.sha1(password.encode("utf-16-be") + b"Mighty Aphrodite" + data, usedforsecurity=False)
    return data + check.digest()


def write(option: str, path: Path, data: bytes) -> None:
    """All of it or nothing: a build may be reading the old one. Raises :class:`BadInput`."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
        raise BadInput(f"{option}: {path} cannot be written: {error.strerror}") from error
