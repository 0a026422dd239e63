"""What the ``OTEL_*`` variables say about traces, as far as the OpenTelemetry SDK doesn't read them itself: whether
there are any, in which protocol they leave, and which requests are sampled (docs/tracing.md). Pure, and needs no SDK.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..semantics.redaction import redacted

PROTOCOLS: Final = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}
"""Those of OTLP that can be sent, with the endpoints that are the specification's defaults."""
SAMPLERS: Final = ("always_on", "always_off", "traceidratio")
PARENT_BASED: Final = "parentbased_"
EXPORT_TIMEOUT: Final = 30.0
"""Seconds, the specification's default of ``OTEL_BSP_EXPORT_TIMEOUT``."""


class TraceError(ValueError):
    """A variable asks for what there isn't, in one line."""


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """``ratio``: of the requests without a parent, those that are sampled, 0 to 1. ``parent_based``: whether a caller's
    decision is followed. ``export_timeout``: seconds that the last spans may take to leave at the end. ``endpoint``: as
    it may be shown."""

    protocol: str = "http/protobuf"
    endpoint: str = PROTOCOLS["http/protobuf"]
    ratio: float = 1.0
    parent_based: bool = True
    export_timeout: float = EXPORT_TIMEOUT

    @property
    def sampler(self) -> str:
        """In words, for the log."""
        share = "all requests" if self.ratio == 1 else f"{self.ratio * 100:g} % of the requests"
        return f"{share}, and what a caller has sampled" if self.parent_based and self.ratio < 1 else share


def read(environment: Mapping[str, str]) -> TraceSettings | None:
    """``None``: there are to be no traces, which is so unless an exporter or an endpoint is named. Raises
    :class:`TraceError`."""

    def value(name: str, default: str = "") -> str:
        # "The SDK MUST interpret an empty value of an environment variable the same way as when the variable is unset."
        return environment.get(name, "").strip() or default

    def for_traces(name: str, default: str = "") -> str:
        return value(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or value(f"OTEL_EXPORTER_OTLP_{name}", default)

    exporter, endpoint = value("OTEL_TRACES_EXPORTER"), for_traces("ENDPOINT")
    if value("OTEL_SDK_DISABLED").lower() == "true" or not (exporter or endpoint) or exporter == "none":
        return None
    if exporter and "otlp" not in [name.strip() for name in exporter.split(",")]:
        raise TraceError(f"OTEL_TRACES_EXPORTER={exporter}: there is otlp, or none")
    protocol = for_traces("PROTOCOL", "http/protobuf")
    if protocol not in PROTOCOLS:
        raise TraceError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: there are {' and '.join(PROTOCOLS)}")
    sampler = value("OTEL_TRACES_SAMPLER", "parentbased_always_on").lower()
    kind = sampler.removeprefix(PARENT_BASED)
    if kind not in SAMPLERS:
        raise TraceError(f"OTEL_TRACES_SAMPLER={sampler}: there are {', '.join(SAMPLERS)}, each also with parentbased_")
    ratio = {"always_on": 1.0, "always_off": 0.0}.get(kind)
    if ratio is None:
        ratio = _number("OTEL_TRACES_SAMPLER_ARG", value("OTEL_TRACES_SAMPLER_ARG", "1"))
        if ratio > 1:
            raise TraceError(f"OTEL_TRACES_SAMPLER_ARG={ratio:g}: a ratio is from 0 to 1")
    timeout = _number("OTEL_BSP_EXPORT_TIMEOUT", value("OTEL_BSP_EXPORT_TIMEOUT", str(EXPORT_TIMEOUT * 1000))) / 1000
    return TraceSettings(
        protocol, redacted(endpoint or PROTOCOLS[protocol]), ratio, sampler.startswith(PARENT_BASED), timeout
    )


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise TraceError(f"{name}={text}: not a number")
    return number
