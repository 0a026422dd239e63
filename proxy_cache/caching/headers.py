"""Heads of answers: the fields of our own, errors of our own making, and the client's conditions."""

from __future__ import annotations

from ..semantics import request_ids
from ..semantics.dates import format_http_date
from ..semantics.headers import Headers, field_line
from ..semantics.status_fields import cache_status, proxy_status
from ..semantics.stored import StoredResponse
from ..semantics.texts import brief
from ..semantics.validation import is_conditional, not_modified, not_modified_headers
from .answers import Answer, Exchange

NAME = "proxy-cache"
"""How this cache calls itself in ``Cache-Status`` and ``Proxy-Status``."""
REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


class Heads:
    """Makes the heads of answers, for a proxy of this name (``via``)."""

    def __init__(self, via: str) -> None:
        self.via = via
        self.has_request_ids = False
        """Whether clients are told the ids of their requests, in place of what an origin has said (``request_id``)."""
        self._via = field_line(b"Via", f"1.1 {via}".encode("latin-1", "replace"))

    def own(self, headers: Headers, response: StoredResponse, status: str) -> Headers:
        """``headers`` with Via, Cache-Status and, where the origin has given none, Date."""
        if "date" not in headers:
            headers = headers.add("Date", format_http_date(response.response_time))  # RFC 9110 §6.6.1
        if self.has_request_ids:
            headers = headers.without(request_ids.FIELD.lower())
        return headers.plus(self._via, ((b"Cache-Status", status.encode("latin-1", "replace")), "cache-status", status))

    def overloaded(self, outcome: str, retry_after: int, fwd: str = "miss") -> Answer:
        """503: the request was ``canceled``, ``timeout`` or ``rejected`` while it was to queue for a slot."""
        return self.error(503, "connection_limit_reached", fwd, detail=outcome, retry_after=retry_after)

    def error(
        self, code: int, error: str, fwd: str, *, detail: str | None = None, retry_after: int | None = None
    ) -> Answer:
        """An answer of our own making, with ``Proxy-Status`` (RFC 9209) to say so."""
        detail = brief(detail) if detail is not None else None
        fields = Headers().add("Content-Type", "text/plain; charset=utf-8")
        if retry_after is not None:
            fields = fields.add("Retry-After", str(retry_after))
        fields = fields.add("Cache-Control", "no-store")
        fields = fields.add("Proxy-Status", proxy_status(NAME, error, detail=detail))
        is_word = error == "connection_limit_reached" or (error == "http_request_denied" and code == 504)
        reason = detail if is_word else error
        fields = fields.add("Cache-Status", cache_status(NAME, fwd=fwd, detail=reason))
        fields = fields.add("Via", f"1.1 {self.via}")
        text = f"{code} {REASONS.get(code, 'Error')}: {error.replace('_', ' ')}{f' ({detail})' if detail else ''}\n"
        body = text.encode("utf-8", "replace")
        return Answer(code, REASONS.get(code, ""), fields, body, len(body), "error")

    def internal_error(self, detail: str) -> Answer:
        """Something of ours failed. The request does not go anywhere (fail closed)."""
        return self.error(502, "proxy_internal_error", "bypass", detail=detail)

    def loop_detected(self) -> Answer:
        """The request has been through this proxy already (RFC 9110 §7.6.3)."""
        return self.error(502, "proxy_loop_detected", "bypass")


def put(headers: Headers, name: str, value: str) -> Headers:
    """One line of this field, spelt as people expect it."""
    return headers.without(name.lower()).add(name, value)


def conditionally(exchange: Exchange, answer: Answer) -> Answer:
    """The client's own conditions are answered here, whoever has fetched the response (RFC 9110 §13.2)."""
    # §13.2.2 has If-None-Match evaluated before Range: a 206 stands for a 200 here.
    if not is_conditional(exchange.headers):
        return answer
    status = 200 if answer.status == 206 else answer.status
    if not not_modified(exchange.headers, status, answer.headers):
        return answer
    exchange.close()
    exchange.source = None
    kept = not_modified_headers(answer.headers)
    for name in ("Age", "Via", "Cache-Status"):
        value = answer.headers.get(name.lower())
        if value is not None and name.lower() not in kept:
            kept = kept.add(name, value)
    return Answer(304, "Not Modified", kept, b"", None, answer.served_from)
