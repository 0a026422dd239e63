"""The cache key: the request target, never the Host header (RFC 9111 §2, RFC 9110 §7.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """A request target, normalised as far as RFC 9110 §4.2.3 lets every cache go."""

    scheme: str
    host: str
    port: int
    path: str
    """Path and query, as sent."""

    @classmethod
    def of(cls, scheme: str, host: str, port: int, path: str) -> Target:
        """Lower-case scheme and host; no fragment; ``/`` for an empty path."""
        path = path.partition("#")[0]
        if not path.startswith("/"):
            path = f"/{path}"
        return cls(scheme.lower(), host.strip("[]").lower(), port, path)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if _DEFAULT_PORTS.get(self.scheme) == self.port else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def key(self) -> str:
        return self.url


_SECRET = re.compile(
    r"token|sig|key|secret|pass|pwd|auth|cred|session|jwt|code|^x-amz-|^x-goog-|^sv$|^se$|^sp$", re.IGNORECASE
)


def redacted(url: str) -> str:
    """A URL for the log: no user name or password, no value of a query parameter that looks like a secret, and
    nothing that could begin a new line."""
    try:
        parts = urlsplit(url)
        netloc = parts.netloc.rpartition("@")[2]
        query = "&".join(_redacted_parameter(pair) for pair in parts.query.split("&")) if parts.query else ""
        url = urlunsplit((parts.scheme, netloc, parts.path, query, ""))
    except ValueError:
        url = url.partition("?")[0].rpartition("@")[2]
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in url)


def _redacted_parameter(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}=***" if equals and _SECRET.search(name) else pair
