"""What the variables of OpenTelemetry say, which requests are sampled, and which origins are told."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from proxy_cache.observe.trace_export import SpanSender
from proxy_cache.observe.trace_sampling import HeadSampling
from proxy_cache.observe.trace_settings import TraceError, TraceSettings, read
from proxy_cache.upstream.trace_context import is_told

ON = {"OTEL_TRACES_EXPORTER": "otlp"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": ""},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.example:4318"},
        {**ON, "OTEL_SDK_DISABLED": "True"},
        {"OTEL_SERVICE_NAME": "cache", "OTEL_TRACES_SAMPLER": "always_on"},
    ],
)
def test_there_are_none_unless_they_are_asked_for(environment: dict[str, str]) -> None:
    assert read(environment) is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (ON, TraceSettings()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a.example:4318"}, TraceSettings(endpoint="http://a.example:4318")),
        ({**ON, "OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:word@a.example"}, TraceSettings(endpoint="https://a.example")),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a.example", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b.example/x"},
            TraceSettings(endpoint="http://b.example/x"),
        ),
        ({**ON, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, TraceSettings("grpc", "http://localhost:4317")),
        ({**ON, "OTEL_TRACES_EXPORTER": "console, otlp"}, TraceSettings()),
        ({**ON, "OTEL_TRACES_SAMPLER": "always_off"}, TraceSettings(ratio=0.0, parent_based=False)),
        ({**ON, "OTEL_TRACES_SAMPLER": "parentbased_always_off"}, TraceSettings(ratio=0.0)),
        (
            {**ON, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
            TraceSettings(ratio=0.01),
        ),
        ({**ON, "OTEL_TRACES_SAMPLER": "traceidratio"}, TraceSettings(parent_based=False)),
        ({**ON, "OTEL_TRACES_SAMPLER_ARG": "x"}, TraceSettings()),
        ({**ON, "OTEL_BSP_EXPORT_TIMEOUT": "1500"}, TraceSettings(export_timeout=1.5)),
    ],
)  # fmt: skip
def test_what_the_variables_say(environment: dict[str, str], expected: TraceSettings) -> None:
    assert read(environment) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_TRACES_SAMPLER_ARG", "-1"),
        ("OTEL_TRACES_SAMPLER_ARG", "nan"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "soon"),
    ],
)
def test_a_bad_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(TraceError, match=f"^{name}="):
        read({**ON, "OTEL_TRACES_SAMPLER": "traceidratio", name: value})


def test_without_its_package_grpc_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(TraceError, match=r"^grpc needs opentelemetry-exporter-otlp-proto-grpc: "):
        SpanSender(TraceSettings("grpc"), version="1", instance="here")


@pytest.mark.parametrize("ratio", [0.001, 0.01, 0.3, 0.999])
def test_requests_are_sampled_with_the_probability_of_the_ratio(ratio: float) -> None:
    random.seed(1)
    sampling = HeadSampling(ratio, parent_based=True)
    count = 200_000
    found = sum(sampling.begins() for _ in range(count))
    assert abs(found - count * ratio) < 5 * (count * ratio * (1 - ratio)) ** 0.5


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0), (1.0, 1000)])
def test_none_and_all(ratio: float, expected: int) -> None:
    sampling = HeadSampling(ratio, parent_based=False)
    assert sum(sampling.begins() for _ in range(1000)) == expected


@pytest.mark.parametrize("ratio", [1e-6, 0.01, 0.5, 1.0])
def test_ids_are_such_as_the_sdk_samples(ratio: float) -> None:
    sampling, sampler = HeadSampling(ratio, parent_based=True), TraceIdRatioBased(ratio)
    made = {sampling.new_trace_id() for _ in range(500)}
    assert len(made) == 500
    for one in made:
        assert sampling.takes(one)
        assert sampler.should_sample(None, one, "GET").decision is Decision.RECORD_AND_SAMPLE


@pytest.mark.parametrize(
    ("address", "host", "through_parent", "expected"),
    [
        ("127.0.0.1", "packages.example", False, True),
        ("10.1.2.3", "packages.example", False, True),
        ("::ffff:192.168.1.1", "packages.example", False, True),
        ("fd00::1", "packages.example", False, True),
        ("100.64.0.1", "packages.example", False, True),
        ("8.8.8.8", "packages.example", False, False),
        ("2606:4700::1", "packages.example", False, False),
        ("10.1.2.3", "packages.example", True, False),  # the parent's address, and anybody's name
        ("8.8.8.8", "10.1.2.3", True, True),
        (None, "packages.example", False, False),
    ],
)
def test_origins_of_ones_own_are_told(address: str | None, host: str, through_parent: bool, expected: bool) -> None:
    peername: Any = (address, 80) if address is not None else None
    assert is_told("private", host, peername, through_parent=through_parent) is expected
    assert is_told("all", host, peername, through_parent=through_parent)
    assert not is_told("none", host, peername, through_parent=through_parent)
