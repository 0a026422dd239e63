"""Traces, by OpenTelemetry, if its variables ask for them and it is installed (docs/tracing.md).

Off, nothing of this is imported, and nobody asks it anything. On, a request that is not sampled costs a countdown.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Final

from ..semantics.headers import Headers
from .trace_parent import PARENT, parse
from .trace_sampling import HeadSampling
from .trace_settings import TraceError, TraceSettings, read
from .trace_spans import TracedRequest

logger = logging.getLogger(__name__)

LAST_WAIT: Final = 1.0
"""Seconds that the last spans have in any case, also when nothing is left of ``shutdown_grace``."""


class RequestTracer:
    """Says of each request whether it is traced, and begins its trace."""

    def __init__(self, settings: TraceSettings, *, version: str, instance: str) -> None:
        """Raises :class:`TraceError`, and ``ImportError`` without the extra."""
        from .trace_export import SpanSender

        self.settings = settings
        self.sampling = HeadSampling(settings.ratio, parent_based=settings.parent_based)
        self.sender = SpanSender(settings, version=version, instance=instance)

    def begin(
        self, headers: Headers, *, method: str = "GET", version: str = "1.1", started: float | None = None,
        from_peer: bool = False,
    ) -> TracedRequest | None:  # fmt: skip
        """The trace of a request with these header fields; ``None`` if it is not sampled. ``version``: of HTTP;
        ``started``: by the monotonic clock (now). ``from_peer``: a peer has sent it, and would have said if it were."""
        sampling, parent = self.sampling, None
        if PARENT in headers and (parent := parse(headers)) is not None:
            if not (parent.is_sampled if sampling.parent_based else sampling.takes(parent.trace_id)):
                return None
        elif (from_peer and sampling.parent_based) or not sampling.begins():
            return None
        trace_id = parent.trace_id if parent is not None else sampling.new_trace_id()
        started, agent = time.monotonic() if started is None else started, headers.get("user-agent")
        return TracedRequest(self.sender.send, trace_id, parent, method, version, started, agent)


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
