"""How finished spans leave: in batches, by a thread of the SDK's, from a bounded queue.

A collector that is away or slow costs spans, and nothing else: the queue drops what doesn't fit
(``OTEL_BSP_MAX_QUEUE_SIZE``), the log has a line a minute, and the end of the proxy waits for the last batch for a
bounded time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Final

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from ..semantics.redaction import for_log
from ..semantics.texts import brief
from .trace_sampling import HeadSampling, SampledIds
from .trace_settings import TraceError, TraceSettings

logger = logging.getLogger(__name__)

COMPLAIN_EVERY: Final = 60.0
"""Seconds between lines about spans that can't be sent."""
LIBRARY: Final = "opentelemetry"


def exporter_for(settings: TraceSettings) -> SpanExporter:
    """Reads the rest of the variables itself. Raises :class:`TraceError` if there is none to be had."""
    try:
        if settings.protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # type: ignore[import-not-found, unused-ignore]
                OTLPSpanExporter as GrpcExporter,
            )

            exporter: SpanExporter = GrpcExporter()
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
    except ImportError as error:
        package = f"opentelemetry-exporter-otlp-proto-{settings.protocol.partition('/')[0]}"
        raise TraceError(f"{settings.protocol} needs {package}: {error}") from error
    except Exception as error:  # a certificate that can't be read, a header that is none
        raise TraceError(f"OTEL_EXPORTER_OTLP_…: {brief(str(error))}") from error
    return exporter


class SpanSender:
    """The SDK's provider of tracers, and the way out of what they make."""

    def __init__(self, settings: TraceSettings, sampling: HeadSampling, *, version: str, instance: str) -> None:
        """Raises :class:`TraceError`."""
        self._exporter = exporter_for(settings)
        own = {"service.name": "proxy-cache", "service.version": version, "service.instance.id": instance}
        told = OTELResourceDetector().detect().attributes
        resource = Resource.create({name: value for name, value in own.items() if name not in told})
        self.provider = TracerProvider(
            sampling.sampler(), resource, shutdown_on_exit=False, id_generator=SampledIds(sampling.bound)
        )
        try:
            self.provider.add_span_processor(BatchSpanProcessor(self._exporter))
        except ValueError as error:
            raise TraceError(f"OTEL_BSP_…: {error}") from error
        self._complaints = _Complaints()
        self._complaints.take()

    async def close(self, patience: float) -> None:
        """Send what there is, for ``patience`` seconds at the most."""
        loop = asyncio.get_running_loop()
        sent = asyncio.Event()

        def shut_down() -> None:
            self.provider.shutdown()
            try:
                loop.call_soon_threadsafe(sent.set)
            except RuntimeError:
                pass  # nobody waits any more

        # A thread of its own that nobody joins: those of the loop's executor are waited for when the process ends.
        threading.Thread(target=shut_down, name="traces: the last batch", daemon=True).start()
        try:
            await asyncio.wait_for(sent.wait(), patience)
        except TimeoutError:
            logger.warning("proxy-cache: traces: the last spans could not be sent within %.1f s", patience)
        self._complaints.leave()


class _Complaints(logging.Handler):
    """Takes the SDK's log over, which has a line, or a traceback, for each batch that could not be sent."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._logger = logging.getLogger(LIBRARY)
        self._next = 0.0
        self._more = 0
        self._propagated = True

    def take(self) -> None:
        self._propagated, self._logger.propagate = self._logger.propagate, False
        self._logger.addHandler(self)

    def leave(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now < self._next:
            self._more += 1
            return
        self._next = now + COMPLAIN_EVERY
        more, self._more = self._more, 0
        try:
            text = for_log(brief(record.getMessage()))
        except Exception:  # a message whose arguments don't fit
            text = str(record.msg)
        logger.warning("proxy-cache: traces: %s%s", text, f" ({more} such lines in between)" if more else "")
