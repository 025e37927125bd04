"""Traces by OpenTelemetry, sent to a collector. Needs the extra `telemetry`, imported for it."""

import time
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_SEND_TIMEOUT_S = 5
_NS_PER_MS = 1_000_000
_FAULT = 500

Attributes = Mapping[str, str | int | float]


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Return a sender of spans by OTLP over HTTP, `http://collector:4318/v1/traces`."""
    return OTLPSpanExporter(endpoint=endpoint, timeout=_SEND_TIMEOUT_S)


class OtelTracing:
    """Where requests' spans go; sends in a thread of its own, and drops what it cannot send."""

    def __init__(self, exporter: SpanExporter, version: str) -> None:
        resource = Resource.create({"service.name": "percept", "service.version": version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("percept", version)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, headers: Mapping[str, str], attributes: Attributes) -> "OtelSpan":
        """Begin a request's span, below the one of its `traceparent` where there is one."""
        named = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        context = self._propagator.extract(named)
        span = self._tracer.start_span("request", context, SpanKind.SERVER, dict(attributes))
        return OtelSpan(self._tracer, span)

    def close(self) -> None:
        """Send what is left, within seconds; blocks."""
        self._provider.shutdown()


class OtelSpan:
    """One request."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    def stages(self, timings_ms: Mapping[str, float], attributes: Attributes) -> None:
        """Lay stages end to end, the last one ending now: they are known by their lengths alone."""
        if not self._span.is_recording():
            return
        self._span.set_attributes(dict(attributes))
        context = set_span_in_context(self._span)
        at = time.time_ns() - round(sum(timings_ms.values()) * _NS_PER_MS)
        for stage, duration_ms in timings_ms.items():
            span = self._tracer.start_span(stage, context, start_time=at)
            at += round(duration_ms * _NS_PER_MS)
            span.end(at)

    def end(self, name: str, status: int, attributes: Attributes) -> None:
        """End the request's span; a fault of the server's marks it as failed."""
        self._span.update_name(name)
        self._span.set_attributes({**attributes, "http.response.status_code": status})
        if status >= _FAULT:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
