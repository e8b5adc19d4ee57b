"""OpenTelemetry spans, if a collector is configured; otherwise OpenTelemetry is not imported."""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import Any, Self

from starlette.types import Scope

from api.context import RequestContext

_log = logging.getLogger("api")


class Tracer:
    """Begins and ends one span per request, as a child of the client's span if the request names one."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        name = os.environ.get("OTEL_SERVICE_NAME", "forecast-service")
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("forecast.api")
        self._propagator = TraceContextTextMapPropagator()
        self._kind = SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)

    @classmethod
    def if_configured(cls) -> Self | None:
        """Return a tracer if ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set and the extra ``otel`` is installed."""
        if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            return None
        try:
            found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http")
        except ModuleNotFoundError:
            found = None
        if found is None:
            _log.warning("OTEL_EXPORTER_OTLP_ENDPOINT is set, but the extra otel is not installed: no spans are sent")
            return None
        return cls()

    def begin(self, scope: Scope) -> Any:
        """Begin the span of a request."""
        carrier = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in {b"traceparent", b"tracestate"}
        }
        return self._tracer.start_span("request", context=self._propagator.extract(carrier), kind=self._kind)

    def end(self, span: Any, context: RequestContext, method: str, status: int) -> None:
        """End the span of a request; its name is the route as declared."""
        span.update_name(f"{method} {context.template}")
        span.set_attribute("http.request.method", method)
        span.set_attribute("http.route", context.template)
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("forecast.request_id", context.request_id)
        if status >= 500:
            span.set_status(self._failed)
        span.end()

    def close(self) -> None:
        """Send the remaining spans."""
        self._provider.shutdown()
