"""How traces leave: in batches, by a thread of the SDK's, from a bounded queue.

A collector that is away or slow costs spans, and nothing else: the queue drops what doesn't fit
(``OTEL_BSP_MAX_QUEUE_SIZE``), the log has a line a minute, and the end of the proxy waits for the last batch for a
bounded time.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags

from ..semantics.redaction import for_log
from ..semantics.texts import brief
from . import trace_encoding
from .trace_settings import TraceError, TraceSettings
from .trace_spans import Notes

logger = logging.getLogger(__name__)

COMPLAIN_EVERY: Final = 60.0
"""Seconds between lines about spans that can't be sent."""
LIBRARY: Final = "opentelemetry"
_SPANS_MAX: Final = 512
"""Spans in one request: a fill may have a hundred."""


class _Item:
    """Notes as the SDK's queue takes them: it asks a span for its context, whether that is sampled."""

    __slots__ = ("notes",)
    context = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    def __init__(self, notes: Notes) -> None:
        self.notes = notes


class SpanSender:
    """The queue, and the way out of it."""

    def __init__(self, settings: TraceSettings, *, version: str, instance: str) -> None:
        """Raises :class:`TraceError`."""
        own = {"service.name": "proxy-cache", "service.version": version, "service.instance.id": instance}
        told = OTELResourceDetector().detect().attributes
        resource = Resource.create({name: value for name, value in own.items() if name not in told})
        exporter = _Exporter(settings.protocol, resource, version)
        try:
            self._processor = BatchSpanProcessor(exporter)
        except ValueError as error:
            raise TraceError(f"OTEL_BSP_…: {error}") from error
        self._complaints = _Complaints()
        self._complaints.take()

    def send(self, notes: Notes) -> None:
        """Never waits; drops them if there is no room."""
        item: Any = _Item(notes)
        self._processor.on_end(item)

    async def close(self, patience: float) -> None:
        """Send what there is, for ``patience`` seconds at the most."""
        loop = asyncio.get_running_loop()
        sent = asyncio.Event()

        def shut_down() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call, unused-ignore]
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


class _Exporter(SpanExporter):
    """Makes the spans of the notes in a batch, and has the SDK's exporter send them, with its retries, certificates and
    header fields. Called by the queue's thread."""

    def __init__(self, protocol: str, resource: Resource, version: str) -> None:
        """Raises :class:`TraceError`."""
        name = f"opentelemetry.exporter.otlp.proto.{protocol.partition('/')[0]}.trace_exporter"
        package = f"opentelemetry-exporter-otlp-proto-{protocol.partition('/')[0]}"
        try:
            module = importlib.import_module(name)
            self._inner: SpanExporter = module.OTLPSpanExporter()
        except ImportError as error:
            raise TraceError(f"{protocol} needs {package}: {error}") from error
        except Exception as error:  # a certificate that can't be read, a header field that is none
            raise TraceError(f"OTEL_EXPORTER_OTLP_…: {brief(str(error))}") from error
        if not callable(getattr(module, "encode_spans", None)):
            raise TraceError(f"this version of {package} encodes spans in another way")
        about = trace_encoding.resource_of(resource.attributes.items())
        module.encode_spans = partial(trace_encoding.request, about, version)  # type: ignore[attr-defined]

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        made: list[Any] = []
        for item in spans:
            made += item.notes.spans()
        result = SpanExportResult.SUCCESS
        for start in range(0, len(made), _SPANS_MAX):
            if self._inner.export(made[start : start + _SPANS_MAX]) is not SpanExportResult.SUCCESS:
                result = SpanExportResult.FAILURE
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


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
