"""Other machines that the proxy is to work with: peers, and the shared store. Names are looked up; nobody is asked."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from ..settings import Settings
from ..upstream.peers import listings
from ..upstream.peers.file_discovery import FileDiscovery
from ..upstream.peers.peer import Peer
from ..upstream.peers.watch import Unreadable
from .finding import FAULT, OK, WARNING, Finding

LOOK_UP: Final = 5.0
"""Seconds that a resolver is given."""


def check(settings: Settings) -> Iterator[Finding]:
    for listing in listings.parse(settings.fleet.peers):
        if isinstance(listing, listings.InFile):
            yield _in_file(listing)
        elif isinstance(listing, Peer) and listing.is_address:
            yield Finding("cache_peers", OK, f"{listing} is an address")
        else:
            yield _name(str(listing), listing.host if isinstance(listing, Peer) else listing.name)
    if settings.shared is not None:
        yield _shared(settings.shared.url)


def _name(shown: str, host: str) -> Finding:
    found: list[str] = []
    why = [f"no answer within {LOOK_UP:.0f} s"]

    def look() -> None:
        try:
            found.extend(sorted({str(one[4][0]) for one in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}))
        except (OSError, UnicodeError) as error:
            why[0] = getattr(error, "strerror", None) or str(error)

    thread = threading.Thread(target=look, daemon=True)  # a resolver may take minutes
    thread.start()
    thread.join(LOOK_UP)
    if not found:
        return Finding("cache_peers", WARNING, f"{shown}: the name is not found: {why[0]}")
    return Finding("cache_peers", OK, f"{shown} is {', '.join(found[:4])}{' and more' if len(found) > 4 else ''}")


def _in_file(listing: listings.InFile) -> Finding:
    try:
        peers = asyncio.run(FileDiscovery(listing).look())
    except Unreadable as error:
        return Finding("cache_peers", FAULT, f"{listing.path}: {error}")
    return Finding("cache_peers", OK, f"{listing.path} lists {len(peers or ())} peers")


def _shared(url: str) -> Finding:
    parts = urlsplit(url)
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        if not (folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)):
            return Finding("cache_shared", FAULT, f"{folder} is no folder that can be read")
        if not os.access(folder, os.W_OK):
            return Finding("cache_shared", WARNING, f"{folder} cannot be written: it is read alone")
    return Finding("cache_shared", OK, f"{url} can be a store; whether it answers is not tried")
