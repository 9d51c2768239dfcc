"""
Decides which calls get no span, without the SDK, which takes several microseconds to find that out.
Only for the usual samplers: ``parentbased_always_off`` and ``parentbased_traceidratio``.

Imports OpenTelemetry's API; no I/O.
"""

from __future__ import annotations

import re
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

__all__ = ["Sampling", "Unsampled", "is_traceparent", "span_context_of", "traceparent_of"]

#: ``traceparent`` of version 00, which is nearly every one.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
#: The last characters of a ``traceparent`` that is not sampled.
_UNSAMPLED = frozenset("02468ace")
#: How the SDK describes samplers that drop each span whose parent is not sampled (the specification
#: has the words), and what it says about spans without a parent.
_SAMPLER = re.compile(
    r"ParentBased\{root:(?P<root>.+),remoteParentSampled:.+,remoteParentNotSampled:AlwaysOffSampler"
    r",localParentSampled:.+,localParentNotSampled:AlwaysOffSampler\}"
)
_RATIO = re.compile(r"TraceIdRatioBased\{(?P<rate>[\d.e+-]+)\}")
#: The bits of a trace id by which the SDK samples a part of the traces.
_BITS = 64
_MASK = (1 << _BITS) - 1
_FLAGS = [f"{flags:02x}" for flags in range(256)]


def is_traceparent(text: object) -> bool:
    """Whether *text* is a ``traceparent`` of version 00."""
    return type(text) is str and _TRACEPARENT.fullmatch(text) is not None


def span_context_of(traceparent: str) -> SpanContext:
    """Return what *traceparent*, of version 00, says about the span of a caller."""
    flags = TraceFlags(int(traceparent[53:], 16))
    return SpanContext(int(traceparent[3:35], 16), int(traceparent[36:52], 16), True, flags)


def traceparent_of(trace_id: int, span_id: int, flags: int) -> str:
    """Return the ``traceparent`` of a span. The format ``032x`` takes twice as long."""
    return f"00-{trace_id.to_bytes(16).hex()}-{span_id.to_bytes(8).hex()}-{_FLAGS[flags]}"


class Unsampled(NonRecordingSpan):
    """
    The span of a caller that is not sampled. It stands for our own span, which would not be sampled
    either. Usually nobody reads it, so it is decoded at its first use.
    """

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def get_span_context(self) -> SpanContext:
        return span_context_of(self.traceparent)

    def __repr__(self) -> str:
        return f"<span {self.traceparent}>"


class _Ids:
    """The ids of our tracer. The next trace gets the id for which its sampling was decided."""

    def __init__(self, ids: Any) -> None:
        self._ids = ids
        self.chosen = 0
        for name in ("generate_span_id", "is_trace_id_random"):  # quicker than __getattr__
            if hasattr(ids, name):  # older versions of the SDK lack the second
                setattr(self, name, getattr(ids, name))

    def generate_trace_id(self) -> int:
        chosen, self.chosen = self.chosen, 0
        return chosen or int(self._ids.generate_trace_id())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ids, name)


class Sampling:
    """
    What the sampler of *provider* decides.

    Args:
        tracer: of *provider*, for this object alone.
    """

    def __init__(self, provider: trace.TracerProvider, tracer: trace.Tracer) -> None:
        self._bound: int | None = None
        sampler = getattr(provider, "sampler", None)
        found = None if sampler is None else _SAMPLER.fullmatch(sampler.get_description())
        self._drops = found is not None
        ids = getattr(tracer, "id_generator", None)
        if found is None or ids is None:
            return
        ratio = _RATIO.fullmatch(found["root"])
        if ratio is not None:
            self._bound = round(float(ratio["rate"]) * (1 << _BITS))
        elif found["root"] == "AlwaysOffSampler":
            self._bound = 0
        self._new_trace_id, self._new_span_id = ids.generate_trace_id, ids.generate_span_id
        random = getattr(ids, "is_trace_id_random", None)  # older versions of the SDK lack it
        self._flags = int(TraceFlags.RANDOM_TRACE_ID) if random is not None and random() else 0
        self._ids = tracer.id_generator = _Ids(ids)  # type: ignore[attr-defined]

    def drops(self, traceparent: object) -> bool:
        """Whether a caller's *traceparent* says that no call below it gets a span."""
        return (
            self._drops
            and type(traceparent) is str
            and traceparent[-1:] in _UNSAMPLED
            and is_traceparent(traceparent)
        )

    def unsampled_root(self) -> str:
        """Begin a trace. Return its ``traceparent`` if it is not sampled; empty if it is."""
        if self._bound is None:
            return ""
        trace_id = self._new_trace_id()
        if trace_id & _MASK < self._bound:
            self._ids.chosen = trace_id
            return ""
        return traceparent_of(trace_id, self._new_span_id(), self._flags)
