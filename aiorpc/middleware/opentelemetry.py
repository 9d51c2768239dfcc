"""
``tracing``: spans of OpenTelemetry for calls, events and messages. ``docs/telemetry.md`` describes
the spans. Imports OpenTelemetry's API; the program chooses the SDK and the exporter.

A trace travels in the headers ``traceparent``, ``tracestate`` and ``baggage``, which are context
data. So it passes services without this middleware, Nameko's too.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from .. import __version__
from ..call import Call, Handler
from ..context import Context
from ..exceptions import BadRequest, MethodNotFound, RemoteError
from ..wire.names import TRACE_HEADERS, TRACEPARENT
from . import conventions as names
from .requirements import require

require("opentelemetry.trace", "opentelemetry")

from opentelemetry import context as context_api, propagate, trace  # noqa: E402
from opentelemetry.trace import (  # noqa: E402
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
)

from .sampling import (  # noqa: E402
    Sampling,
    Unsampled,
    is_traceparent,
    span_context_of,
    traceparent_of,
)

__all__ = ["Tracing", "tracing"]

_KINDS = {
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "internal": SpanKind.INTERNAL,
}
_SENDING = ("client", "producer")
#: The kinds of calls that have a sender.
_SENT = frozenset({"rpc", "event", "message"})
#: Names and attributes of spans are cached, at most so many; a full cache is emptied.
_MOST = 4096
_NOTHING = context_api.Context()
#: The key of the span in a context. The functions of the API that use it copy the context twice.
(_SPAN,) = trace.set_span_in_context(trace.INVALID_SPAN, _NOTHING)


class _Shape(msgspec.Struct, frozen=True):
    """What the spans of one method have in common."""

    name: str
    kind: SpanKind
    attributes: Mapping[str, Any]


class Tracing:
    """
    Makes a span for each call that passes, on both sides.

    Args:
        tracer_provider: makes the tracer; ``None``: the global one, also if it is set later.
    """

    def __init__(self, tracer_provider: trace.TracerProvider | None = None) -> None:
        self._given_provider = tracer_provider
        self._provider: trace.TracerProvider | None = None
        self._shapes: dict[tuple[Any, ...], _Shape] = {}

    def __call__(self, call: Call, handler: Handler) -> Awaitable[Any]:
        provider = self._given_provider or trace.get_tracer_provider()
        if provider is not self._provider:
            self._use(provider)
        sends = not call.id and call.kind in _SENT  # Call.side is slower
        unsampled = self._unsampled(call, sends)
        if unsampled is not None:
            return handler(unsampled)
        side = call.side
        context = _parent(call.context.data, local=sends)
        shape = self._shape(call, side)
        attributes = shape.attributes
        if side == "consumer" and call.message is not None:
            attributes = {**attributes, **_ids(call.message)}
        span = self._tracer.start_span(
            shape.name,
            context,
            shape.kind,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        )
        span_context = span.get_span_context()
        if not span_context.is_valid:  # there is no SDK, and no trace to pass on
            return handler(call)
        inside = context_api.Context({**context, _SPAN: span})
        recording = span.is_recording()
        call = _with_trace(call, inside, span_context, span.add_event if recording else None)
        if recording:
            return _recorded(call, handler, span, inside, side)
        if not sends:  # a worker has its own context, which ends with it
            context_api.attach(inside)
        return handler(call)

    def _use(self, provider: trace.TracerProvider) -> None:
        self._provider = provider
        self._tracer = trace.get_tracer("aiorpc", __version__, provider, names.SCHEMA)
        self._sampling = Sampling(provider, self._tracer)

    def _unsampled(self, call: Call, sends: bool) -> Call | None:
        """
        Return *call* with its trace, if it is certain that its trace is not sampled. Otherwise
        return ``None``.
        """
        data = call.context.data
        if "tracestate" in data or "baggage" in data or not _is_w3c():
            return None
        if sends and (context := context_api.get_current()):
            span = context.get(_SPAN)
            if type(span) is not Unsampled or len(context) > 1:  # it has baggage, for example
                return None
            same = data.get(TRACEPARENT) == span.traceparent
            return call if same else _with_data(call, {TRACEPARENT: span.traceparent})
        traceparent = data.get(TRACEPARENT)
        if traceparent is None:
            traceparent = self._sampling.unsampled_root()
            if not traceparent:
                return None
            call = _with_data(call, {TRACEPARENT: traceparent})
        elif not self._sampling.drops(traceparent):
            return None
        if not sends:  # a worker has its own context, which ends with it
            context_api.attach(context_api.Context({_SPAN: Unsampled(traceparent)}))
        return call

    def _shape(self, call: Call, side: str) -> _Shape:
        if call.kind == "http":
            return _http_shape(call)
        known = side != "server" or call.entrypoint is not None
        key = (side, call.service, call.method, call.exchange, call.routing_key, known, call.broker)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= _MOST:
                self._shapes.clear()
            shape = self._shapes[key] = _new_shape(call, side, known)
        return shape


#: The middleware for ``MIDDLEWARE``, with the global tracer provider.
tracing = Tracing()


# Names and attributes


def _new_shape(call: Call, side: str, known: bool) -> _Shape:
    method = names.method(call)
    attributes: dict[str, Any] = {}
    host, port = call.broker
    if host:
        attributes[names.SERVER_ADDRESS] = host
        attributes[names.SERVER_PORT] = port
    if side in ("client", "server"):
        attributes[names.RPC_SYSTEM_NAME] = names.NAMEKO
        attributes[names.RPC_METHOD] = method if known else names.OTHER
        if not known:
            attributes[names.RPC_METHOD_ORIGINAL] = method
        name = method if known else names.OTHER
    elif side == "internal":
        attributes = {names.CODE_FUNCTION_NAME: f"{call.service}.{call.method}"}
        name = method
    else:
        sends = side == "producer"
        operation = "publish" if sends else "process"
        destination = names.destination(call.exchange, call.routing_key)
        attributes |= {
            names.MESSAGING_SYSTEM: names.RABBITMQ,
            names.MESSAGING_OPERATION_NAME: operation,
            names.MESSAGING_OPERATION_TYPE: "send" if sends else "process",
            names.MESSAGING_DESTINATION_NAME: destination,
            names.MESSAGING_ROUTING_KEY: call.routing_key,
        }
        if not sends:
            attributes[names.MESSAGING_CONSUMER_GROUP] = f"{call.service}.{call.method}"
        name = f"{operation} {destination}"
    return _Shape(name, _KINDS[side], attributes)


def _http_shape(call: Call) -> _Shape:
    """Return the name and the attributes of OpenTelemetry's conventions for HTTP servers."""
    route: str = call.entrypoint.url
    attributes: dict[str, Any] = {names.HTTP_ROUTE: route}
    method = "HTTP"
    request = getattr(call, "request", None)
    if request is not None:
        method = attributes[names.HTTP_REQUEST_METHOD] = request.method
        attributes[names.URL_PATH] = request.url.path
        attributes[names.URL_SCHEME] = request.url.scheme
    return _Shape(f"{method} {route}", SpanKind.SERVER, attributes)


