"""Spans of OpenTelemetry that a test collects, and the tree that they form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from aiorpc.config import Settings, resolve
from aiorpc.installed import middleware_of
from aiorpc.middleware.opentelemetry import Tracing

__all__ = ["Spans", "Traced", "traced"]


class Spans:
    """
    Collects the spans of a tracer provider.

    Attributes:
        provider: makes the tracer.
    """

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def finished(self) -> Sequence[ReadableSpan]:
        """Return the spans that have ended, in the order of their start."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, kind: str, name: str) -> ReadableSpan:
        """Return the only span of *kind*, such as ``CLIENT``, with *name*."""
        (found,) = [span for span in self.finished() if (span.kind.name, span.name) == (kind, name)]
        return found

    def tree(self) -> list[str]:
        """Return a line for each span: its kind and name, indented below its parent's line."""
        return list(self._below(None, 0))

    def _below(self, parent: int | None, depth: int) -> Iterator[str]:
        for span in self.finished():
            if (span.parent.span_id if span.parent else None) == parent:
                assert span.context is not None
                yield f"{'  ' * depth}{span.kind.name} {span.name}"
                yield from self._below(span.context.span_id, depth + 1)


class Traced(Tracing):
    """The middleware ``tracing`` with a tracer provider of its own."""

    def __init__(self) -> None:
        self.spans = Spans()
        super().__init__(self.spans.provider)


def traced(url: str) -> tuple[Settings, Spans]:
    """Return a configuration whose services and clients make spans, and these spans."""
    settings = resolve({"AMQP_URI": url, "MIDDLEWARE": ["tests.support.spans:Traced"]})
    (tracing,) = middleware_of(settings)
    assert isinstance(tracing, Traced)
    return settings, tracing.spans
