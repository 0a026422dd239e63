"""Trusted certificates for TLS to origins and parent proxies, the same for all connections.

Fills use Python's ``ssl``. mitmproxy forwards with pyOpenSSL, which has its own OpenSSL and uses certifi's certificates
by default. Here both get the system's certificates (or those of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``), and those that
mitmproxy's options add.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Trust:
    """Which certificates are accepted."""

    verify: bool = True
    """``False``: any certificate."""
    added_file: str | None = None
    """A file of trusted certificates besides the system's."""
    added_folder: str | None = None
    """A folder of such certificates, named by hash (``openssl rehash``)."""

    def added(self) -> tuple[str | None, str | None] | None:
        """File and folder, if either is set."""
        return (self.added_file, self.added_folder) if self.added_file or self.added_folder else None

    def check(self) -> None:
        """Raises ``OSError`` if the file or the folder can't be read. (The folder may be filled later.)"""
        if self.added_file:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.added_file)
        if self.added_folder and not os.path.isdir(self.added_folder):
            raise NotADirectoryError(f"{self.added_folder!r} is no folder")

    def context(self) -> ssl.SSLContext:
        """A context for our own connections. Raises ``OSError``."""
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
        return context


SYSTEM: Final = Trust()
"""The system's certificates, and no others."""


def system_locations() -> tuple[str, str]:
    """The file and the folder of the system's trusted certificates (or several folders, separated by colons). They need
    not exist."""
    paths = ssl.get_default_verify_paths()
    return (
        os.environ.get(paths.openssl_cafile_env, paths.openssl_cafile),
        os.environ.get(paths.openssl_capath_env, paths.openssl_capath),
    )
