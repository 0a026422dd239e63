"""A mitmproxy script for tests: connections may be idle for some seconds, not for ten minutes."""

from __future__ import annotations

from mitmproxy import ctx
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy import server

SECONDS = 4


class Impatient:
    def load(self, loader: Loader) -> None:
        if "tcp_timeout" in ctx.options:
            ctx.options.tcp_timeout = SECONDS
        else:  # mitmproxy 11
            server.TCP_TIMEOUT = SECONDS


addons = [Impatient()]
