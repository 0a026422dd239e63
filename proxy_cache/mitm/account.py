"""What is put down about a request when it is over: numbers, and its line in the access log.

The lane, flows and what is forwarded all come through here, so that one thing is told in one way.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mitmproxy import http
from mitmproxy.connection import Client

from ..caching.answers import Answer
from ..downstream.body_sender import InFlight
from ..downstream.outcome import NO_STATUS, cut_by, reasons
from ..observe.access_log import AccessLog
from ..observe.metrics import Metrics
from ..semantics.headers import Headers
from ..semantics.keys import Target
from ..semantics.redaction import redacted
from .flows import address, error_type
from .metadata import CUT, REFUSED


class Accounts:
    """Ends requests. ``failed`` hears of what raises here, which must not keep anything from ending."""

    def __init__(self, metrics: Metrics, log: AccessLog, failed: Callable[[Exception], None]) -> None:
        self.metrics = metrics
        self.log = log
        self.is_logged = False
        """The option ``access_log``."""
        self.is_stopping = False
        """What is cut from now on is cut by the proxy."""
        self._failed = failed

    def lane_ended(self, state: InFlight, answer: Answer | None, client: str, note: str) -> None:
        """The request has been answered in the fast lane, or its client has left."""
        assert state.exchange is not None
        status = NO_STATUS if answer is None else state.status or answer.status
        state.source = answer.source if answer is not None and status != NO_STATUS else "error"
        headers = answer.headers if answer is not None and status != NO_STATUS else None
        self._end(state, "GET", state.exchange.target, status, client, note, headers)

    def flow_ended(self, flow: http.HTTPFlow, state: InFlight, note: str, fwd: str) -> None:
        """The same, with a flow. ``note``: of mitmproxy's ``error`` hook, if it was that. ``fwd``: why it was
        forwarded, if it was."""
        request, response = flow.request, flow.response
        refused = flow.metadata.get(REFUSED)
        side = flow.metadata.get(CUT, "proxy") if note else ""
        if state.is_begun and response is not None:
            status = state.status or response.status_code
        elif state.exchange is not None and state.exchange.gone:
            status = NO_STATUS
        elif note:
            status = state.status or _refused(note) or (502 if side == "origin" else NO_STATUS)
        else:
            status = state.status or (response.status_code if response is not None else NO_STATUS)
        headers, told = None, ""
        if refused is not None:
            status, state.size, error, note = refused
            state.source, state.cut, side, told = "error", "", "", f" error={error}"
        elif status == NO_STATUS or response is None or not (state.is_begun or not note):
            state.source, state.size = "error", 0
            told = f" error={error_type(note)}" if side == "origin" else ""
        elif state.source == "forwarded":
            told = f" fwd={fwd} error={_broken_off(note)}" if side == "origin" else f" fwd={fwd}"
        elif self.is_logged and state.source != "hit":
            headers = Headers(response.headers.fields)
        if side and (state.source != "error" or status == NO_STATUS):
            state.cut = state.cut or side
        url = redacted(f"{request.scheme}://{request.host}:{request.port}{request.path}") if self.is_logged else ""
        counted = state.delivery is None
        client = address(flow.client_conn)
        self._end(state, request.method, url, status, client, note, headers, told, counted=counted)

    def connect_ended(self, flow: http.HTTPFlow, note: str = "") -> None:
        """There will be no tunnel: it was refused, its target could not be reached, or its client has left."""
        if not self.is_logged:
            return
        request, response = flow.request, flow.response
        url = redacted(f"{request.host}:{request.port}")
        seconds = time.time() - request.timestamp_start
        client = address(flow.client_conn)
        if response is None:
            self.log.write("CONNECT", url, NO_STATUS, 0, seconds, "error", 0.0, client, note, " cut=client")
            return
        headers = Headers(response.headers.fields)
        source = "error" if "proxy-status" in headers else "addon"
        why = reasons(headers, source)
        size = len(response.raw_content or b"")
        self.log.write("CONNECT", url, response.status_code, size, seconds, source, 0.0, client, note, why)

    def tunnel_ended(self, client: Client, target: str, size: int, seconds: float) -> None:
        self.metrics.tunnel_seconds.observe(seconds)
        if self.is_logged:
            self.log.write("CONNECT", redacted(target), 200, size, seconds, "tunnel", 0.0, address(client))

    def refused(self, client: Client, response: http.Response, detail: str) -> None:
        """A request that no flow was made of."""
        if self.is_logged:
            why = reasons(Headers(response.headers.fields), "error")
            size = len(response.raw_content or b"")
            self.log.write("-", "-", response.status_code, size, 0.0, "error", 0.0, address(client), detail, why)

    def _end(
        self, state: InFlight, method: str, url: str | Target, status: int, client: str, note: str,
        headers: Headers | None, told: str = "", *, counted: bool = False,
    ) -> None:  # fmt: skip
        """``url``: as it may be shown. ``headers``: of an answer of ours, which say why; ``told``: where there are
        none. ``counted``: its bytes have been."""
        try:
            exchange, delivery = state.exchange, state.delivery
            cut, error = state.cut, ""
            if exchange is not None:
                gone = exchange.gone and not self.is_stopping
                if delivery is not None and delivery.error is not None:
                    cut, error = cut_by(delivery.error, gone=gone)
                elif status == NO_STATUS:
                    cut = "client" if gone else cut or "proxy"
            if delivery is not None:
                delivery.close()
                state.size = delivery.sent
            if not counted and state.size:
                self.metrics.served(state.source, state.size)
            if exchange is not None:
                exchange.close()
            if not self.is_logged:
                return
            seconds = time.monotonic() - state.started
            queued = exchange.queued_for if exchange is not None else 0.0
            if headers is not None and state.source != "hit":
                told = reasons(headers, state.source)
            if cut:
                told += f" cut={cut} error={error}" if error else f" cut={cut}"
            shown = url if isinstance(url, str) else url.shown
            self.log.write(method, shown, status, state.size, seconds, state.source, queued, client, note, told)
        except Exception as failure:
            self._failed(failure)


def _broken_off(note: str) -> str:
    """The proxy error type (RFC 9209 §2.3) of what mitmproxy says of a body that has begun, as it is for fills."""
    ended = any(
        word in note for word in ("closed connection", "disconnected", "connection closed", "connection ended", "reset")
    )
    return "http_response_incomplete" if ended else error_type(note)


def _refused(note: str) -> int:
    """The status with which mitmproxy itself refuses what it says this of."""
    if note.startswith("Request body exceeds"):
        return 413
    if note.startswith("http_request_error: "):
        return 400
    return 502 if note.startswith(("Response body exceeds", "Received ")) else 0
