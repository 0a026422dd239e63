"""How TLS connections of mitmproxy's end: whether the other end has said so, and how ours does.

In TCP a FIN is an end that anybody on the way can make. In TLS the end is an alert (close_notify), and a message that
lasts until the end of its connection is complete only with that (RFC 9112 §9.8).
"""

from __future__ import annotations

import re
from typing import Any, Final

from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, layer
from mitmproxy.proxy.context import Context
from OpenSSL import SSL

from .compat import TLS_CLOSE, find

_ALERT: Final = re.compile(r"'([^']*\balert\b[^']*)'")
"""In an error of pyOpenSSL's: ``[('SSL routines', '', 'tlsv13 alert certificate required')]``."""
_SERVER_TLS = find("mitmproxy.proxy.layers.tls:ServerTLSLayer")
_TLS = find("mitmproxy.proxy.layers.tls:TLSLayer")
_TUNNEL = find("mitmproxy.proxy.tunnel:TunnelLayer")


class WatchedTls:
    """The TLS of a connection to an origin, which remembers how it ended. OpenSSL does not tell a closing alert from
    one that reports an error, once both have been read, nor does mitmproxy: after the latter it would wait for good."""

    def __init__(self, tls: Any) -> None:
        self._tls = tls
        self.was_closed = False
        """Whether the closing alert has come."""
        self._has_failed = False
        self.alert = ""
        """What the other end has complained of."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)

    def recv(self, size: int) -> bytes:
        try:
            data: bytes = self._tls.recv(size)
        except SSL.WantReadError:
            raise
        except SSL.ZeroReturnError:
            self.was_closed = not self._has_failed
            raise
        except SSL.Error as error:
            self._has_failed = True
            found = _ALERT.search(str(error))
            self.alert = found[1] if found is not None else ""
            raise
        return data

    def get_shutdown(self) -> int:
        """By this mitmproxy tells whether those who wait have heard of the end."""
        return int(self._tls.get_shutdown()) if self.was_closed else 0


def watch(context: Context) -> None:
    """Have the ends of the TLS to an origin, and to a parent proxy, remembered."""
    each: Any
    for each in context.layers if TLS_CLOSE.is_on else ():
        if isinstance(each, _SERVER_TLS) and each.tls is not None and not isinstance(each.tls, WatchedTls):
            each.tls = WatchedTls(each.tls)


def tls_of(context: Context, connection: Connection) -> Any:
    """The TLS that what is sent and received on ``connection`` goes through first; ``None`` without any."""
    each: Any
    for each in reversed(context.layers) if TLS_CLOSE.is_on else ():
        if isinstance(each, _TUNNEL) and each.conn is connection:
            if isinstance(each, _TLS):
                return each.tls
            connection = each.tunnel_connection  # to a parent proxy, perhaps in TLS
    return None


def was_cut_short(context: Context, connection: Connection) -> bool:
    """Whether a connection to an origin, which has ended, has lacked the closing alert."""
    tls = tls_of(context, connection)
    return isinstance(tls, WatchedTls) and not tls.was_closed


def alert_of(context: Context, connection: Connection) -> str:
    """The alert that a connection to an origin has ended with, if any. In TLS 1.3 a server that wants a certificate of
    ours says so after the handshake."""
    tls = tls_of(context, connection)
    return tls.alert if isinstance(tls, WatchedTls) else ""


def say_closed(context: Context, connection: Connection) -> layer.CommandGenerator[None]:
    """Send the closing alert, which mitmproxy does not: without it a client would have to take a complete response for
    one that was cut short."""
    tls = tls_of(context, connection)
    if tls is None:
        return
    try:
        tls.shutdown()
    except SSL.Error:
        return  # the client has gone
    yield commands.SendData(connection, b"")  # and with it what TLS has to send
