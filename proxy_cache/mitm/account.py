"""The ends of mitmproxy's flows, as the plain values that :mod:`..downstream.account` takes."""

from __future__ import annotations

import time

from mitmproxy import http
from mitmproxy.connection import Client

from ..downstream.account import Accounts
from ..downstream.outcome import LEFT, NO_STATUS
from ..downstream.records import RequestRecord
from ..semantics.headers import Headers
from ..semantics.redaction import redacted
from .flows import address, client_of, error_type, is_bodiless
from .metadata import CUT, REFUSED


def end_flow(accounts: Accounts, flow: http.HTTPFlow, record: RequestRecord, note: str, fwd: str) -> None:
    """``note``: of mitmproxy's ``error`` hook, if it was that. ``fwd``: why it was forwarded, if it was."""
    request, response = flow.request, flow.response
    if accounts.tracer is not None:
        begin_trace(accounts, flow, record)
    side = flow.metadata.get(CUT, "proxy") if note else ""
    note = LEFT if note.rstrip(".").lower() == LEFT else note
    url = redacted(f"{request.scheme}://{request.host}:{request.port}{request.path}") if accounts.is_told else ""
    client = client_of(flow)
    refused = flow.metadata.get(REFUSED)
    if refused is not None:
        status, record.size, error, note = refused
        record.served_from, record.cut = "error", ""
        accounts.ended(record, request.method, url, client, status, error=error, note=note)
        return
    if record.made is not None and response is not record.made and not record.is_begun:
        # Another addon has answered in our place.
        record.served_from = "addon"
        if record.sender is not None:
            record.sender.close()
            record.sender = None
    status = _status(flow, record, note, side)
    if status == NO_STATUS or response is None or not (record.is_begun or not note):
        record.served_from, record.size = "error", 0
        record.cut = record.cut or (side if status == NO_STATUS else "")
        error = error_type(note) if side == "origin" else ""
        accounts.ended(record, request.method, url, client, status, error=error, note=note)
        return
    if record.sender is None and not record.size:
        record.size = 0 if is_bodiless(flow) else len(response.raw_content or b"")
    if side and record.served_from != "error":
        record.cut = record.cut or side
    if record.served_from == "forwarded":
        error = _broken_off(note) if side == "origin" else ""
        accounts.ended(record, request.method, url, client, status, fwd=fwd, error=error, note=note)
        return
    headers = Headers(response.headers.fields) if accounts.is_told and record.served_from != "hit" else None
    accounts.ended(record, request.method, url, client, status, headers, note=note)


def begin_trace(accounts: Accounts, flow: http.HTTPFlow, record: RequestRecord) -> None:
    """Unless it has one. A request of the cache's needs it before it asks anybody else, any other at its end."""
    request, exchange = flow.request, record.exchange
    headers = Headers(request.headers.fields) if exchange is None else exchange.headers
    accounts.trace(record, headers, request.method, request.http_version.removeprefix("HTTP/").removesuffix(".0"))


def _status(flow: http.HTTPFlow, record: RequestRecord, note: str, side: str) -> int:
    """The status that the client was sent."""
    response = flow.response
    if record.is_begun and response is not None:
        return record.status or response.status_code
    if record.exchange is not None and record.exchange.gone:
        return NO_STATUS
    if note:
        return record.status or _refused(note) or (502 if side == "origin" else NO_STATUS)
    return record.status or (response.status_code if response is not None else NO_STATUS)


def end_connect(accounts: Accounts, flow: http.HTTPFlow, note: str = "") -> None:
    """There will be no tunnel: it was refused, its target could not be reached, or its client has left."""
    request, response = flow.request, flow.response
    status, size, headers = NO_STATUS, 0, Headers()
    if response is not None:
        status, size = response.status_code, len(response.raw_content or b"")
        headers = Headers(response.headers.fields)
    note = LEFT if note.rstrip(".").lower() == LEFT else note
    seconds = time.time() - request.timestamp_start
    target, client = f"{request.host}:{request.port}", client_of(flow)
    accounts.ended_early("CONNECT", target, client, status, size, headers, seconds=seconds, note=note)


def end_refused(accounts: Accounts, client: Client, response: http.Response, detail: str) -> None:
    """A request that no flow was made of."""
    headers, size = Headers(response.headers.fields), len(response.raw_content or b"")
    accounts.ended_early("-", "-", address(client), response.status_code, size, headers, note=detail)


def _broken_off(note: str) -> str:
    """The proxy error type (RFC 9209 §2.3) for mitmproxy's message on a body that has started, as fills have it."""
    ended = any(
        word in note for word in ("closed connection", "disconnected", "connection closed", "connection ended", "reset")
    )
    return "http_response_incomplete" if ended else error_type(note)


def _refused(note: str) -> int:
    """The status with which mitmproxy itself answers, when this is its message."""
    if note.startswith("Request body exceeds"):
        return 413
    if note.startswith("http_request_error: "):
        return 400
    return 502 if note.startswith(("Response body exceeds", "Received ")) else 0
