"""Spans of the tests: those that a gateway's process exports, and those of the test's own process.

Collector     an OpenTelemetry collector that a gateway exports to by OTLP over HTTP
own_spans     the spans that this process makes while a block lasts
"""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id

from gateway.runtime import tracing
from gateway.runtime.spans import Spans

from .waiting import until

__all__ = ["Collector", "OwnSpans", "Seen", "own_spans"]


class Seen(NamedTuple):
    """A span that has ended. ``parent`` is "" for the first of a trace; ``links`` are (trace, span)."""

    name: str
    trace: str
    span: str
    parent: str
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    failed: bool


class Collector:
    """Receives spans on a free port; ``environment`` makes a process export to it at once."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector._receive(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """It logs nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
        }

    def _receive(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {each.value.string_value for each in resource.resource.attributes if each.key == "service.name"}
            self.spans += [_seen(span) for scope in resource.scope_spans for span in scope.spans]

    async def span(self, name: str, trace: str = "") -> Seen:
        """The newest span of this name, in this trace if one is given, once it is exported."""
        found = await until(lambda: [span for span in self.spans if span.name == name and trace in ("", span.trace)], f"a span {name}")
        return found[-1]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _seen(span: Any) -> Seen:
    attributes = {each.key: each.value.string_value or each.value.int_value for each in span.attributes}
    links = [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]
    return Seen(span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), attributes, links, span.status.code == 2)


class OwnSpans:
    """The spans of this process; ``tracer`` makes those of the application in which publishers and producers are."""

    def __init__(self, exporter: InMemorySpanExporter, provider: TracerProvider) -> None:
        self._exporter = exporter
        self.tracer = provider.get_tracer("application")

    async def span(self, name: str) -> Seen:
        """The newest span of this name, once it has ended."""
        return await until(lambda: next((span for span in reversed(self.all()) if span.name == name), None), f"a span {name}")

    def all(self) -> list[Seen]:
        return [
            Seen(
                span.name,
                format_trace_id(span.context.trace_id),
                format_span_id(span.context.span_id),
                "" if span.parent is None else format_span_id(span.parent.span_id),
                dict(span.attributes or {}),
                [(format_trace_id(link.context.trace_id), format_span_id(link.context.span_id)) for link in span.links],
                not span.status.is_ok and span.status.status_code.name == "ERROR",
            )
            for span in self._exporter.get_finished_spans()
            if span.context is not None
        ]


@contextlib.contextmanager
def own_spans() -> Iterator[OwnSpans]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(Spans(provider))
    try:
        yield OwnSpans(exporter, provider)
    finally:
        tracing.use(None)
