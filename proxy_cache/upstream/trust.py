"""Whom TLS connections to origins and parent proxies trust: the same, whoever opens them.

Fills are opened with Python's ``ssl``, what is forwarded by mitmproxy with pyOpenSSL, which has an OpenSSL of its own
and, left to itself, certifi's certificates. Both get the system's here (``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` in their
place, if they are set), and what mitmproxy's options add to them.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose certificates are good."""

    verify: bool = True
    """``False``: anybody's."""
    added_file: str | None = None
    """A file of certificates to trust beside the system's, and"""
    added_folder: str | None = None
    """a folder of them, by their hashes (``openssl rehash``)."""

    def added(self) -> tuple[str | None, str | None] | None:
        """File and folder, if there is one of them."""
        return (self.added_file, self.added_folder) if self.added_file or self.added_folder else None

    def check(self) -> None:
        """Raises ``OSError`` if what is added can't be read; its folder may be filled later."""
        if self.added_file:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.added_file)
        if self.added_folder and not os.path.isdir(self.added_folder):
            raise NotADirectoryError(f"{self.added_folder!r} is no folder")

    def context(self) -> ssl.SSLContext:
        """For connections of our own. Raises ``OSError``."""
        context = ssl.create_default_context()
        added = self.added()
        if added is not None:
            context.load_verify_locations(*added)
        # An intermediate certificate may be the one that is trusted, as curl has it. Python does so from 3.13 on; it
        # takes RFC 5280 at its word then, too, which many a private CA is at odds with, and no other client does.
        context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
        # RFC 9110 §4.3.4: "A reference identity of type CN-ID MUST NOT be used by clients".
        context.hostname_checks_common_name = False
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)  # as mitmproxy
        return context


SYSTEM: Final = Trust()
"""Those that the system trusts, and no others."""


def system_locations() -> tuple[str, str]:
    """The file and the folder, or folders (with colons between), of the certificates that the system trusts. They need
    not exist."""
    places = ssl.get_default_verify_paths()
    return (
        os.environ.get(places.openssl_cafile_env, places.openssl_cafile),
        os.environ.get(places.openssl_capath_env, places.openssl_capath),
    )
