"""A sampled request's trace, as the cache sees it (its spans are made in :mod:`observe.trace_spans`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from ..semantics.keys import Target


class RequestTrace(Protocol):
    """The trace of one client's request."""

    @property
    def ids(self) -> tuple[str, str]:
        """Of the trace, and of the request's span, in hex, as ``traceparent`` has them."""

    def fill(self, target: Target) -> Any:
        """It starts a fill, which has a trace of its own."""

    def shares(self, fill: Any) -> None:
        """It waits for a fill with this trace, which another request has started."""

    def phases(self, laps: Iterable[Any]) -> None:
        """What it went through that is in no trace of a fill."""

    def ended(
        self, method: str, url: str, status: int, size: int, source: str, client: str, *, queued: float = 0.0,
        note: str = "", words: str = "", at: float | None = None,
    ) -> None:  # fmt: skip
        """It is over. As the access log has it: ``url`` redacted, ``size`` in bytes, ``queued`` in seconds, ``words``
        as ``key=value`` pairs. ``at``: by the monotonic clock (now)."""
