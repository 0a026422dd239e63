"""The request target: what a response is stored under, and how it may appear in a log."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from .headers import Headers

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# No host has these (RFC 3986 §3.2.2). Were they taken as they are, host "a/b" with path "/c" and host "a" with
# path "/b/c" would be one key.
_NOT_IN_HOST: Final = re.compile(r"[\x00-\x20/?#@\\\[\]\x7f]")


@lru_cache(maxsize=4096)
def _authority(scheme: str, host: str, port: int) -> str:
    host = _NOT_IN_HOST.sub(lambda match: f"%{ord(match[0]):02x}", host)
    if ":" in host:
        host = f"[{host}]"
    # RFC 9110 §4.2.3: "If the port is equal to the default port for a scheme, the normal form is to omit" it.
    return host if port == _DEFAULT_PORTS.get(scheme) else f"{host}:{port}"


@dataclass(slots=True, unsafe_hash=True)
class Target:
    """The target URI of a request (RFC 9110 §7.1), in parts and whole. Make it with :meth:`of`, and don't change it.
    (Not frozen: one is made for each miss, and setting the fields of a frozen one takes three times as long.)"""

    scheme: str
    host: str
    port: int
    path: str
    """Path and query, as sent: an origin may sign the exact bytes, so percent-encoding is left alone."""
    authority: str = field(init=False, repr=False, compare=False)
    """Host, in brackets if it is an IPv6 address, and the port if it isn't the scheme's own."""
    url: str = field(init=False, repr=False, compare=False)
    _shown: str | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        of = _authority if len(self.host) <= 256 else _authority.__wrapped__  # what a client makes up is not remembered
        self.authority = of(self.scheme, self.host, self.port)
        self.url = f"{self.scheme}://{self.authority}{self.path}"

    @classmethod
    def of(cls, scheme: str, host: str, port: int, path: str) -> Target:
        """Normalise as far as RFC 9110 §4.2.3 says that nothing changes: case of scheme and host, the empty path."""
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

        Never the Host header: a client writes into that what it likes, and could store one site under another's name.
        """
        return self.url

    @property
    def shown(self) -> str:
        """As a log has it: always with the port, and :func:`redacted`."""
        shown = self._shown
        if shown is None:
            shown = f"{self.scheme}://{self.host}:{self.port}{self.path}"
            if _TO_BE_REDACTED.search(shown):
                shown = redacted(shown)
            self._shown = shown
        return shown

    def __str__(self) -> str:
        return self.url


def related_targets(target: Target, headers: Headers) -> list[Target]:
    """What the answer to an unsafe method on ``target`` names in Location and Content-Location (RFC 9111 §4.4).

    Only of the same origin: "A cache MUST NOT trigger an invalidation under these conditions if the origin […] of the
    URI to be invalidated differs", since anybody could throw out the responses of everybody else.
    """
    related = []
    # Either field has one line (RFC 9110 §10.2.2, §8.7); each takes time in proportion to the URL and to itself.
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


# Names of query parameters whose values open something. Long stems count anywhere in the name, short ones as a word of
# their own ("sig" but not "design", "code" but not "country"). Too much is better than too little here.
_SECRET: Final = re.compile(
    r"token|secret|passw|passphrase|passcode|signature|credential|session|jwt|saml|bearer|accesskey|apikey|key$"
    r"|auth(?!or)|authoriz"
    r"|(?:^|[^a-z0-9])(?:(?:sig|key|code|pass|pwd|sid|otp|pin)(?:$|[^a-z0-9])|x-amz-|x-goog-)",
    re.DOTALL,
)
_SEPARATOR: Final = re.compile(r"([&;])")
_TO_BE_REDACTED: Final = re.compile(r"[^!-~]|[?#@]")
"""What a URL has in it that is not shown as it is."""


def redacted(url: str) -> str:
    """``url`` for a log: without userinfo and fragment, secrets in the query as ``***``, on one line in any case."""
    return _remembered(url) if len(url) <= 512 else _redacted(url)


def _redacted(url: str) -> str:
    rest = url.partition("#")[0]
    path, question, query = rest.partition("?")
    scheme, separator, tail = path.partition("://")
    if not separator:
        scheme, tail = "", path
    authority, slash, path = tail.partition("/")
    # RFC 9110 §4.2.4: userinfo in an http URI is deprecated, and is shown to nobody.
    clean = f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"
    if question:
        clean += "?" + "".join(_redacted_parameter(part) for part in _SEPARATOR.split(query))
    # A line break or an escape sequence in a URL must not become one in the log or on a terminal.
    return clean if clean.isprintable() and " " not in clean else "".join(map(_visible, clean))


_remembered = lru_cache(maxsize=4096)(_redacted)


def _redacted_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    return f"{name}=***" if value and _SECRET.search(unquote(name).lower()) else name + equals + value


def _visible(char: str) -> str:
    if char == " ":
        return "%20"
    return char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode("ascii")
