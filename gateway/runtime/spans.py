"""Spans, by the ``opentelemetry`` packages. Only ``tracing`` imports this module, and only where the packages are used."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["Attribute", "Spans", "made_provider", "provider_in_use"]

Attribute = str | int
EXPORTERS = {"otlp": "otlp_proto_http"}  # OpenTelemetry's name → that of its entry point; gRPC has one of its own
GROUP = "opentelemetry_traces_exporter"
SERVICE = "gateway"

_KINDS = {kind.name.lower(): kind for kind in SpanKind}
_propagator = TraceContextTextMapPropagator()


class Spans:
    """The spans of one TracerProvider. ``ours``: ``made_provider`` made it."""

    def __init__(self, provider: TracerProvider, *, ours: bool = False) -> None:
        self.ours = ours
        self._provider = provider
        self._tracer = provider.get_tracer("gateway")

    @contextlib.contextmanager
    def span(self, name: str, kind: str, parent: str | None, links: Sequence[str], attributes: Mapping[str, Attribute]) -> Iterator[None]:
        """As ``tracing.span``."""
        with self._tracer.start_as_current_span(
            name,
            None if parent is None else _context_of(parent),
            _KINDS[kind],
            attributes,
            _links_to(links),
            record_exception=False,  # the text of an error may hold data
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                _fail(span, type(error).__name__)
                raise

    def note(self, name: str, value: Attribute) -> None:
        trace.get_current_span().set_attribute(name, value)

    def fail(self, kind: str) -> None:
        _fail(trace.get_current_span(), kind)

    def traceparent(self) -> str:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier.get("traceparent", "")

    def end(self, seconds: float) -> None:
        """Shuts the provider down; what cannot be exported in ``seconds`` is lost, so that an absent collector delays no process's end."""
        shutdown = getattr(self._provider, "shutdown", None)  # OpenTelemetry's API has none, the SDK has one
        if shutdown is not None:
            thread = threading.Thread(target=shutdown, daemon=True, name="last spans")
            thread.start()
            thread.join(seconds)


def _context_of(traceparent: str) -> Context:
    """A context whose span is that of the ``traceparent``, or none if it is invalid."""
    return _propagator.extract({"traceparent": traceparent}, Context())


def _links_to(traceparents: Sequence[str]) -> list[Link]:
    contexts = [trace.get_current_span(_context_of(each)).get_span_context() for each in traceparents]
    return [Link(each) for each in contexts if each.is_valid]


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def provider_in_use() -> TracerProvider | None:
    """The TracerProvider that the program set; None if it set none."""
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


def made_provider() -> TracerProvider:
    """A TracerProvider of the SDK, which reads its settings from OpenTelemetry's environment variables; the exporters are those that
    OTEL_TRACES_EXPORTER names, by default ``otlp``. Raises ImportError without the SDK, ConfigurationError for an exporter that is not installed.
    """
    from opentelemetry.sdk import trace as sdk
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
    provider = sdk.TracerProvider(resource=resource, shutdown_on_exit=False)
    names = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    for name in names.split(","):
        if (name := name.strip()) != "none":
            provider.add_span_processor(BatchSpanProcessor(_exporter(EXPORTERS.get(name, name))))
    return provider


def _exporter(name: str) -> SpanExporter:
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise ConfigurationError(
            f"telemetry.traces: OTEL_TRACES_EXPORTER names {name!r}, and no package that is installed has that exporter"
        )
    made: SpanExporter = found[0].load()()
    return made
