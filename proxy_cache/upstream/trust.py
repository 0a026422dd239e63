"""TLS to origins, parent proxies and peers: which certificates are trusted, and which of ours are shown.

Fills use Python's ``ssl``. mitmproxy forwards with pyOpenSSL, which has its own OpenSSL and uses certifi's certificates
by default. Here both get the system's certificates (or those of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``), and those that
mitmproxy's options add; and both show a server that asks for one the certificate of mitmproxy's ``client_certs``.
"""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..wire.responses import OriginError

logger = logging.getLogger(__name__)


class BadCertificate(OSError):
    """A certificate of ours that can't be shown to anybody, and why: in one line, with the option and the file."""

    def __init__(self, file: object, why: object) -> None:
        super().__init__(f"client_certs: {str(file)!r}: {why}")


@dataclass(frozen=True, slots=True)
class Trust:
    """Which certificates are accepted, and which are shown."""

    verify: bool = True
    """``False``: any certificate."""
    added_file: str | None = None
    """A file of trusted certificates besides the system's."""
    added_folder: str | None = None
    """A folder of such certificates, named by hash (``openssl rehash``)."""
    client_certs: str | None = None
    """A certificate of ours, its chain and its key in one file (PEM), for every server that asks for one; or a folder
    of such files, each for the server of its name: ``HOST.pem``."""

    def added(self) -> tuple[str | None, str | None] | None:
        """File and folder, if either is set."""
        return (self.added_file, self.added_folder) if self.added_file or self.added_folder else None

    def check(self) -> None:
        """Raises ``OSError`` if a file or a folder can't be read. (Folders may be filled later.)"""
        if self.added_file:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.added_file)
        if self.added_folder and not os.path.isdir(self.added_folder):
            raise NotADirectoryError(f"{self.added_folder!r} is no folder")
        self.check_client_certs()

    def check_client_certs(self) -> None:
        """Raises :class:`BadCertificate` unless there is a file, or a folder in which all ``….pem`` are good."""
        if not self.client_certs:
            return
        path = Path(self.client_certs).expanduser()
        if not path.exists():
            raise BadCertificate(path, "no such file or folder")
        try:
            files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
        except OSError as error:
            raise BadCertificate(path, error.strerror) from error
        for file in files:
            _show(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), str(file))

    def client_certificate(self, host: str) -> str | None:
        """The file with the certificate for a server, chosen as mitmproxy does."""
        if not self.client_certs:
            return None
        path = os.path.expanduser(self.client_certs)
        if os.path.isfile(path):
            return path
        path = os.path.join(path, f"{name_in_tls(host)}.pem")
        return path if "/" not in host and os.path.isfile(path) else None

    def context(self, certificate: str | None = None) -> ssl.SSLContext:
        """A context for our own connections. ``certificate``: the file of the one to show. Raises ``OSError``."""
        context = ssl.create_default_context()
        added = self.added()
        if added is not None:
            context.load_verify_locations(*added)
        # Trusting an intermediate certificate is enough, as in curl, and in Python from 3.13 on. From there on Python
        # also enforces RFC 5280 to the letter, which many private CAs violate, and which no other client does.
        context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
        # RFC 9110 §4.3.4: "A reference identity of type CN-ID MUST NOT be used by clients".
        context.hostname_checks_common_name = False
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)  # as mitmproxy
        if certificate is not None:
            _show(context, certificate)
        return context


SYSTEM: Final = Trust()
"""The system's certificates, and no others."""


class Contexts:
    """Makes contexts of TLS when they are first needed: one, and one more for each certificate of ours."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._made: dict[str | None, ssl.SSLContext] = {}
        self._told: set[str] = set()
        """What the log has told of."""

    def use(self, trust: Trust) -> None:
        """Go by this from now on, and read all certificates again."""
        self._trust = trust
        self._made.clear()
        self._told.clear()

    def renew(self) -> None:
        self.use(self._trust)

    def of(self, host: str) -> ssl.SSLContext:
        """For a connection to a server. Raises :class:`OriginError`."""
        certificate = self._trust.client_certificate(host)
        found = self._made.get(certificate)
        if found is not None:
            return found
        try:
            made = self._made[certificate] = self._trust.context(certificate)
        except BadCertificate as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                logger.error("%s", error)
            raise OriginError("proxy_configuration_error", "the proxy's certificate for it is no good") from error
        except OSError as error:  # a file of certificates that has gone meanwhile
            raise OriginError("connection_terminated", str(error)) from error
        return made

    def problem(self, host: str) -> OriginError | None:
        """Why there is no certificate to show to a server that may ask for it; ``None`` if all is well."""
        if self._trust.client_certificate(host) is None:
            return None
        try:
            self.of(host)
        except OriginError as error:
            return error
        return None


def name_in_tls(host: str) -> str:
    """A host as TLS has it (RFC 6066 §3: "without a trailing dot"), and as certificates and their files are named."""
    return host.rstrip(".").lower()


def tls_error(error: BaseException | None) -> str | None:
    """The proxy error type (RFC 9209 §2.3) of an error of TLS'; ``None`` if it is another."""
    match error:
        case ssl.SSLCertVerificationError():
            return "tls_certificate_error"
        case ssl.SSLError():
            return "tls_alert_received" if "ALERT" in str(error) else "tls_protocol_error"
    return None


ENDS: Final = ("connection_terminated", "tls_alert_received")


def error_of_end(error: BaseException | None) -> str:
    """The proxy error type where a connection has ended without an answer: one of :data:`ENDS`. In TLS 1.3 a server
    that wants a certificate of ours says so after the handshake."""
    terminated, alert = ENDS
    return alert if tls_error(error) == alert else terminated


def was_closed(tls: ssl.SSLObject) -> bool:
    """Whether a closing alert was received (RFC 8446 §6.1). All earlier bytes must have been read."""
    try:
        return not tls.read(1)
    except ssl.SSLZeroReturnError:  # both sides have sent one
        return True
    except ssl.SSLError:  # nothing to read yet
        return False


def _show(context: ssl.SSLContext, file: str) -> None:
    try:
        context.load_cert_chain(file, password=_no_password)
    except _Encrypted as error:
        raise BadCertificate(file, "its key is encrypted, which needs a passphrase at each start") from error
    except ssl.SSLError as error:
        raise BadCertificate(file, _WHY.get(error.reason, error)) from error
    except OSError as error:
        raise BadCertificate(file, error.strerror) from error


_WHY: Final[dict[str | None, str]] = {
    None: "it has to have a certificate and its private key, both in PEM",
    "KEY_VALUES_MISMATCH": "its private key is that of another certificate",
}


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    """Without it OpenSSL would ask on the terminal, and everything would wait."""
    raise _Encrypted


def system_locations() -> tuple[str, str]:
    """The file and the folder of the system's trusted certificates (or several folders, separated by colons). They need
    not exist."""
    paths = ssl.get_default_verify_paths()
    return (
        os.environ.get(paths.openssl_cafile_env, paths.openssl_cafile),
        os.environ.get(paths.openssl_capath_env, paths.openssl_capath),
    )
