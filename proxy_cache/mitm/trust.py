"""mitmproxy's TLS to origins, with the certificates that fills trust and show (see :mod:`upstream.trust`)."""

from __future__ import annotations

import logging
import os
import weakref
from typing import TYPE_CHECKING, Any

from mitmproxy import ctx
from mitmproxy.connection import Connection, Server
from mitmproxy.tls import TlsData
from OpenSSL import SSL, crypto

from ..upstream.trust import Trust, name_in_tls, system_locations
from .compat import TRUST, find

if TYPE_CHECKING:
    from mitmproxy.proxy.server_hooks import ServerConnectionHookData

    from ..upstream.origin import OriginClient

logger = logging.getLogger(__name__)


class ForwardTrust:
    """The certificates that connections of mitmproxy's are verified by."""

    def __init__(self) -> None:
        self._trust: Trust | None = None
        self._store: Any = None
        """Made with the first connection that needs it."""
        self._verified: weakref.WeakSet[Connection] = weakref.WeakSet()
        """Connections that were opened under the present options,"""
        self._outdated: weakref.WeakSet[Connection] = weakref.WeakSet()
        """and those from before."""

    def use(self, trust: Trust) -> None:
        if trust != self._trust:
            self._trust = trust
            self.renew()

    def renew(self) -> None:
        """Read the certificates again, and open every connection anew: one that was trusted may not be any more."""
        self._store = None
        if TRUST.is_on:
            find("mitmproxy.net.tls:create_proxy_server_context").cache_clear()  # they have certificates of ours
        self._outdated.update(self._verified)
        self._verified.clear()

    def is_outdated(self, connection: Connection) -> bool:
        """Whether a connection in TLS was opened under other options."""
        return connection in self._outdated

    def check(self, data: ServerConnectionHookData, origin: OriginClient | None) -> None:
        """The hook ``server_connect``: nothing is dialled if the certificate that we may have to show there can't be
        read. mitmproxy would find out later, and tell the client nothing."""
        server = data.server
        if server.tls and server.error is None and server.address is not None and origin is not None and TRUST.is_on:
            problem = origin.tls.problem(server.sni or data.client.sni or server.address[0])
            server.error = f"{problem.error}: {problem.detail}" if problem is not None else None

    def start_server(self, data: TlsData) -> None:
        """The hook ``tls_start_server``: what mitmproxy does there, by our certificates and not by its own."""
        if data.ssl_conn is not None or self._trust is None or not TRUST.is_on:
            return  # another addon's, or mitmproxy's
        if isinstance(data.conn, Server) and data.conn.address is not None:
            # mitmproxy takes the target as it is.
            data.conn.sni = name_in_tls(data.conn.sni or data.context.client.sni or data.conn.address[0])
        ctx.master.addons.get("tlsconfig").tls_start_server(data)
        self._verified.add(data.conn)
        if not self._trust.verify or data.ssl_conn is None:
            return
        try:
            if self._store is None:
                self._store = _store_of(self._trust)
            _verify_by(data.ssl_conn.get_context(), self._store)
        except Exception:
            data.ssl_conn = None  # rather no connection than one to whom nobody knows
            raise


def _store_of(trust: Trust) -> Any:
    store: Any = crypto.X509Store()  # its methods take None, which their types don't say everywhere
    file, folder = system_locations()
    for locations in ((file, None) if os.path.exists(file) else None, (None, folder) if folder else None):
        if locations is None:
            continue
        try:
            store.load_locations(*locations)
        except crypto.Error as error:  # as elsewhere, where one of them is no good there is the other
            logger.warning("proxy-cache: no certificates in %s: %s", locations[0] or locations[1], error)
    added = trust.added()
    if added is not None:
        store.load_locations(*added)
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    return store


def _verify_by(context: SSL.Context, store: Any) -> None:
    """Put a store in the place of the one that a context has. pyOpenSSL can only add to that."""
    library: Any = SSL._lib  # type: ignore[attr-defined]
    if not library.X509_STORE_up_ref(store._store):
        raise RuntimeError("no reference to the certificates")
    library.SSL_CTX_set_cert_store(context._context, store._store)
