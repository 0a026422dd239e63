"""Notes on a request while it is being answered."""

from __future__ import annotations

import time

from ..caching.answers import Exchange
from ..caching.tracing import RequestTrace
from .body_sender import BodySender


class RequestRecord:
    """One request that is being answered: for the access log, the metrics, and the client that may leave."""

    __slots__ = (
        "cut",
        "exchange",
        "first",
        "is_counted",
        "is_passed_on",
        "made",
        "passed_on_at",
        "request_id",
        "sender",
        "served_from",
        "size",
        "started",
        "status",
        "trace",
    )  # fmt: skip

    def __init__(self, exchange: Exchange | None = None) -> None:
        self.started = time.monotonic()
        self.exchange = exchange
        self.trace: RequestTrace | None = None
        """If it is sampled."""
        self.sender: BodySender | None = None
        self.first: bytes | None = None
        """Bytes that were read from the body already."""
        self.served_from = "forwarded"
        self.size = 0
        self.cut = ""
        """Who broke the response off (``client``, ``origin``, ``proxy``), where its ``sender`` doesn't tell."""
        self.status = 0
        """The status that the client was sent, where that isn't the response's."""
        self.is_passed_on = False
        """Whether mitmproxy has started to send a response that is not the cache's."""
        self.passed_on_at = 0.0
        """When that was (monotonic clock)."""
        self.is_counted = False
        """Whether it was counted as forwarded."""
        self.request_id = ""
        """Its X-Request-Id, of a flow, where requests have one."""
        self.made: object = None
        """Our response to its flow. If the flow has another one, another addon has made that."""

    def head_sent_by(self, ended: float) -> float:
        """When the head of the answer was sent, of a request that has ended then. (Monotonic clock.) Of an answer that
        was all there, it was sent with its body."""
        head_sent_at = self.sender.begun_at if self.sender is not None else self.passed_on_at
        return head_sent_at or ended

    @property
    def is_begun(self) -> bool:
        """Whether the client of a flow has been sent a head."""
        return self.is_passed_on or (self.sender is not None and self.sender.is_begun)
