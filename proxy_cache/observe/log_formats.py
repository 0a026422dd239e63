"""The formats of the access log, as pure functions (docs/access-log.md): a line for a person, an object of JSON, and
Squid's native format.

All of them are given texts that are safe already, or make them so: one line, no control characters. URLs come redacted
(:mod:`..semantics.redaction`), and notes are redacted here, in the same way for every format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from json.encoder import encode_basestring_ascii as quoted  # (with the quotes; lone surrogates are escaped, too)
from typing import Final, NamedTuple, TypeAlias

from ..semantics.client_names import is_address
from ..semantics.keys import Target
from ..semantics.redaction import for_log, one_line
from ..semantics.texts import brief

METHOD_MAX: Final = 32
"""Characters of a method that are shown."""
NO_STATUS: Final = 499
"""Of requests whose clients left before they were sent a status, as nginx has it."""
_BLANK: Final = re.compile(r"\s+")


class LoggedRequest(NamedTuple):
    """A request that is over. ``url``: redacted; ``size``: bytes of the response's body; ``seconds``: since its head;
    ``queued``: seconds in the queue; ``reasons``: ``key=value``, each with a space before it; ``phases``: names and
    seconds of a miss's steps; ``trace``: the ids of trace and span, in hex, of one that is traced."""

    method: str
    url: str
    status: int
    size: int
    seconds: float
    served_from: str
    queued: float
    client: str
    note: str = ""
    reasons: str = ""
    request_id: str = ""
    phases: tuple[tuple[str, float], ...] = ()
    trace: tuple[str, str] | None = None


Format: TypeAlias = Callable[[str, LoggedRequest], str]
"""A line, of the time and a request."""
Hit: TypeAlias = tuple[Target, int, int, float, float, str, str, object]
"""The most frequent case, a GET that was answered from memory: what was asked for, the status, bytes of body, when the
request was there and when it was sent (by one clock, in seconds), the client, the request's id, and something that is
not for the log. (As a lane notes it: :data:`..downstream.hits.Hit`.)"""
HitFormat: TypeAlias = Callable[[Iterable[str], Sequence[Hit]], list[str]]
"""A line for each, of their times and the hits. Written for many of them in a row, since they are so many."""


# -- a line -----------------------------------------------------------------------------------------------------------


def as_line(stamp: str, request: LoggedRequest) -> str:
    """``TIME GET http://host/path 200 1024 B 12.3 ms miss queued=250ms fwd=uri-miss [127.0.0.1]``."""
    method, url, status, size, seconds, source, queued, client, note, reasons, request_id, phases, trace = request
    wait = f" queued={queued * 1000:.0f}ms" if queued >= 0.001 else ""
    tail = f" ({_note(note)})" if note else ""
    if request_id:
        reasons += f" request_id={request_id}"
    for name, taken in phases:
        reasons += f" {name}={taken * 1000:.1f}ms"
    if trace is not None:
        reasons += f" trace_id={trace[0]} span_id={trace[1]}"
    word = method if method == "GET" else _word(method)
    took = f"{seconds * 1000:.1f} ms"
    line = f"{stamp} {word} {url} {status} {size} B {took} {source}{wait}{reasons} [{client}]{tail}"
    return line if line.isprintable() else one_line(line)


def hits_as_lines(stamps: Iterable[str], hits: Sequence[Hit]) -> list[str]:
    return [
        f"{stamp} GET {target.shown} {status} {size} B "
        f"{'0.0' if ended - started < 0.00005 else f'{(ended - started) * 1000:.1f}'} ms hit"
        f"{f' request_id={request_id}' if request_id else ''} [{client}]"
        for stamp, (target, status, size, started, ended, client, request_id, _) in zip(stamps, hits, strict=True)
    ]


def _word(method: str) -> str:
    """A method as one word of a line: clients may send anything."""
    return method if method.isalpha() and len(method) <= METHOD_MAX else method[:METHOD_MAX].replace(" ", "%20")


def _note(note: str) -> str:
    return for_log(brief(note))


# -- JSON -------------------------------------------------------------------------------------------------------------


def as_json(stamp: str, request: LoggedRequest) -> str:
    """An object, on one line, in ASCII. Members that don't apply are left out, as in a line."""
    parts = [
        f'{{"time":"{stamp}","method":{_text(request.method[:METHOD_MAX])},"url":{_text(request.url)}'
        f',"status":{request.status},"bytes":{request.size},"duration_ms":{request.seconds * 1000:.1f}'
        f',"source":"{request.served_from}","client":{_text(request.client)}'
    ]
    if request.queued >= 0.001:
        parts.append(f',"queued_ms":{request.queued * 1000:.0f}')
    for reason in request.reasons.split():
        name, _, value = reason.partition("=")
        parts.append(f',"{name}":{_text(value)}')
    if request.request_id:
        parts.append(f',"request_id":{_text(request.request_id)}')
    for name, seconds in request.phases:
        parts.append(f',"{name}_ms":{seconds * 1000:.1f}')
    if request.trace is not None:  # named as OpenTelemetry has it ("Trace Context in non-OTLP Log Formats")
        parts.append(f',"trace_id":"{request.trace[0]}","span_id":"{request.trace[1]}"')
    if request.note:
        parts.append(f',"note":{_text(_note(request.note))}')
    parts.append("}")
    return "".join(parts)


