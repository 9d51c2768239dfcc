"""
Makes calls over a transport: any number at a time, from any number of tasks of one event loop.

``new_call`` gives a call its context and deadline, a ``handler`` sends the call through the
middleware, and ``PendingCalls`` receives the answer. May import transports and wire.
"""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Self

import msgspec

from .. import from_thread
from ..call import Call, Handler, Middleware, compose
from ..config import Settings
from ..context import EMPTY, NO_CONTEXT, Context, current, id_source
from ..exceptions import AioRpcError, ConnectionLost, RpcTimeout
from ..installed import middleware_of
from ..transports.base import Outgoing, Transport
from ..wire.headers import context_headers, template_of, traced_template
from ..wire.keys import key_headers
from ..wire.message import Message
from ..wire.names import CANCEL_EXCHANGE
from ..wire.protocol import Wire
from ..wire.requests import encode_cancellation
from .diagnosis import Diagnosis
from .options import DEFAULTS, UNSET, CallOptions, Route
from .pending import Pending, PendingCalls
from .streams import StreamCalls

__all__ = ["Client"]


class Client:
    """
    Makes calls over *transport*; the client does not open or close the transport. ``open`` starts
    to receive replies. ``close`` fails the pending calls with ``ConnectionLost``.

    Args:
        owner: the service's or program's name; it is part of the reply queue's name.
        timeout: default seconds to wait for an answer; ``None`` for no limit.
        context: the context of calls that a program makes outside any worker.
        middleware: wraps each call, inside that of *settings*; the first is the outermost.
    """

    def __init__(
        self,
        transport: Transport,
        wire: Wire,
        settings: Settings,
        *,
        owner: str,
        timeout: float | None | msgspec.UnsetType = UNSET,
        context: Context = NO_CONTEXT,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self.transport = transport
        self._wire = wire
        self._timeout = settings.rpc_timeout if timeout is UNSET else timeout
        self._durable = settings.call_profile == "durable"
        self._context = context
        self._broker = settings.broker_address
        #: The headers of *context*, encoded once.
        self._template = template_of(context_headers(context))
        self._exchange = wire.rpc_exchange.name
        self._new_id = id_source()
        self._middleware = (*middleware_of(settings), *middleware)
        self._diagnosis = Diagnosis(transport)
        self._pending = PendingCalls(transport, wire, self._diagnosis, owner)
        self._closed = False
        self.streams = StreamCalls(
            transport,
            settings,
            partial(_wrap, self._middleware),
            self.new_call,
            self._send_when_ready,
            self.cancel,
        )

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Start to receive replies. Waits for a connection."""
        self._loop = asyncio.get_running_loop()
        await self.transport.declare([CANCEL_EXCHANGE])
        await self._pending.open()

    async def close(self) -> None:
        """Fail the pending calls, and delete the reply queue. Bounded; idempotent."""
        self._closed = True
        await self._pending.close()

    @property
    def in_flight(self) -> int:
        """The number of calls that wait for an answer."""
        return len(self._pending)

    def route(self, service: str, method: str, options: CallOptions = DEFAULTS) -> Route:
        """
        Compute the values that all calls of *method* with these *options* share.

        Raises:
            ConfigurationError: *options* name an unknown serializer.
        """
        return Route(
            service=service,
            method=method,
            routing_key=f"{service}.{method}",
            options=options,
            timeout=self._timeout if options.timeout is UNSET else options.timeout,
            persistent=self._durable if options.persistent is UNSET else options.persistent,
            confirm=self._durable if options.confirm is UNSET else options.confirm,
            headers={**options.headers, **key_headers(options.idempotency_key, options.scope)},
            encode=self._wire.requests.encoder(options.serializer, options.priority),
        )

    def new_call(self, route: Route, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Make a call with its deadline. Inside a worker, the call inherits its context."""
        context = current.get()
        if context is NO_CONTEXT:
            context = self._context
        elif self._context.data:
            context = context.with_data({**self._context.data, **context.data})
        if route.options.context_data:
            context = context.with_data(route.options.context_data)
        context = context.within(route.timeout)
        return Call(route.service, route.method, args, kwargs, context, broker=self._broker)

    def handler(self, route: Route) -> Handler:
        """
        Return a function that sends a call through the middleware and waits for the answer. If the
        waiting task is cancelled, the call is cancelled. ``MethodProxy.__call__`` lists the errors.
        """
        return _wrap(self._middleware, route, partial(self._remote_call, route, None, (), EMPTY))

    def caller(
        self, route: Route, convert: Callable[[Any], Any] | None
    ) -> Callable[[tuple[Any, ...], Mapping[str, Any]], Coroutine[Any, Any, Any]]:
        """
        Return a function that takes arguments, calls *route* like :meth:`handler`, and applies
        *convert* to the result.
        """
        if self._middleware or route.options.middleware:
            return partial(self._through_middleware, self.handler(route), route, convert)
        return partial(self._remote_call, route, convert)

    async def _through_middleware(
        self,
        handler: Handler,
        route: Route,
        convert: Callable[[Any], Any] | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        result = await handler(self.new_call(route, args, kwargs))
        return result if convert is None else convert(result)

    async def _remote_call(
        self,
        route: Route,
        convert: Callable[[Any], Any] | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        call: Call | None = None,
    ) -> Any:
        if call is None:  # no middleware: one coroutine is cheaper than two
            began_at = monotonic()
            call = self.new_call(route, args, kwargs)
        else:
            began_at = _began_at(call, route)
        if route.options.fail_fast or self.transport.congested:
            await self._ready(call, route)
        pending = self._send(call, route, began_at)
        try:
            result = await pending.future
        except asyncio.CancelledError:
            self.cancel(pending)
            raise
        return result if convert is None else convert(result)

    def call_async(
        self, call: Call, route: Route
    ) -> tuple[asyncio.Future[Any], Callable[[], object]]:
        """
        Send *call* now. Return the future of its answer, and the function that cancels the call.

        With middleware or ``fail_fast``, a task awaits these first and then sends the call.

        Raises:
            UnserializableValueError, RpcTimeout, ConnectionLost: the call was not sent.
            RuntimeError: the call was not sent, because another event loop owns this client.
        """
        if self._middleware or route.options.middleware or route.options.fail_fast:
            from_thread.require_loop(route.routing_key)
            task = asyncio.ensure_future(self.handler(route)(call))
            return task, task.cancel
        pending = self._send(call, route, _began_at(call, route))
        return pending.future, partial(self.cancel, pending)

    def _send(
        self, call: Call, route: Route, began_at: float, kind: Callable[..., Pending] = Pending
    ) -> Pending:
        if self._closed or _get_running_loop() is not self._loop:
            raise _refusal(call, closed=self._closed)
        context, own = call.context, self._context
        usual = context.data is own.data and context.call_id_stack is own.call_id_stack
        template = self._template if usual else traced_template(self._template, own, context)
        correlation_id = self._new_id()
        message = route.encode(
            call,
            reply_to=self._pending.reply_to,
            correlation_id=correlation_id,
            persistent=route.persistent,
            headers=route.headers,
            template=template,
        )
        pending = kind(
            exchange=self._exchange,
            routing_key=route.routing_key,
            message=message,
            mandatory=True,
            confirm=route.confirm,
            expires_at=None if context.deadline is None else context.deadline.at,
            calls=self._pending,
            call=call,
            correlation_id=correlation_id,
            future=self._loop.create_future(),
            began_at=began_at,
            resend=route.options.resend,
            patient=not route.options.fail_fast,
        )
        self._pending.add(pending)
        try:
            self.transport.send(pending)
        except AioRpcError:
            self._pending.remove(pending)
            raise
        return pending

    def cancel(self, pending: Pending) -> None:
        """Retract the request of *pending*. If the request was sent, send a cancellation."""
        if not self._pending.remove(pending):
            return
        pending.future.cancel()
        deadline = pending.call.context.deadline
        left = None if deadline is None else deadline.remaining()
        if not self.transport.retract(pending) and left != 0:
            self.transport.send(
                Outgoing(
                    exchange=CANCEL_EXCHANGE.name,
                    routing_key="",
                    message=encode_cancellation(
                        self._pending.reply_to, pending.correlation_id, left
                    ),
                    confirm=pending.confirm_cancel,
                    again=_same,
                    expires_at=pending.expires_at,
                )
            )

    async def _send_when_ready(
        self, call: Call, route: Route, kind: Callable[..., Pending]
    ) -> Pending:
        began_at = _began_at(call, route)
        await self._ready(call, route)
        return self._send(call, route, began_at, kind)

    async def _ready(self, call: Call, route: Route) -> None:
        """Wait until *call* may be sent."""
        if route.options.fail_fast:
            await self._diagnosis.require_consumers(call)
        if self.transport.congested:
            await _drained(self.transport, call)


def _refusal(call: Call, *, closed: bool) -> Exception:
    if closed:
        return ConnectionLost(f"{call} was not sent: the client is closed")
    return RuntimeError(
        f"{call} was not sent: its proxy belongs to another event loop. In a sync method use "
        "from_thread.run(), without a loop aiorpc.sync, and in another loop a proxy of its own"
    )


async def _drained(transport: Transport, call: Call) -> None:
    deadline = call.context.deadline
    scope = asyncio.timeout_at(None if deadline is None else deadline.at)
    try:
        async with scope:
            await transport.drained()
    except TimeoutError:
        if not scope.expired():
            raise
        raise RpcTimeout(
            f"{call} was not sent in time: the connection to {transport.url} takes no more data "
            "(the broker is slow or blocked, or too much is sent)"
        ) from None


def _wrap(middleware: tuple[Middleware, ...], route: Route, handler: Handler) -> Handler:
    return compose((*middleware, *route.options.middleware), handler)


def _same(message: Message) -> Message:
    """Re-send *message* unchanged after a lost connection."""
    return message


def _began_at(call: Call, route: Route) -> float:
    """Return the ``time.monotonic()`` at which *call* began, before its middleware ran."""
    deadline = call.context.deadline
    if deadline is None or route.timeout is None or deadline is current.get().deadline:
        return monotonic()
    return deadline.at - route.timeout
