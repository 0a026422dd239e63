"""sd_notify(3): a service manager is told when the proxy is ready, reads its options again, stops, and is alive.

Datagrams to the socket that ``NOTIFY_SOCKET`` names, as systemd sets it for ``Type=notify``; without it nothing is
done. Our own dozen lines: ``libsystemd`` would be a dependency on a C library.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time

logger = logging.getLogger(__name__)

SEND_TIMEOUT = 1.0
"""Seconds that a service manager with a full socket may hold us up."""


def ready() -> None:
    """The start, or a reload, is over."""
    _send("READY=1\nSTATUS=answering requests")


def reloading() -> None:
    """Until :func:`ready`."""
    _send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=reading config.yaml again")


def stopping() -> None:
    _send("STOPPING=1\nSTATUS=finishing responses")


def feed_watchdog() -> None:
    """Say from now on, from the running loop, that it turns: at half of the time after which the service would be
    taken for hung (``WatchdogSec``). Nothing without a watchdog, or with one that is meant for another process."""
    if (interval := watchdog_interval()) is None:
        return
    _send("WATCHDOG=1")
    asyncio.get_running_loop().call_later(interval / 2, feed_watchdog)


def watchdog_interval() -> float | None:
    """Seconds after which the service would be taken for hung; ``None`` if nobody watches."""
    for_pid = os.environ.get("WATCHDOG_PID", "")
    if for_pid and for_pid != str(os.getpid()):
        return None
    try:
        return int(os.environ.get("WATCHDOG_USEC", "")) / 1e6 or None
    except ValueError:
        return None


def _send(text: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(SEND_TIMEOUT)
            sender.sendto(text.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
    except OSError as error:
        logger.warning("proxy-cache: the service manager was not told %s: %s", text.partition("\n")[0], error)
