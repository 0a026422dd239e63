"""Receivers of OpenTelemetry's traces: OTLP over HTTP or gRPC on loopback, in threads of their own. They read the
protobuf, and a test waits for the spans that it looks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from .origin import PATIENCE

KINDS = {
    trace_pb2.Span.SPAN_KIND_SERVER: "server",
    trace_pb2.Span.SPAN_KIND_CLIENT: "client",
    trace_pb2.Span.SPAN_KIND_INTERNAL: "internal",
}
STATUSES = {trace_pb2.Status.STATUS_CODE_UNSET: "", trace_pb2.Status.STATUS_CODE_ERROR: "error"}


@dataclass(frozen=True)
class Span:
    """One span, as it has arrived."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    """Empty: it has none."""
    state: str
    """``tracestate``."""
    start: int
    end: int
    """Nanoseconds since 1970."""
    attributes: dict[str, Any]
    status: str
    links: tuple[str, ...]
    """The ids of the spans that it links to."""
    service: str

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]

    @property
    def url(self) -> str:
        return str(self.attributes.get("url.full", ""))


class Spans:
    """Those that have arrived."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.headers: list[dict[str, str]] = []
        """Of the requests."""
        self.resources: list[dict[str, Any]] = []
        self._arrived = threading.Condition()

    def take(self, request: ExportTraceServiceRequest, headers: dict[str, str]) -> None:
        with self._arrived:
            self.headers.append(headers)
            for resource in request.resource_spans:
                about = _attributes(resource.resource.attributes)
                self.resources.append(about)
                for scope in resource.scope_spans:
                    self.spans += [_span(span, str(about.get("service.name"))) for span in scope.spans]
            self._arrived.notify_all()

    def wait_for(self, wanted: Callable[[Span], bool], count: int = 1) -> list[Span]:
        """Those spans, once there are so many. No more may have come."""
        deadline = time.monotonic() + PATIENCE
        with self._arrived:
            while len(found := [span for span in self.spans if wanted(span)]) < count:
                if not self._arrived.wait(deadline - time.monotonic()):
                    raise AssertionError(f"{len(found)} spans of {count}: {self.shown()}")
        assert len(found) == count, self.shown()
        return found

    def request(self, end: str, count: int = 1) -> list[Span]:
        """The server spans of requests whose URL ends so."""
        return self.wait_for(lambda span: span.kind == "server" and span.url.endswith(end), count)

    def roots(self, url: str, count: int = 1) -> list[Span]:
        """The spans of requests for a URL that have begun a trace."""
        return self.wait_for(lambda span: span.kind == "server" and span.url == url and not span.parent, count)

    def below(self, parent: Span, name: str, count: int = 1) -> list[Span]:
        """The spans of that name right below another one, in the order of their beginnings."""
        found = self.wait_for(lambda span: span.name == name and span.parent == parent.id, count)
        return sorted(found, key=lambda span: span.start)

    def shown(self) -> str:
        return "\n".join(f"{span.kind} {span.name} {span.attributes}" for span in self.spans) or "none"


class Receiver(Spans):
    """``with Receiver() as receiver: Proxy(…, environment=receiver.environment())``."""

    def __init__(self, status: int = 200) -> None:
        super().__init__()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces" and status == 200:
                    receiver.take(
                        ExportTraceServiceRequest.FromString(data),
                        {name.lower(): value for name, value in self.headers.items()},
                    )
                body = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, **more: str) -> dict[str, str]:
        """What a proxy needs to send its spans here, each at once."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "20", **more}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class GrpcReceiver(Spans, TraceServiceServicer):
    """The same by gRPC."""

    def __init__(self) -> None:
        super().__init__()
        self._server = grpc.server(ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    def Export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        self.take(request, {name: str(value) for name, value in context.invocation_metadata()})
        return ExportTraceServiceResponse()

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._port}", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_BSP_SCHEDULE_DELAY": "20", **more,
        }  # fmt: skip

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=None).wait()


def _span(span: trace_pb2.Span, service: str) -> Span:
    return Span(
        span.name, KINDS[span.kind], span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
        span.trace_state, span.start_time_unix_nano, span.end_time_unix_nano, _attributes(span.attributes),
        STATUSES[span.status.code], tuple(link.span_id.hex() for link in span.links), service,
    )  # fmt: skip


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    value: AnyValue = pair.value
    return getattr(value, value.WhichOneof("value") or "string_value")
