"""Spans as OTLP's messages.

The SDK's own way, a span object with its locks and copies, and an encoder for it, takes 180 µs a span, as much as
twenty hits. This takes a tenth of that: one request in a hundred may be traced without anybody noticing.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from .trace_spans import Pairs, Span, Value

SCOPE: Final = "proxy_cache"
_KINDS: Final = {
    "internal": trace_pb2.Span.SPAN_KIND_INTERNAL,
    "server": trace_pb2.Span.SPAN_KIND_SERVER,
    "client": trace_pb2.Span.SPAN_KIND_CLIENT,
}
_SAMPLED: Final = 0x01
_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200


def request(resource: Resource, version: str, spans: Iterable[Span]) -> ExportTraceServiceRequest:
    """One request to a collector. ``version``: of this proxy."""
    message = ExportTraceServiceRequest()
    of_process = message.resource_spans.add(resource=resource)
    made = of_process.scope_spans.add(scope=InstrumentationScope(name=SCOPE, version=version)).spans
    for span in spans:
        _put(span, made.add())
    return message


def resource_of(attributes: Iterable[tuple[str, object]]) -> Resource:
    """``attributes``: of the process, as the SDK has read them; numbers and texts."""
    return Resource(
        attributes=[
            _pair(name, value if isinstance(value, (bool, int, float)) else str(value)) for name, value in attributes
        ]
    )


def _put(span: Span, message: trace_pb2.Span) -> None:
    message.MergeFromString(_attributes(span.attributes))
    message.trace_id = span.trace_id.to_bytes(16, "big")
    message.span_id = span.id.to_bytes(8, "big")
    message.name = span.name
    message.kind = _KINDS[span.kind]
    message.start_time_unix_nano = span.start
    message.end_time_unix_nano = max(span.start, span.end)
    message.flags = _SAMPLED | _HAS_IS_REMOTE | (_IS_REMOTE if span.is_parent_remote else 0)
    if span.state:
        message.trace_state = _text(span.state)
    if span.parent:
        message.parent_span_id = span.parent.to_bytes(8, "big")
    if span.error is not None:
        message.status.code = trace_pb2.Status.STATUS_CODE_ERROR
        message.status.message = _text(span.error)
    for linked_trace, linked_span in span.links:
        message.links.add(trace_id=linked_trace.to_bytes(16, "big"), span_id=linked_span.to_bytes(8, "big"))


@lru_cache(maxsize=1024)
def _attributes(pairs: Pairs) -> bytes:
    """Encoded. Many spans have the same ones as others."""
    encoded: bytes = trace_pb2.Span(attributes=[_pair(name, value) for name, value in pairs]).SerializeToString()
    return encoded


def _pair(name: str, value: Value) -> KeyValue:
    if isinstance(value, str):
        return KeyValue(key=name, value=AnyValue(string_value=_text(value)))
    if isinstance(value, bool):
        return KeyValue(key=name, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=name, value=AnyValue(int_value=value))
    return KeyValue(key=name, value=AnyValue(double_value=value))


def _text(text: str) -> str:
    """Protobuf takes valid Unicode alone. A client may send anything."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
