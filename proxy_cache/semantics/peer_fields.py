"""What peers of a fleet say to each other in header fields.

``Cache-Peer`` in a request says that a peer asks, and proves it by the fleet's secret, where there is one. In a
response it says that a peer has answered, and for which cache key: an address may be somebody else's by now, who
answers 200 to anything. The field is hop-by-hop: no client and no origin sees it.

A small body has its digest with it (``Repr-Digest``, RFC 9530 §3), so that it is checked before anybody gets any of it.
The client that the peer asks for is the last element of ``Forwarded`` (RFC 7239 §4).
"""

from __future__ import annotations

import hmac
import ipaddress
from base64 import b64encode
from collections.abc import Collection
from hashlib import sha256
from typing import Final

from .headers import Headers

FIELD: Final = "cache-peer"
ASKS: Final = "?1"
"""The request's value in a fleet without a secret."""
WITH_DIGEST: Final = ";digest"
"""At the end of a response's value: its Repr-Digest is the peer's own, and not the origin's."""
DIGEST_MAX: Final = 128 * 1024
"""Bytes of a body that has a digest, at most."""


def proven(value: str, tokens: Collection[str]) -> str | None:
    """The one of the fleet's secrets that a peer has shown, compared in constant time; ``None``: it shows none of them.
    Empty if there are no ``tokens``: then the value proves nothing, and the sender's address has to."""
    found = None
    for token in tokens or ("",):
        if hmac.compare_digest(value.encode("latin-1", "replace"), (token or ASKS).encode("latin-1", "replace")):
            found = token
    return found


def answer_to(key: str, token: str) -> str:
    """The response's value: a digest of the key, with the secret."""
    return hmac.digest(token.encode(), key.encode("utf-8", "surrogateescape"), sha256).hex()


def forwarded_for(client: str) -> str:
    """An element of ``Forwarded`` (RFC 7239 §6: an IPv6 address is in brackets, and quoted)."""
    return f'for="[{client}]"' if ":" in client else f"for={client or 'unknown'}"


def taken_off(headers: Headers) -> tuple[Headers, str | None]:
    """The header without the last element of ``Forwarded``, and the address in it, if there is one."""
    values = headers.get_all("forwarded")
    if not values:
        return headers, None
    rest, comma, last = values[-1].rpartition(",")
    headers = headers.without("forwarded")
    for value in (*values[:-1], *([rest.rstrip(" \t")] if comma else [])):
        headers = headers.add("Forwarded", value)
    name, _, text = last.strip(" \t").partition("=")
    text = text.strip('"').removeprefix("[").removesuffix("]")
    try:
        return headers, str(ipaddress.ip_address(text)) if name.lower() == "for" else None
    except ValueError:
        return headers, None


def repr_digest(body: bytes | bytearray | memoryview) -> str:
    """A value of ``Repr-Digest``."""
    return f"sha-256=:{b64encode(sha256(body).digest()).decode('ascii')}:"
