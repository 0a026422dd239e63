"""Requests that nobody has sent: the GETs of :mod:`..caching.warm`, made as a client's own would be.

They are written down as bytes and read as a client's, and go through the same door under the same rules, so that what
they store is what clients will find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ..caching.answers import Exchange
from ..caching.warm import CLIENT, Unsuitable
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.limits import DEFAULT_HEAD_LIMITS
from ..semantics.targets import TargetError, absolute
from ..wire.requests import Request, parse_request
from .admission import Admission, Route

_NOT_TO_WARM: Final = ("host", "cache-peer", "connection", "range", "max-forwards", "via")
"""Fields that say where a request goes, or by whom, or that not all is wanted."""


class BadField(ValueError):
    """A field that these requests can't have."""


def field_lines(fields: Sequence[str]) -> bytes:
    """``["Accept: text/html"]`` as the lines of a head. Raises :class:`BadField`."""
    lines = b""
    for field in fields:
        name, colon, value = field.partition(":")
        try:
            line = f"{name}: {value.strip()}\r\n".encode("latin-1")
        except UnicodeError:
            raise BadField(f"{field[:60]!r} has characters that no field has") from None
        read = parse_request(b"GET http://a/ HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n") if colon else None
        if not isinstance(read, Request) or "\n" in field or name.lower() in _NOT_TO_WARM or read.peer is not None:
            raise BadField(f"{field[:60]!r} is no field that these requests can have, such as 'Accept: text/html'")
        lines += line
    return lines


class WarmRequests:
    """Makes them. ``via``: our name in Via."""

    def __init__(self, via: str, admission: Admission) -> None:
        self._via = via
        self._admission = admission
        self.flow_for: Callable[[Target, bytes, Headers], Any] = lambda target, method, headers: None
        """Makes what filters of rules are asked about, where the target doesn't decide."""

    def exchange(self, url: str, lines: bytes = b"") -> Exchange:
        """``lines``: further :func:`field_lines`. Raises :class:`Unsuitable`."""
        try:
            target = absolute(url)
            data = f"GET {url.partition('#')[0]} HTTP/1.1\r\nHost: {target.authority}\r\n".encode("ascii")
        except TargetError as error:
            raise Unsuitable(str(error)) from None
        except UnicodeError:
            raise Unsuitable("not ASCII: such characters are written %C3%BC in a URL") from None
        request = parse_request(data + lines + b"\r\n")
        if not isinstance(request, Request) or len(url) > DEFAULT_HEAD_LIMITS.line:
            raise Unsuitable("a URL with spaces or control characters in it, or too long a one")
        headers = request.headers(self._via)
        self._check(target)
        settings = self._admission.settings
        assert settings is not None
        policy = settings.rules.policy(target, b"GET", lambda: self.flow_for(target, b"GET", request.fields.headers))
        return Exchange(target, headers, CLIENT, policy, request.fields.directives)

    def _check(self, target: Target) -> None:
        """Whether a client would get it by the cache. Raises :class:`Unsuitable`."""
        match self._admission.route("GET", target, ()):
            case Route.CACHE:
                return
            case Route.DENIED:
                raise Unsuitable(f"refused: {self._admission.denial(target).detail}")
            case Route.FORWARD:
                raise Unsuitable("its host is none that is cached (cache_hosts)")
            case _:
                raise Unsuitable("the proxy is starting or stopping")
