"""mitmproxy's CA, which signs for the hosts of ``intercept_hosts``."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography import x509

from .finding import FAULT, OK, WARNING, Finding

FILE: Final = "mitmproxy-ca.pem"
"""The certificate with its key."""
SOON: Final = datetime.timedelta(days=30)


def check(confdir: str, *, is_needed: bool) -> Iterator[Finding]:
    """``is_needed``: whether HTTPS is intercepted at all. What is wrong with the CA is a fault then alone."""
    folder = Path(confdir).expanduser()
    bad = FAULT if is_needed else WARNING
    if not folder.exists():
        parent = next(path for path in folder.absolute().parents if path.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            yield Finding("confdir", OK, f"{folder} is not there yet: mitmproxy makes it, with a new CA")
        else:
            yield Finding("confdir", FAULT, f"{folder} is not there, and {parent} cannot be written")
        return
    file = folder / FILE
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        yield Finding("confdir", OK, f"{folder} has no CA yet: mitmproxy makes a new one")
        return
    except OSError as error:
        yield Finding("confdir", FAULT, f"{file} cannot be read: {error.strerror}")
        return
    yield _certificate(file, data, bad)
    mode = file.stat().st_mode
    if mode & 0o077:
        text = f"{file} has the CA's key, and others may read it ({mode & 0o777:04o}): chmod 600"
        yield Finding("confdir", WARNING, text)


def _certificate(file: Path, data: bytes, bad: str) -> Finding:
    try:
        ca = x509.load_pem_x509_certificates(data)[0]
    except ValueError as error:
        return Finding(
            "confdir", FAULT, f"{file} has no certificate that can be read: {' '.join(str(error).split())[:120]}"
        )
    if b"PRIVATE KEY-----" not in data:
        return Finding("confdir", FAULT, f"{file} has no key in it")
    try:
        is_ca = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        is_ca = False
    if not is_ca:
        return Finding("confdir", bad, f"the certificate in {file} is no CA's: no client can trust what it signs")
    until, now = ca.not_valid_after_utc, datetime.datetime.now(datetime.UTC)
    if until < now:
        return Finding("confdir", bad, f"the CA in {file} has expired ({until:%Y-%m-%d})")
    if ca.not_valid_before_utc > now:
        return Finding(
            "confdir", bad, f"the CA in {file} is not valid before {ca.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        )
    if until < now + SOON:
        return Finding("confdir", WARNING, f"the CA in {file} expires soon ({until:%Y-%m-%d})")
    return Finding("confdir", OK, f"the CA in {file} is valid until {until:%Y-%m-%d}")
