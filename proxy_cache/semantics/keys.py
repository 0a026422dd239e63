"""The request target, which is the cache key."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import urljoin, urlsplit

from . import redaction
from .headers import Headers

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# Not allowed in a host (RFC 3986 §3.2.2). If they weren't encoded, host "a/b" with path "/c" and host "a" with path
# "/b/c" would share a key.
_NOT_IN_HOST: Final = re.compile(r"[\x00-\x20/?#@\\\[\]\x7f]")


@lru_cache(maxsize=4096)
def _authority(scheme: str, host: str, port: int) -> str:
    host = _NOT_IN_HOST.sub(lambda match: f"%{ord(match[0]):02x}", host)
    if ":" in host:
        host = f"[{host}]"
    # RFC 9110 §4.2.3: "If the port is equal to the default port for a scheme, the normal form is to omit" it.
    return host if port == _DEFAULT_PORTS.get(scheme) else f"{host}:{port}"


@dataclass(slots=True, unsafe_hash=True, repr=False)
class Target:
    """The target URI of a request (RFC 9110 §7.1), parsed. Create it with :meth:`of`, and don't change it. (Not frozen:
    each miss creates one, and creating a frozen one takes three times as long.)"""

    scheme: str
    host: str
    port: int
    path: str
    """Path and query as sent: origins may sign the exact bytes, so percent-encoding is not normalised."""
    authority: str = field(init=False, compare=False)
    """Host, in brackets if it is an IPv6 address, and the port unless it is the scheme's default."""
    url: str = field(init=False, compare=False)
    _shown: str | None = field(init=False, compare=False, default=None)

    def __post_init__(self) -> None:
        of = _authority if len(self.host) <= 256 else _authority.__wrapped__  # long hosts are not cached
        self.authority = of(self.scheme, self.host, self.port)
        self.url = f"{self.scheme}://{self.authority}{self.path}"

    @classmethod
    def of(cls, scheme: str, host: str, port: int, path: str) -> Target:
        """Normalises as RFC 9110 §4.2.3 allows without a change of meaning: case of scheme and host, the empty path."""
        host = host.lower()
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        # RFC 9110 §7.1: the target URI "excludes the reference's fragment component".
        path = path.partition("#")[0]
        if not path.startswith("/") and path != "*":
            path = "/" + path
        return cls(scheme.lower(), host, port, path)

    @property
    def key(self) -> str:
        """The cache key, which is the target URI (RFC 9111 §2); the method is always GET.

        Never the Host header: a client can set that to anything, and could store one site under another's name.
        """
        return self.url

    @property
    def shown(self) -> str:
        """For logs: always with the port, and :func:`~.redaction.redacted`."""
        shown = self._shown
        if shown is None:
            self._shown = shown = redaction.shown(f"{self.scheme}://{self.host}:{self.port}{self.path}")
        return shown

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"<Target {self.shown}>"


def related_targets(target: Target, headers: Headers) -> list[Target]:
    """The targets that the response to an unsafe method on ``target`` names in Location and Content-Location (RFC 9111
    §4.4).

    Only those of the same origin: "A cache MUST NOT trigger an invalidation under these conditions if the origin […] of
    the URI to be invalidated differs": otherwise any site could invalidate responses of all others.
    """
    related = []
    # Each field has one line (RFC 9110 §10.2.2, §8.7); parsing takes time in proportion to its length.
    for value in (*headers.get_all("location")[:2], *headers.get_all("content-location")[:2]):
        try:
            parts = urlsplit(urljoin(target.url, value))
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
        except ValueError:
            continue
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        other = Target.of(parts.scheme, parts.hostname or "", port, path)
        if (other.scheme, other.authority) == (target.scheme, target.authority) and other.key != target.key:
            related.append(other)
    return related
