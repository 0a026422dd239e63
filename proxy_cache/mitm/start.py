"""Messages at the start: the next steps for a user, and obstacles."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
from typing import Any

from mitmproxy import ctx

from ..observe.access_log import AccessLog
from ..semantics.texts import human_size
from ..store.eviction import Evictor
from .compat import CONFDIR, find

logger = logging.getLogger(__name__)

LITTLE = 64 << 20
"""Bytes."""
ANY_ADDRESS = ("", "0.0.0.0", "::")
TRIES = 100
"""Ports that are tried for one that is free."""


def check_confdir(options: Any) -> None:
    """mitmproxy keeps its certificates there, and has a traceback for a folder that it can't use. One line before that
    ends the start."""
    if not CONFDIR.is_on:
        return
    store, basename = find("mitmproxy.certs:CertStore"), find("mitmproxy.options:CONF_BASENAME")
    folder = os.path.expanduser(options.confdir)
    passphrase = options.cert_passphrase.encode("utf8") if options.cert_passphrase else None
    try:
        store.from_store(folder, basename, options.key_size, passphrase)
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        where = getattr(error, "filename", None) or folder
        logger.error(
            "confdir: mitmproxy's folder %s cannot be used: %s: %s; another one: --set confdir=FOLDER",
            folder, where, " ".join(reason.split()),
        )  # fmt: skip


def open_log(log: AccessLog) -> None:
    """Begin the access log where mitmproxy's own log goes, at the level that it shows (``termlog_verbosity``)."""
    log.open(
        is_shown=getattr(ctx.options, "termlog_verbosity", "info") in ("info", "debug"),
        is_printed=ctx.master.addons.get("dumper") is not None,
        terminal=getattr(ctx.master.addons.get("termlog"), "logger", None),
    )


def check_quota(evictor: Evictor) -> None:
    """Say it where a cache can't be of much use, or not as large as it was meant to be."""
    room = evictor.obtainable - evictor.min_free
    if room < LITTLE or (isinstance(evictor.quota.max_size, int) and room < evictor.quota.max_size):
        logger.warning(
            "proxy-cache: the disk of cache_dir can give the cache no more than %s (cache_max_size %s)",
            human_size(max(room, 0)), human_size(evictor.capacity),
        )  # fmt: skip


# -- a port that is taken -------------------------------------------------------------------------------------------

_FAILED = " failed to listen on "
_PORT_AT_END = re.compile(r"[@:](\d{1,5})$")


def with_free_port(message: str) -> str:
    """mitmproxy's message on a port that is taken, with a free one added; any other message as it is."""
    what, failed, rest = message.partition(_FAILED)
    address, _, why = rest.partition(" with ")
    host, _, port = address.rpartition(":")
    if not failed or not port.isdecimal() or "Try specifying a different port" not in why:
        return message
    if what.startswith("[Errno "):
        what = what.partition("] ")[2]
    free = free_port(host, int(port))
    return f"{what}{_FAILED}{address}: the port is taken; another one: --listen-port {free}"


class PortHint(logging.Filter):
    """mitmproxy proposes the port after the next one, which is where our metrics are (8082)."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            with contextlib.suppress(Exception):
                record.msg, record.args = with_free_port(record.getMessage()), None
        return True


_HINT = PortHint()


def hint_at_free_ports() -> None:
    """Idempotent."""
    logging.getLogger("mitmproxy.addons.proxyserver").addFilter(_HINT)


def free_port(host: str, port: int) -> int:
    """The next port that nobody listens at, and that none of our own options names."""
    named = {port, *_ports_in(getattr(ctx.options, "metrics_listen", ""), *ctx.options.mode)}
    for other in range(port + 1, min(port + TRIES, 65536)):
        if other not in named and _is_free("" if host == "*" else host.strip("[]"), other):
            return other
    return 0


def _ports_in(*texts: str) -> set[int]:
    return {int(match[1]) for text in texts if (match := _PORT_AT_END.search(text))}


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


# -- what to do next ------------------------------------------------------------------------------------------------


def say_what_is_next(proxyserver: Any) -> None:
    """For a user who starts it by hand: a log file has no use for it."""
    terminal = next((stream for stream in (sys.stdout, sys.stderr) if _is_terminal(stream)), None)
    if terminal is None or getattr(ctx.options, "termlog_verbosity", "info") not in ("info", "debug"):
        return
    if ctx.master.addons.get("termlog") is None:
        return  # the terminal is mitmproxy's own, for its windows
    lines = what_is_next(proxyserver)
    if lines:
        with contextlib.suppress(OSError, ValueError):
            terminal.write("".join(f"{line}\n" for line in lines))
            terminal.flush()


def what_is_next(proxyserver: Any) -> list[str]:
    """At most a line for clients that take a proxy, and one for each origin that the proxy stands in for."""
    lines: list[str] = []
    for server in proxyserver.servers:
        if not server.listen_addrs:
            continue
        host, port = server.listen_addrs[0][:2]
        kind = server.mode.type_name
        user = "USER:PASSWORD@" if kind != "reverse" and getattr(ctx.options, "proxyauth", None) else ""
        url = f"http://{user}{_reachable(host)}:{port}"
        if kind in ("regular", "upstream") and not lines:
            lines.append(f"Next, where clients run:  export http_proxy={url} HTTP_PROXY={url}")
        elif kind == "reverse":
            lines.append(f"In place of {server.mode.data}:  {url}")
    return lines


def _reachable(host: str) -> str:
    if host in ANY_ADDRESS:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (ValueError, AttributeError):
        return False