def _ids(message: Any) -> dict[str, str]:
    ids = {
        names.MESSAGING_MESSAGE_ID: message.message_id,
        names.MESSAGING_CONVERSATION_ID: message.correlation_id,
    }
    return {name: value for name, value in ids.items() if value is not None}


# The trace that a call belongs to


def _parent(data: Mapping[str, Any], *, local: bool) -> context_api.Context:
    """
    Return the context of the parent's span: the current span, if it is *local* and there is one,
    else the span in the context data *data*.
    """
    base = _NOTHING
    if local:
        base = context_api.get_current()
        if trace.get_current_span(base).get_span_context().is_valid:
            return base
    if not data:
        return base
    traceparent: Any = data.get(TRACEPARENT)
    if (
        not ("tracestate" in data or "baggage" in data)
        and is_traceparent(traceparent)
        and _is_w3c()
    ):
        # a shortcut: the propagators take several times as long
        span = NonRecordingSpan(span_context_of(traceparent))
        return trace.set_span_in_context(span, base)
    _is_w3c()
    carrier = {name: text for name in _fields if type(text := data.get(name)) is str}
    return propagate.extract(carrier, base) if carrier else base


def _with_trace(
    call: Call,
    inside: context_api.Context,
    span_context: SpanContext,
    listener: Callable[[str], object] | None = None,
) -> Call:
    """
    Return *call* with the trace of *inside* in its context data, in place of an older one, and with
    a *listener*.
    """
    trace_id, span_id, _, flags, state, _ = span_context
    if len(inside) == 1 and not state and _is_w3c():
        carrier = {TRACEPARENT: traceparent_of(trace_id, span_id, flags)}
    else:
        carrier = {}
        propagate.inject(carrier, inside)
    return _with_data(call, carrier, listener)


