"""
Calls out, replies in: one reply queue, and any number of calls in flight from any number of tasks.

The way of a call: ``start`` makes the :class:`Call`, encodes it, remembers it in the pending table
and hands it to the transport. It leaves the table in exactly one of these ways: its reply came, it
came back unroutable, its deadline passed, it was cancelled, or the connection was lost for good.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import msgspec

from ..call import Call, Middleware, compose
from ..config import Settings
from ..context import NO_CONTEXT, Context, current, id_source, new_id
from ..exceptions import (
    AioRpcError,
    ConnectionLost,
    RpcTimeout,
    ServiceUnavailable,
    UnknownService,
    Unroutable,
)
from ..timers import Bucket, Timers
from ..transports.base import Outgoing, State, Subscription, Transport
from ..wire.cancellations import encode_cancellation
from ..wire.headers import context_headers, template_of
from ..wire.message import Message
from ..wire.names import CANCEL_EXCHANGE, LONGEST_NAME, rpc_queue_name
from ..wire.protocol import Wire
from .options import DEFAULTS, UNSET, CallOptions, Route, checked_timeout

__all__ = ["DEFAULTS", "UNSET", "CallOptions", "Client", "Pending", "Route"]

log = logging.getLogger("aiorpc.client")

#: Seconds that the explanation of a timeout may take; rule 4.
LOOK = 0.04
#: Seconds for which a look at a queue holds good for ``fail_fast``.
LOOK_HOLDS = 1.0


class Pending(Outgoing, eq=False, kw_only=True):
    """A call in flight: the request on its way out, and who waits for the answer."""

    client: Client
    call: Call
    correlation_id: str
    future: asyncio.Future[Any]
    #: By ``time.monotonic()``.
    sent_at: float
    resend: bool
    #: Where its deadline stands, until it has passed.
    deadlines: Bucket | None = None
    #: Whether its deadline has passed, and the explanation is being looked for.
    late: bool = False
    #: What came instead of an answer meanwhile.
    error: Exception | None = None

    def expired(self) -> None:
        """Its deadline has passed."""
        self.deadlines = None
        self.client.expired(self)

    # What the transport has to say

    def conclude(self, error: AioRpcError | None) -> None:
        if error is not None:
            self.client.undelivered(self.correlation_id, error)

    def once_more(self) -> Message | None:
        return self.client.once_more(self)

    def retracted(self) -> None:
        self.resend = False


class Client:
    """
    Makes calls over *transport*, which it does not own.

    Args:
        owner: stands in the name of the reply queue: a service's name, or what calls from outside.
        timeout: seconds a call may take unless it says otherwise; ``None`` for no limit.
        context: what calls made outside any worker carry.
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
        #: While it is congested a call should wait before it is sent; ``call`` does.
        self.transport = transport
        self._wire = wire
        self._owner = owner
        self._timeout = settings.rpc_timeout if timeout is UNSET else checked_timeout(timeout)
        self._durable = settings.call_profile == "durable"
        self._context = context
        self._exchange = wire.rpc_exchange.name
        self._reply_to = new_id()
        self._pending: dict[str, Pending] = {}
        self._looks: dict[str, tuple[float, bool]] = {}
        self._new_id = id_source()
        #: What calls made outside any worker carry, as it stands on the wire.
        self._template = template_of(context_headers(context))
        self._explaining: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None
        self._closed = False
        self._middleware = tuple(middleware)
        #: Whether ``start`` is all there is to a call: no middleware wraps it.
        self.direct = not self._middleware

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[Client]:
        """Take replies inside the block; calls still pending at its end fail."""
        await self.open()
        try:
            yield self
        finally:
            await self.close()

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timers = Timers(self._loop)
        await self.transport.declare([CANCEL_EXCHANGE])
        self._subscription = await self.transport.listen(
            self._wire.reply_queue(self._owner, self._reply_to),
            self._on_reply,
            keep=True,
            gone=self._on_replies_gone,
            # After a cut without a FIN the broker still holds the dead consumer, and would give it
            # half of the replies: the newest consumer goes first.
            arguments=lambda reconnects: {"x-priority": reconnects},
        )
        self.transport.expect_returns(self._reply_to, self._on_returned)

    async def close(self) -> None:
        """Fail what is pending and delete the reply queue. Bounded; idempotent."""
        self._closed = True
        self._fail_pending("the client was closed before the answer came")
        if self._subscription is not None:
            self._timers.close()
        for task in self._explaining:
            task.cancel()
        self.transport.forget_returns(self._reply_to)
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.cancel()
            await self.transport.delete(subscription.queue.name)

    @property
    def in_flight(self) -> int:
        """How many calls wait for an answer."""
        return len(self._pending)

    # Making calls

    def route(self, service: str, method: str, options: CallOptions = DEFAULTS) -> Route:
        """What all calls of that method with these *options* have in common."""
        return Route(
            service=service,
            method=method,
            routing_key=f"{service}.{method}",
            options=options,
            timeout=self._timeout if options.timeout is UNSET else options.timeout,
            persistent=self._durable if options.persistent is UNSET else options.persistent,
            confirm=self._durable if options.confirm is UNSET else options.confirm,
            direct=self.direct and not options.fail_fast,
        )

    def new_call(self, route: Route, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """The call as a child of the worker that runs now, if one does, under its deadline."""
        context = current.get()
        if context is NO_CONTEXT:
            context = self._context
        elif self._context.data:
            context = context.with_data({**self._context.data, **context.data})
        if route.options.context_data:
            context = context.with_data(route.options.context_data)
        return Call(route.service, route.method, args, kwargs, context.within(route.timeout))

    def call(self, call: Call, route: Route) -> Awaitable[Any]:
        """
        Make *call*, when awaited, and wait for its answer. Cancelling that cancels the call.

        Raises:
            RpcTimeout, UnknownService, ServiceUnavailable, ConnectionLost,
            UnserializableValueError, MalformedReply, RemoteError, BadRequest, and errors that
            are registered with ``deserialize_to_instance``.
        """
        if self._middleware:
            return compose(self._middleware, lambda call: self._make(call, route))(call)
        return self._make(call, route)

    async def _make(self, call: Call, route: Route) -> Any:
        if route.options.fail_fast:
            await self._require_consumers(call)
        if self.transport.congested:
            await self._wait_until_drained(call)
        pending = self.start(call, route)
        try:
            return await pending.future
        except asyncio.CancelledError:
            self.abandon(pending)
            raise

    def start(self, call: Call, route: Route) -> Pending:
        """
        Send *call* now, and return what will have its answer.

        Raises:
            UnserializableValueError, RpcTimeout: it was not sent.
            RuntimeError: it was not sent: this is not the loop of this client.
        """
        if self._closed:
            raise ConnectionLost(f"{call} was not sent: the client is closed")
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not self._loop:
            raise RuntimeError(
                f"{call} was not sent: its proxy belongs to another event loop. In the thread of a "
                "sync method use from_thread.run(), in a program without a loop aiorpc.sync, and "
                "in another loop make a proxy of its own"
            )
        context, own = call.context, self._context
        usual = context.data is own.data and context.call_id_stack is own.call_id_stack
        correlation_id = self._new_id()
        message = self._wire.requests.encode(
            call,
            reply_to=self._reply_to,
            correlation_id=correlation_id,
            persistent=route.persistent,
            headers=route.options.headers,
            template=self._template if usual else None,
        )
        deadline = context.deadline
        pending = Pending(
            exchange=self._exchange,
            routing_key=route.routing_key,
            message=message,
            mandatory=True,
            confirm=route.confirm,
            expires_at=None if deadline is None else deadline.at,
            client=self,
            call=call,
            correlation_id=correlation_id,
            future=self._loop.create_future(),
            sent_at=monotonic(),
            resend=route.options.resend,
        )
        self._pending[correlation_id] = pending
        if deadline is not None:
            pending.deadlines = self._timers.add(deadline.at, pending)
        try:
            self.transport.send(pending)
        except AioRpcError:
            self._forget(pending)
            raise
        return pending

    def abandon(self, pending: Pending) -> None:
        """Nobody waits for *pending* any more: tell whoever runs it."""
        if pending.correlation_id not in self._pending:
            return
        self._forget(pending)
        pending.future.cancel()
        deadline = pending.call.context.deadline
        left = None if deadline is None else deadline.remaining()
        if not self.transport.retract(pending) and left != 0:
            self.transport.send(
                Outgoing(
                    exchange=CANCEL_EXCHANGE.name,
                    routing_key="",
                    message=encode_cancellation(self._reply_to, pending.correlation_id, left),
                    confirm=False,
                    expires_at=None if deadline is None else deadline.at,
                )
            )

    # The ways out of the pending table

    def _forget(self, pending: Pending) -> None:
        self._pending.pop(pending.correlation_id, None)
        if pending.deadlines is not None:
            pending.deadlines.pop(pending, None)

    def _on_reply(self, message: Message) -> None:
        pending = self._pending.get(message.correlation_id or "")
        if pending is None:
            # Its caller timed out, was cancelled, or has its answer already.
            log.debug("a reply nobody waits for was dropped: %s", message.correlation_id)
            return
        try:
            result = self._wire.replies.decode(message)
        except Exception as exc:  # noqa: BLE001 - the remote error, whichever it is
            self._on_error(pending, exc)
            return
        del self._pending[pending.correlation_id]
        if pending.deadlines is not None:
            pending.deadlines.pop(pending, None)
        if not pending.future.done():
            pending.future.set_result(result)

    def _on_error(self, pending: Pending, error: Exception) -> None:
        if pending.late:
            # Most likely a timeout further away. Whether it or our look at the queue is quicker
            # must not decide what the caller sees: the look goes on, and this is its cause.
            pending.error = error
        elif isinstance(error, RpcTimeout):  # the host's; one of the method's is a RemoteError
            self._fail(pending, _timeout(pending, str(error)))
        else:
            self._fail(pending, error)

    def _fail(self, pending: Pending, error: Exception) -> None:
        self._forget(pending)
        if not pending.future.done():
            pending.future.set_exception(error)

    def once_more(self, pending: Pending) -> Message | None:
        """The request to send again; a call that nobody waits for any more is not."""
        if not pending.resend or pending.correlation_id not in self._pending:
            return None
        return self._wire.requests.resend(pending.message, pending.call.context.deadline)

    def _on_returned(self, message: Message, error: AioRpcError) -> None:
        self.undelivered(message.correlation_id or "", error)

    def undelivered(self, correlation_id: str, error: AioRpcError) -> None:
        """The request did not reach a queue, or it is not known whether it did."""
        pending = self._pending.get(correlation_id)
        if pending is None:
            return
        call = pending.call
        if isinstance(error, Unroutable):
            error = UnknownService(call.service, self._no_such_service(call))
        elif isinstance(error, ConnectionLost):
            deadline = call.context.deadline
            if deadline is not None and deadline.remaining() <= 0:
                self._fail(pending, _timeout(pending, str(error)))
                return
            waited = monotonic() - pending.sent_at
            error = ConnectionLost(f"{call} failed after {waited:.3g} s: {error}")
        self._fail(pending, error)

    def _no_such_service(self, call: Call) -> str:
        if "." in call.method:
            hint = "a method's name cannot have a dot on this wire"
        else:
            hint = f"no service named {call.service!r} ever ran there, or the name is wrong"
        return (
            f"{call.service}: no queue takes {call} on {self.transport.url} "
            f"(queue {rpc_queue_name(call.service)} does not exist): {hint}"
        )

    def _on_replies_gone(self) -> None:
        self._fail_pending(
            "the reply queue was gone when the connection came back (it expires 300 s after its "
            "consumer left, and is lost with a broker that keeps nothing), so the answer cannot "
            "come any more; the method may have run"
        )

    def _fail_pending(self, why: str) -> None:
        for pending in list(self._pending.values()):
            waited = monotonic() - pending.sent_at
            self._fail(
                pending, ConnectionLost(f"{pending.call} failed after {waited:.3g} s: {why}")
            )

    # Time

    def expired(self, pending: Pending) -> None:
        """The deadline of *pending* has passed: its caller is told, and why."""
        if pending.future.done():
            self._pending.pop(pending.correlation_id, None)
            return
        # The look takes a moment; a result that comes meanwhile is still an answer.
        pending.late = True
        task = self._loop.create_task(self._explain(pending))
        self._explaining.add(task)
        task.add_done_callback(self._explaining.discard)

    async def _explain(self, pending: Pending) -> None:
        call = pending.call
        why = "an unknown reason"
        try:
            why = await self._why_no_answer(rpc_queue_name(call.service))
        finally:
            timeout = _timeout(pending, why)
            timeout.__cause__ = pending.error
            self._fail(pending, timeout)

    async def _why_no_answer(self, queue: str) -> str:
        transport = self.transport
        if transport.state is State.BLOCKED:
            return f"{transport.url} blocks publishing (a memory or disk alarm of the broker)"
        if transport.state is not State.CONNECTED:
            return f"there is no connection to {transport.url} ({transport.state.value})"
        state = await transport.inspect(queue, LOOK)
        if state is None:
            return f"{transport.url} did not say in time what became of queue {queue}"
        if not state.exists:
            return f"queue {queue} does not exist any more"
        if state.consumers == 0:
            return f"queue {queue} has 0 consumers; the request expired unread"
        plural = "s" if state.consumers != 1 else ""
        waiting = f" and {state.messages} waiting messages" if state.messages else ""
        return (
            f"queue {queue} has {state.consumers} consumer{plural}{waiting}: the service is there, "
            "but slow or saturated"
        )

    async def _require_consumers(self, call: Call) -> None:
        queue = rpc_queue_name(call.service)
        if len(queue.encode()) > LONGEST_NAME:
            return  # no broker can be asked for it; sending says what is wrong
        looked_at, consumed = self._looks.get(queue, (0.0, False))
        now = monotonic()
        if not consumed or now - looked_at > LOOK_HOLDS:
            state = await self.transport.inspect(queue)
            if state is None:
                return
            if not state.exists:
                raise UnknownService(call.service, self._no_such_service(call))
            self._looks[queue] = (now, state.consumers > 0)
            if not state.consumers:
                waiting = f"; {state.messages} messages wait there" if state.messages else ""
                raise ServiceUnavailable(
                    f"{call} was not sent: queue {queue} on {self.transport.url} has 0 consumers"
                    f"{waiting}. Start the service, or call without fail_fast to let the request "
                    "wait until its deadline"
                )

    async def _wait_until_drained(self, call: Call) -> None:
        deadline = call.context.deadline
        scope = asyncio.timeout_at(None if deadline is None else deadline.at)
        try:
            async with scope:
                await self.transport.drained()
        except TimeoutError:
            if not scope.expired():
                raise
            raise RpcTimeout(
                f"{call} was not sent in time: the connection to {self.transport.url} takes no "
                "more data (the broker is slow or blocked, or too much is sent)"
            ) from None


def _timeout(pending: Pending, why: str) -> RpcTimeout:
    deadline = pending.call.context.deadline
    seconds = (deadline.at if deadline else monotonic()) - pending.sent_at
    # The call was sent a moment after its deadline was set: 0.4996 s are the 0.5 s asked for.
    return RpcTimeout(f"{pending.call} gave no answer within {round(seconds, 2):g} s: {why}")
