"""Certificates for hosts that are intercepted, signed by mitmproxy's own CA.

mitmproxy's leaves have the key of the CA itself, an RSA key as a rule: a handshake takes three times as long with it as
with one on P-256, which every client knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import os
import ssl
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakValueDictionary

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

KEPT: Final = 1000
"""Hosts whose certificates are kept."""
VALID_FOR: Final = datetime.timedelta(days=90)
VALID_SINCE: Final = datetime.timedelta(days=2)
"""Before it is made: clocks of clients may be slow."""
RENEWED_AFTER: Final = 30 * 86400.0
"""Seconds."""


class Abandoned(Exception):
    """All who have asked for a certificate have left before it was made."""


@dataclass(slots=True)
class _Kept:
    context: asyncio.Future[ssl.SSLContext]
    until: float
    """Monotonic clock."""
    wanted: list[Callable[[], bool]]


class Leaves:
    """Makes a certificate once a host, in a thread, and keeps the context of TLS that goes with it (in which session
    tickets are valid)."""

    def __init__(self, store: Callable[[], Any]) -> None:
        """``store``: mitmproxy's ``CertStore``, which has the CA; another one after the option ``confdir`` has
        changed."""
        self._store_of = store
        self._store: Any = None
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By client; each is there while it waits for a certificate."""
        self._thread = ThreadPoolExecutor(1, "proxy-cache-leaves")

    def context(
        self, host: str, client: str = "", is_wanted: Callable[[], bool] = lambda: True
    ) -> asyncio.Future[ssl.SSLContext]:
        """For a name or an address. The same future for all who ask meanwhile.

        Making one takes a few milliseconds of CPU time, so that each ``client`` has one made at a time: whoever asks
        for thousands of names holds up nobody else. ``is_wanted``: whether anybody waits for it once its turn comes.
        """
        store = self._store_of()
        if store is not self._store:
            self._kept.clear()
            self._store = store
        found = self._kept.get(host)
        now = time.monotonic()
        if found is not None and now < found.until and not _has_failed(found.context):
            self._kept.move_to_end(host)
            if not found.context.done():
                found.wanted.append(is_wanted)
            return found.context
        wanted = [is_wanted]
        made = asyncio.get_running_loop().create_task(self._make(store, host, client, wanted))
        made.add_done_callback(_has_failed)  # whoever waits is told; nobody may
        self._kept[host] = _Kept(made, now + RENEWED_AFTER, wanted)
        self._kept.move_to_end(host)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return made

    async def _make(self, store: Any, host: str, client: str, wanted: list[Callable[[], bool]]) -> ssl.SSLContext:
        turn = self._turns.get(client)
        if turn is None:
            turn = self._turns[client] = asyncio.Lock()
        try:
            async with turn:
                if not any(is_wanted() for is_wanted in wanted):
                    raise Abandoned(host)
                loop = asyncio.get_running_loop()
                context = await loop.run_in_executor(self._thread, _context, store, host)
        finally:
            wanted.clear()  # it has the connections of those who ask
        return context


def _has_failed(future: asyncio.Future[ssl.SSLContext]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)


def _context(store: Any, host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    with _as_file(_given(store, host) or _made(store, host)) as file:
        context.load_cert_chain(file)
    return context


def _given(store: Any, host: str) -> bytes | None:
    """A certificate that the operator has for the host (mitmproxy's option ``certs``), with its key and chain."""
    entry = next((store.certs[name] for name in (*store.asterisk_forms(host), "*") if name in store.certs), None)
    if entry is None:
        return None
    rest = [each.to_pem() for each in entry.chain_certs if each != entry.cert]
    return _private(entry.privatekey) + b"".join([entry.cert.to_pem(), *rest])


def _made(store: Any, host: str) -> bytes:
    """A new one, in PEM: its key, itself, and the CA's chain without the root, which clients have."""
    issuer, issuer_key = _certificate(store.default_ca), store.default_privatekey
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    named = len(host) < 64  # RFC 5280, appendix A.1: ub-common-name
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)] if named else [])
    leaf = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID_SINCE)
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        # RFC 5280 §4.2.1.6: critical "If the subject field contains an empty sequence".
        .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=not named)
        .add_extension(_identifier_of(issuer), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )  # fmt: skip
    chain = [_certificate(each) for each in store.default_chain_certs]
    shown = [leaf, *(each for each in chain if each.subject != each.issuer)]
    return _private(key) + b"".join(each.public_bytes(serialization.Encoding.PEM) for each in shown)


def ca_expiry(store: Any) -> datetime.datetime:
    """Until when the CA's certificate is valid (UTC)."""
    return _certificate(store.default_ca).not_valid_after_utc


def ca_problem(store: Any) -> str:
    """Why no client could trust what the CA signs; empty if there is nothing wrong with it. mitmproxy doesn't look."""
    ca = _certificate(store.default_ca)
    if _public(ca.public_key()) != _public(store.default_privatekey.public_key()):
        return "its key is not the one of its certificate"
    if ca.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        return f"it has expired ({ca.not_valid_after_utc:%Y-%m-%d})"
    try:
        is_ca = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    return "" if is_ca else "its certificate is no CA's, but one of a server or a person"


def _public(key: Any) -> bytes:
    data: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return data


def _certificate(own: Any) -> x509.Certificate:
    """A certificate of mitmproxy's own class."""
    return x509.load_pem_x509_certificate(own.to_pem())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _identifier_of(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """RFC 5280 §4.2.1.1: what the issuer calls its key, if it does."""
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _private(key: Any) -> bytes:
    pem: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem


@contextlib.contextmanager
def _as_file(pem: bytes) -> Iterator[str]:
    """Python's ``ssl`` reads certificates from files alone. One in memory, where there is such a thing: a private key
    has no business on a disk."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:  # readable for its owner alone
        file.write(pem)
        file.flush()
        yield file.name
