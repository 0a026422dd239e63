"""Traces, by OpenTelemetry, if its variables ask for them and it is installed (docs/tracing.md).

Off, nothing of this is imported, and nobody asks it anything. On, a request that is not sampled costs a countdown.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ..semantics.headers import Headers
from .trace_settings import TraceError, TraceSettings, read

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from .trace_export import SpanSender
    from .trace_spans import RequestSpans

logger = logging.getLogger(__name__)

SCOPE: Final = "proxy_cache"
SCHEMA: Final = "https://opentelemetry.io/schemas/1.34.0"
LAST_WAIT: Final = 1.0
"""Seconds that the last spans have in any case, also when nothing is left of ``shutdown_grace``."""
_FIELD: Final = "traceparent"
# W3C Trace Context §3.2.2: version, trace id, parent id, flags, of which the lowest bit is "sampled".
_NOT_SAMPLED: Final = re.compile(
    r"(?:00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]"
    r"|(?!00|ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace](?:-.*)?)"
)


class RequestTracer:
    """Says of each request whether it is traced, and begins its trace."""

    def __init__(self, settings: TraceSettings, *, version: str, instance: str) -> None:
        """Raises :class:`TraceError`, and ``ImportError`` without the extra."""
        from opentelemetry import context
        from opentelemetry.trace import get_current_span

        from .trace_export import SpanSender
        from .trace_sampling import HeadSampling
        from .trace_spans import W3C, RequestSpans

        self.settings = settings
        self.sampling = sampling = HeadSampling(settings.ratio, parent_based=settings.parent_based)
        self.sender: SpanSender = SpanSender(settings, sampling, version=version, instance=instance)
        self._tracer = self.sender.provider.get_tracer(SCOPE, version, SCHEMA)
        self._context, self._span_of, self._w3c, self._spans = context.Context, get_current_span, W3C, RequestSpans

    def begin(
        self, headers: Headers, *, method: str = "GET", version: str = "1.1", started: float | None = None,
        from_peer: bool = False,
    ) -> RequestSpans | None:  # fmt: skip
        """The trace of a request with these header fields; ``None`` if it is not sampled. ``version``: of HTTP;
        ``started``: by the monotonic clock (now). ``from_peer``: a peer has sent it, and would have said if it were."""
        sampling, parent = self.sampling, None
        if (field := headers.get(_FIELD)) is not None:
            if sampling.parent_based and _NOT_SAMPLED.fullmatch(field):
                return None
            parent = self._parent(field, headers.get("tracestate"))
        if parent is None:
            if (from_peer and sampling.parent_based) or not sampling.begins():
                return None
            parent = self._context()
        elif not sampling.parent_based and not sampling.takes(self._span_of(parent).get_span_context().trace_id):
            return None
        started = time.monotonic() if started is None else started
        return self._spans(self._tracer, parent, method, version, started, headers.get("user-agent"))

    def _parent(self, field: str, state: str | None) -> Context | None:
        """The caller's context; ``None`` if the field is none of W3C's, so that a trace of our own begins (§2.2)."""
        carrier = {_FIELD: field} if state is None else {_FIELD: field, "tracestate": state}
        context = self._w3c.extract(carrier, self._context())
        return context if self._span_of(context).get_span_context().is_valid else None


class Traces:
    """Starts and ends them."""

    def __init__(self) -> None:
        self.tracer: RequestTracer | None = None
        """``None`` while there are none."""
        self._why_off = ""

    def open(self, environment: Mapping[str, str] = os.environ, *, version: str = "", instance: str = "") -> None:
        """Start them, if the variables say so. What keeps them from it is told by :meth:`tell`. ``instance``: a name
        of this process, unlike that of any other."""
        try:
            settings = read(environment)
            if settings is not None and self.tracer is None:
                self.tracer = RequestTracer(settings, version=version, instance=instance)
        except ImportError as error:
            self._why_off = f"not installed ({error}): pip install 'proxy-cache[otel]'"
        except TraceError as error:
            self._why_off = str(error)
        except Exception as error:  # of the SDK's: nothing of it keeps the proxy from its work
            self._why_off = f"{type(error).__name__}: {error}"

    def tell(self) -> None:
        """One line in the log, if the variables ask for traces."""
        if self._why_off:
            logger.warning("proxy-cache: traces off: %s", self._why_off)
        elif self.tracer is not None:
            settings = self.tracer.settings
            logger.info("proxy-cache: traces of %s to %s", settings.sampler, settings.endpoint)

    async def close(self, patience: float) -> None:
        """Send the last ones, for ``patience`` seconds at the most, but :data:`LAST_WAIT` in any case."""
        tracer, self.tracer = self.tracer, None
        if tracer is not None:
            await tracer.sender.close(min(max(patience, LAST_WAIT), tracer.settings.export_timeout))
