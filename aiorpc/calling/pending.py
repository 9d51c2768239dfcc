"""
The calls of one client that wait for an answer, and the reply queue of that client.

A call stops waiting for exactly one of these reasons: the reply came, the broker returned or
refused the request, the deadline passed, the caller cancelled the call, or the connection was lost.
This file declares and consumes the reply queue through the transport; it sends nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import monotonic
from typing import Any, ClassVar

from .. import figures
from ..context import new_id
from ..exceptions import (
    AioRpcError,
    ConnectionLost,
    Overloaded,
    RpcTimeout,
    Unroutable,
    UnserializableValueError,
)
from ..logs import logger
from ..timers import Bucket, Timers
from ..transports.base import Subscription, Transport
from ..transports.outgoing import Refusal
from ..wire.content import is_slow
from ..wire.message import Message
from ..wire.protocol import Wire
from .diagnosis import Diagnosis, timed_out
from .unreachable import CallRequest, UnreachableQueues

__all__ = ["Pending", "PendingCalls"]

log = logger("aiorpc.client")


class Pending(CallRequest, eq=False, kw_only=True):
    """A call that waits for an answer: its request, and the future of its answer."""

    #: Whether the client re-sends the cancellation of the call after a lost connection.
    confirm_cancel: ClassVar[bool] = False

    calls: PendingCalls
    correlation_id: str
    future: asyncio.Future[Any]
    #: The ``time.monotonic()`` at which the call began.
    began_at: float
    #: The bucket of the timers that holds the deadline of the call; ``None`` without a deadline.
    deadlines: Bucket | None = None
    #: Whether the deadline has passed. The diagnosis then runs.
    late: bool = False
    #: The error that arrived while we diagnosed the timeout.
    error: Exception | None = None

    def absorb(self, message: Message) -> bool:
        """Take *message*, if it is not the last answer; only a stream has several."""
        return False

    def expired(self) -> None:
        """The timers call this when the deadline has passed."""
        self.calls.expired(self)

    def fail(self, why: str) -> None:
        """The client calls this when it cannot receive the answer."""
        self.calls.lose(self, why)

    def conclude(self, error: AioRpcError | None) -> None:
        """The transport calls this when the request is confirmed, or has failed with *error*."""
        if error is not None:
            self.calls.undelivered(self, error)

    def once_more(self) -> Message | None:
        """The transport calls this for the request to re-send; ``None`` if no caller waits."""
        if not self.resend or self not in self.calls:
            return None
        again = self.calls.wire.requests.resend(self.message, self.call.context.deadline)
        if again is not None:
            figures.count("resent", self.call.service, self.call.method)
            self.call.tell("aiorpc.resend")
        return again

    @property
    def wanted(self) -> bool:
        """
        Whether the call waits. The answer to a request that waits to be sent again may have come,
        because the client consumes its reply queue before it sends.
        """
        return self in self.calls

    def retracted(self) -> None:
        """The transport calls this when it will not re-send the request."""
        self.resend = False


class PendingCalls:
    """
    The pending calls of a client, by correlation id.

    Args:
        owner: part of the reply queue's name.
    """

    def __init__(self, transport: Transport, wire: Wire, diagnosis: Diagnosis, owner: str) -> None:
        self.wire = wire
        self.reply_to = new_id()
        self._transport = transport
        self._diagnosis = diagnosis
        self._owner = owner
        self._pending: dict[str, Pending] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None
        figures.measure(self, _figures)
        self._unreachable = UnreachableQueues(
            transport,
            waits=self._waits,
            fail=self._fail,
            unknown_service=diagnosis.unknown_service,
            spawn=self._spawn,
        )

    async def open(self) -> None:
        """Declare and consume the reply queue. Waits for a connection."""
        self._loop = asyncio.get_running_loop()
        self._timers = Timers(self._loop)
        self._subscription = await self._transport.listen(
            self.wire.reply_queue(self._owner, self.reply_to),
            self._on_reply,
            keep=True,
            gone=self._on_queue_gone,
            # After a network cut without a FIN, the broker would still send half of the replies to
            # the dead consumer. With a higher priority, the new consumer gets all replies.
            arguments=lambda reconnects: {"x-priority": reconnects},
        )
        self._transport.returns.expect(self.reply_to, self._on_returned)
        self._ignore_refusals = self._transport.refusals.add(self._on_refusal)

    async def close(self) -> None:
        """Fail the pending calls, and delete the reply queue. Bounded; idempotent."""
        self._fail_all("the client was closed before the answer came")
        for task in self._background:
            task.cancel()
        self._transport.returns.forget(self.reply_to)
        if self._subscription is not None:
            self._ignore_refusals()
            self._timers.close()
            subscription, self._subscription = self._subscription, None
            await subscription.cancel()
            await self._transport.delete(subscription.queue.name)

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, pending: Pending) -> bool:
        return pending.correlation_id in self._pending

    def _waits(self, request: CallRequest) -> bool:
        return request.message.correlation_id in self._pending

    def add(self, pending: Pending) -> None:
        """Start to wait for the answer to *pending*, until its deadline."""
        self._pending[pending.correlation_id] = pending
        if pending.expires_at is not None:
            pending.deadlines = self._timers.add(pending.expires_at, pending)

    def remove(self, pending: Pending) -> bool:
        """Stop waiting for the answer to *pending*. Return whether *pending* was in the table."""
        if pending.deadlines is not None:
            pending.deadlines.pop(pending, None)
        return self._pending.pop(pending.correlation_id, None) is not None

    def _fail(self, request: CallRequest, error: Exception) -> None:
        pending = self._pending.get(request.message.correlation_id or "")
        if pending is None:
            return
        self.remove(pending)
        if not pending.future.done():
            pending.future.set_exception(error)

    def _fail_all(self, why: str) -> None:
        for pending in list(self._pending.values()):
            pending.fail(why)

    def lose(self, pending: Pending, why: str) -> None:
        """Fail *pending* with a :exc:`ConnectionLost`. Its method runs on."""
        self._fail(pending, _lost(pending, why))

    # Replies

    def _on_reply(self, message: Message) -> None:
        pending = self._pending.get(message.correlation_id or "")
        if pending is None:
            # The call timed out, was cancelled, or was answered before.
            log.debug("ignored a reply to a call that is not pending: %s", message.correlation_id)
            return
        if message.headers:
            if is_slow(message):
                self._spawn(self._decompress(message))
                return
            if pending.absorb(message):
                return
        try:
            result = self.wire.replies.decode(message)
        except Exception as exc:  # noqa: BLE001 - the remote error may have any class
            self._on_error(pending, exc)
            return
        del self._pending[pending.correlation_id]
        if pending.deadlines is not None:
            pending.deadlines.pop(pending, None)
        if not pending.future.done():  # its task may have been cancelled in this turn of the loop
            pending.future.set_result(result)

    async def _decompress(self, reply: Message) -> None:
        await asyncio.to_thread(self.wire.content.decompress, reply)
        self._on_reply(reply)

    def _on_error(self, pending: Pending, error: Exception) -> None:
        if pending.late:
            # Most likely the service timed out just before us. Our diagnosis continues, with this
            # error as its cause, so the caller gets the same error whichever side is faster.
            pending.error = error
        elif isinstance(error, RpcTimeout):  # the method's own would be a RemoteError
            self._fail(pending, timed_out(pending.call, pending.began_at, str(error)))
        else:
            self._fail(pending, error)

    def _on_queue_gone(self) -> None:
        """Fail the calls whose answers are lost. The answers to later requests arrive."""
        why = (
            "the reply queue was lost (its node is down, or it was deleted: the broker does so "
            "after 300 s without a consumer), so the answer cannot arrive any more; the method may "
            "have run"
        )
        for pending in list(self._pending.values()):
            if not (pending in self._unreachable or self._transport.waits(pending)):
                self._fail(pending, _lost(pending, why))

    # Requests that failed

    def _on_returned(self, message: Message, error: AioRpcError) -> None:
        pending = self._pending.get(message.correlation_id or "")
        if pending is not None:
            self.undelivered(pending, error)

    def _on_refusal(self, refusal: Refusal) -> None:
        """
        The broker closed the channel to send on. The transport re-sends the requests that need a
        confirm. The broker did not read the other requests that we sent after the refused one.
        """
        unread = False
        for pending in list(self._pending.values()):
            if pending.confirm:
                unread = unread or refusal.names(pending)
            elif refusal.names(pending):
                unread = True
                self._fail(pending, refusal.error_for(pending))
            elif unread:
                try:
                    self._transport.send_unread(pending)
                except UnserializableValueError as error:  # the broker's limit is known by now
                    self._fail(pending, error)

    def undelivered(self, pending: Pending, error: AioRpcError) -> None:
        """Fail *pending*: its request did not reach a queue, or the client cannot know."""
        if pending not in self:
            return
        call = pending.call
        if isinstance(error, Unroutable | Overloaded):
            self._unreachable.take(pending, error)
        elif not isinstance(error, ConnectionLost):
            self._fail(pending, error)
        elif (deadline := call.context.deadline) is not None and deadline.remaining() <= 0:
            self._fail(pending, timed_out(call, pending.began_at, str(error)))
        else:
            self._fail(pending, _lost(pending, str(error)))

    # Deadlines

    def expired(self, pending: Pending) -> None:
        """Fail *pending*, whose deadline has passed, after a diagnosis of the reason."""
        if pending.future.done():
            self.remove(pending)
            return
        # The diagnosis takes up to 40 ms. A result that arrives in this time is still accepted.
        pending.late = True
        self._spawn(self._diagnose(pending))

    def _spawn(self, background: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(background)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _diagnose(self, pending: Pending) -> None:
        why = "an unknown reason"
        try:
            why = self._unreachable.why(pending) or await self._diagnosis.why_no_answer(
                pending.call
            )
        finally:
            error = timed_out(pending.call, pending.began_at, why)
            error.__cause__ = pending.error
            self._fail(pending, error)


def _figures(calls: PendingCalls) -> figures.Measured:
    yield "client_calls", (), len(calls)


def _lost(pending: Pending, why: str) -> ConnectionLost:
    waited = monotonic() - pending.began_at
    return ConnectionLost(f"{pending.call} failed after {waited:.3g} s: {why}")