def hits_as_json(stamps: Iterable[str], hits: Sequence[Hit]) -> list[str]:
    lines = []
    url = of = None
    for stamp, (target, status, size, started, ended, client, request_id, _) in zip(stamps, hits, strict=True):
        if target is not url:
            url, shown = target, _text(target.shown)
        if client != of:
            of, whose = client, _text(client)
        took = "0.0" if ended - started < 0.00005 else f"{(ended - started) * 1000:.1f}"
        told = f',"request_id":{_text(request_id)}' if request_id else ""
        lines.append(
            f'{{"time":"{stamp}","method":"GET","url":{shown},"status":{status},"bytes":{size},"duration_ms":{took}'
            f',"source":"hit","client":{whose}{told}}}'
        )
    return lines


def _text(text: str) -> str:
    return quoted(text if text.isprintable() else one_line(text))


# -- Squid ------------------------------------------------------------------------------------------------------------


def as_squid(stamp: str, request: LoggedRequest) -> str:
    """``time elapsed remotehost code/status bytes method URL rfc931 peerstatus/peerhost type``, and nothing else: tools
    count the fields from either end."""
    reasons = dict(reason.split("=", 1) for reason in request.reasons.split())
    status = 0 if request.status == NO_STATUS else request.status
    method, url = request.method, without_default_port(request.url)
    if method == "-":  # could not be read
        method, url = "NONE", "error:invalid-request"
    host, user = (request.client, "-") if is_address(request.client) else ("-", request.client)
    line = (
        f"{stamp} {request.seconds * 1000:6.0f} {host} {result_code(request, reasons)}/{status:03d} {request.size}"
        f" {_blankless(_word(method))} {_blankless(url)} {_blankless(user)} {_hierarchy(request, reasons)} -"
    )
    return line if line.isprintable() else one_line(line)


def hits_as_squid(stamps: Iterable[str], hits: Sequence[Hit]) -> list[str]:
    return [
        as_squid(stamp, LoggedRequest("GET", target.shown, status, size, ended - started, "hit", 0.0, client))
        for stamp, (target, status, size, started, ended, client, _, _) in zip(stamps, hits, strict=True)
    ]


def result_code(request: LoggedRequest, reasons: dict[str, str]) -> str:
    """Squid's result code, such as ``TCP_HIT``, with ``_ABORTED`` where the client has left."""
    code = _code(request, reasons)
    return f"{code}_ABORTED" if reasons.get("cut") == "client" else code


def _code(request: LoggedRequest, reasons: dict[str, str]) -> str:
    source, status, fwd = request.served_from, request.status, reasons.get("fwd")
    if source == "hit":
        return "TCP_IMS_HIT" if status == 304 else "TCP_HIT"
    if source in _CODES:
        return _CODES[source]
    if source == "stale":
        return "TCP_HIT" if reasons.get("detail") == "stale-while-revalidate" else "TCP_REFRESH_FAIL_OLD"
    if source == "addon":
        return "TCP_DENIED" if status in (401, 403, 407) else "NONE_NONE"
    if source == "error":
        if status == 403:
            return "TCP_DENIED"
        if request.method == "-" or fwd == "bypass":
            return "NONE_NONE"
        return "TCP_REFRESH_FAIL_ERR" if fwd == "stale" else "TCP_MISS"
    return _MISSES.get(fwd or "", "TCP_MISS")


_CODES: Final = {
    "revalidated": "TCP_REFRESH_UNMODIFIED", "coalesced": "TCP_CF_MISS", "tunnel": "TCP_TUNNEL", "own": "NONE_NONE",
}  # fmt: skip
_MISSES: Final = {"stale": "TCP_REFRESH_MODIFIED", "request": "TCP_CLIENT_REFRESH_MISS"}
_ASKED: Final = frozenset({"miss", "forwarded", "revalidated", "tunnel"})
"""For whom an origin was asked."""
_OUR_OWN: Final = frozenset(
    {
        "", "connection_limit_reached", "destination_ip_prohibited", "http_request_denied", "http_request_error",
        "proxy_internal_error", "proxy_loop_detected",
    }
)  # fmt: skip
"""Errors that no origin has a part in."""


def _hierarchy(request: LoggedRequest, reasons: dict[str, str]) -> str:
    """Whom the request went to: the host of its URL, or nobody."""
    source = request.served_from
    if source in _ASKED or (source == "error" and reasons.get("error", "") not in _OUR_OWN):
        return f"HIER_DIRECT/{_blankless(host_of(request.url))}"
    return "HIER_NONE/-"


def host_of(url: str) -> str:
    """The host of a URL, or of ``host:port``, without brackets."""
    _, separator, rest = url.partition("://")
    authority = (rest if separator else url).partition("/")[0].partition("?")[0]
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]


def without_default_port(url: str) -> str:
    """A URL as Squid's log has it: the port only where it isn't the scheme's."""
    scheme, separator, rest = url.partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme)
    if port is None or not separator:
        return url
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.removesuffix(port)}{slash}{path}"


def _blankless(text: str) -> str:
    """One field, which is never empty."""
    return (_BLANK.sub("%20", text) if _BLANK.search(text) else text) or "-"


FORMATS: Final[dict[str, tuple[Format, HitFormat]]] = {
    "line": (as_line, hits_as_lines), "json": (as_json, hits_as_json), "squid": (as_squid, hits_as_squid),
}  # fmt: skip