def _with_data(
    call: Call, carrier: Mapping[str, str], listener: Callable[[str], object] | None = None
) -> Call:
    """
    Return *call* with the headers of a trace, *carrier*, in place of earlier ones, and with a
    *listener*.
    """
    before = call.context
    data = before.data
    if "tracestate" in data or "baggage" in data:
        data = {name: value for name, value in data.items() if name not in TRACE_HEADERS}
    context = Context(before.call_id_stack, {**data, **carrier}, before.deadline)
    if listener is not None and call.listener is None:
        return msgspec.structs.replace(call, context=context, listener=listener)
    call = msgspec.structs.replace(call, context=context)
    return call if listener is None else call.heard_by(listener)


#: The global propagator, and the names of the headers that it reads and writes.
_textmap: Any = None
_fields: frozenset[str] = frozenset()


def _is_w3c() -> bool:
    """Whether the global propagator reads and writes the headers of W3C and no others."""
    global _textmap, _fields
    textmap = propagate.get_global_textmap()
    if textmap is not _textmap:
        # The property computes them each time. The headers of W3C are one object, for the check.
        fields = frozenset(textmap.fields)
        _textmap, _fields = textmap, TRACE_HEADERS if fields == TRACE_HEADERS else fields
    return _fields is TRACE_HEADERS


# The span of a call


async def _recorded(
    call: Call, handler: Handler, span: Span, inside: context_api.Context, side: str
) -> Any:
    token = context_api.attach(inside)
    try:
        return await handler(call)
    except BaseException as error:
        _record(span, call, side, error)
        raise
    finally:
        context_api.detach(token)
        span.end()


def _record(span: Span, call: Call, side: str, error: BaseException) -> None:
    """Record on *span* that *call* ended with *error*."""
    kind, sends, entrypoint = names.error_type(error, call), side in _SENDING, call.entrypoint
    if isinstance(error, asyncio.CancelledError):
        span.add_event("aiorpc.cancel")
        if not sends and kind == type(error).__name__:
            return  # nobody waits for the answer: that is no error of the service
    if call.kind == "rpc":
        if not sends or isinstance(error, RemoteError | BadRequest):
            span.set_attribute(names.RPC_STATUS_CODE, kind)
        if sends and isinstance(error, MethodNotFound):
            span.update_name(names.OTHER)
            span.set_attribute(names.RPC_METHOD, names.OTHER)
            span.set_attribute(names.RPC_METHOD_ORIGINAL, names.method(call))
    secret = False
    if entrypoint is not None:
        if isinstance(error, (entrypoint.expected_exceptions, entrypoint.answers)):
            return
        secret = bool(entrypoint.sensitive_arguments)
    span.set_attribute(names.ERROR_TYPE, kind)
    span.set_status(Status(StatusCode.ERROR, None if secret else str(error)))
    if not sends and not secret:
        span.add_event(
            "exception",
            {
                names.EXCEPTION_TYPE: kind,
                names.EXCEPTION_MESSAGE: str(error),
                names.EXCEPTION_STACKTRACE: "".join(traceback.format_exception(error)),
            },
        )
