"""How a request ended, in the words of the access log: why it was forwarded, why its response was not stored, which
error it was, and who broke a response off.

The client is told the same words, in Cache-Status (RFC 9211) and Proxy-Status (RFC 9209), so they are read from there
and every answer says them once. They are needed for the log alone: with that off, nothing of this runs.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from ..caching.limiter import Overloaded
from ..observe.log_formats import NO_STATUS as NO_STATUS
from ..semantics.headers import Headers
from ..wire.responses import OriginError

LEFT: Final = "client disconnected"
"""The note on a client that has left, however that showed."""

_FWD: Final = re.compile(r"; fwd=([a-z-]+)")
_STORED: Final = re.compile(r"; stored(?:;|$)")
_DETAIL: Final = re.compile(r'; detail=(?:"((?:[^"\\]|\\.)*)"|([^;"\s]+))')
_ERROR: Final = re.compile(r"; error=([a-z_]+)")
_DETAILS: Final = re.compile(r'; details="((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_NOT_IN_WORD: Final = re.compile(r"[^!-~]+")
_REMEMBER_LENGTH: Final = 256  # characters


def as_word(text: str) -> str:
    """One word of the access log, of printable ASCII: anything else is a hyphen."""
    return _NOT_IN_WORD.sub("-", text)


def reasons(headers: Headers, source: str) -> str:
    """The reasons in an answer of ours, as ``key=value`` with spaces before: ``fwd`` (RFC 9211 §2.2),
    ``not_stored``, ``detail``, ``error`` (RFC 9209 §2.3). Nothing for a hit."""
    values = headers.get_all("cache-status")
    own = values[-1] if values else ""  # those before are of caches further on
    if source == "error":
        return _told(own, source, headers.get("proxy-status"))
    # Misses mostly have the same ones.
    return (_remembered if len(own) <= _REMEMBER_LENGTH else _told)(own, source)


def _told(own: str, source: str, proxy_status: str | None = None) -> str:
    text = ""
    if (fwd := _FWD.search(own)) is not None:
        text = f" fwd={fwd[1]}"
    detail = _DETAIL.search(own)
    why = as_word(detail[1] or detail[2] or "") if detail is not None else ""
    if source in ("miss", "coalesced") and not _STORED.search(own):
        return f"{text} not_stored={why or 'store'}"
    if proxy_status is not None and (error := _ERROR.search(proxy_status)):
        text += f" error={error[1]}"
        if why == error[1]:
            why = ""
    return f"{text} detail={why}" if why else text


_remembered = lru_cache(maxsize=256)(_told)


def explanation(headers: Headers) -> str:
    """An error of ours in words: the ``details`` of its Proxy-Status (RFC 9209 §2.1.5). Nothing if
    :func:`reasons` tells the same word."""
    found = _DETAILS.search(headers.get("proxy-status") or "")
    if found is None:
        return ""
    text = _ESCAPED.sub(r"\1", found[1])
    return "" if (headers.get("cache-status") or "").endswith(f"; detail={text}") else text


def cut_by(error: BaseException | None, *, gone: bool) -> tuple[str, str]:
    """Who broke a response off that had started (``client``, ``origin``, ``proxy``), and the type of the origin's error
    if it was that. ``gone``: the client has left, which may show as any error at all."""
    if gone or isinstance(error, OSError):  # what goes wrong with a file is not raised as one
        return "client", ""
    cause = error.__cause__ if error is not None else None
    if isinstance(cause, Overloaded):
        return "proxy", "connection_limit_reached"  # no slot for the next span of it
    if isinstance(cause, OriginError) and cause.error != "proxy_internal_error":
        return "origin", cause.error
    return "proxy", ""  # the disk, the end of the proxy, a client that was dropped because it takes nothing
