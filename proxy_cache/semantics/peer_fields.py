"""What peers of a fleet say to each other in header fields.

``Cache-Peer`` in a request says that a peer asks, and proves it by the fleet's secret, where there is one. In a
response it says that a peer has answered that very request, and for which cache key: an address may be somebody else's
by now, who answers 200 to anything. The secret itself is never sent, since whoever has that address would have it then.
The field is hop-by-hop: no client and no origin sees it.

A small body has its digest with it (``Repr-Digest``, RFC 9530 §3), so that it is checked before anybody gets any of it.
The client that the peer asks for is the last element of ``Forwarded`` (RFC 7239 §4).
"""

from __future__ import annotations

import hmac
import secrets
from base64 import b64encode
from collections.abc import Collection
from hashlib import sha256
from typing import Final

from .client_names import client_of, node
from .headers import Headers

FIELD: Final = "cache-peer"
ASKS: Final = "?1"
"""The request's value in a fleet without a secret."""
_ANEW: Final = 16
"""Bytes of a random number in hexadecimal, so that no two requests have the same proof."""
WITH_DIGEST: Final = ";digest"
"""At the end of a response's value: its Repr-Digest is the peer's own, and not the origin's."""
DIGEST_MAX: Final = 128 * 1024
"""Bytes of a body that has a digest, at most."""


def proof(url: str, client: str, token: str) -> str:
    """The request's value, for this target and ``client``, which is the last element of ``Forwarded``."""
    return _proof(secrets.token_hex(_ANEW // 2), url, client, token) if token else ASKS


def proven(value: str, url: str, client: str, tokens: Collection[str]) -> str | None:
    """The one of the fleet's secrets that a peer has proven to know, compared in constant time; ``None``: none of them.
    Empty if there are no ``tokens``: then the value proves nothing, and the sender's address has to."""
    told = value.encode("utf-8", "replace")
    found = None
    for token in tokens or ("",):
        expected = _proof(value[:_ANEW], url, client, token) if token else ASKS
        if hmac.compare_digest(told, expected.encode("utf-8", "replace")):
            found = token
    return found


def _proof(number: str, url: str, client: str, token: str) -> str:
    return f"{number}.{_digest(token, 'asks', number, url, client)}"


def answer_to(asked: str, key: str, token: str) -> str:
    """The response's value: a digest of the request's value and of the key, with the secret."""
    return _digest(token, "answers", asked, key)


def _digest(token: str, *texts: str) -> str:
    told = "\0".join(texts).encode("utf-8", "surrogatepass")
    return hmac.digest(token.encode(), told, sha256).hex()


def forwarded_for(client: str) -> str:
    """An element of ``Forwarded``, see :func:`.client_names.node`."""
    return f"for={node(client)}"


def taken_off(headers: Headers) -> tuple[Headers, str, str | None]:
    """The header without the last element of ``Forwarded``, that element, and the client in it, if there is one."""
    values = headers.get_all("forwarded")
    if not values:
        return headers, "", None
    rest, comma, last = values[-1].rpartition(",")
    headers = headers.without("forwarded")
    for value in (*values[:-1], *([rest.rstrip(" \t")] if comma else [])):
        headers = headers.add("Forwarded", value)
    last = last.strip(" \t")
    name, _, text = last.partition("=")
    return headers, last, client_of(text) if name.lower() == "for" else None


def repr_digest(body: bytes | bytearray | memoryview) -> str:
    """A value of ``Repr-Digest``."""
    return f"sha-256=:{b64encode(sha256(body).digest()).decode('ascii')}:"
