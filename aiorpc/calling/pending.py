"""
The calls of one client that wait for an answer, and the queue that the answers come to.

A call leaves the pending table in exactly one of these ways: its reply came, the broker returned or
refused its request, its deadline passed, its caller cancelled it, or the connection was lost.
Declares and consumes the reply queue through the transport; sends nothing.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Any

import msgspec

from ..call import Call
from ..context import new_id
from ..exceptions import AioRpcError, ConnectionLost, RpcTimeout, Unroutable
from ..timers import Bucket, Timers
from ..transports.base import Outgoing, Subscription, Transport
from ..wire.message import Message
from ..wire.protocol import Wire
from .diagnosis import Diagnosis, timed_out

__all__ = ["Pending", "PendingCalls"]

log = logging.getLogger("aiorpc.client")


class Pending(Outgoing, eq=False, kw_only=True):
    """A call in flight: its request on the way out, and the future of its answer."""

    calls: PendingCalls
    call: Call
    correlation_id: str
    future: asyncio.Future[Any]
    #: ``time.monotonic()`` at which it was sent.
    sent_at: float
    #: Whether the request may be re-sent after the connection broke.
    resend: bool
    #: Where its deadline is kept, until it passes.
    deadlines: Bucket = msgspec.field(default_factory=dict)
    #: Whether its deadline has passed. The diagnosis then runs.
    late: bool = False
    #: The error that arrived while we diagnosed the timeout.
    error: Exception | None = None

    def expired(self) -> None:
        """Called by the timers: its deadline has passed."""
        self.calls.expired(self)

    def conclude(self, error: AioRpcError | None) -> None:
        """Called by the transport: the request was confirmed, or failed with *error*."""
        if error is not None:
            self.calls.undelivered(self, error)

    def once_more(self) -> Message | None:
        """Called by the transport: the request to re-send; ``None`` if nobody waits for it."""
        if not self.resend or self not in self.calls:
            return None
        return self.calls.wire.requests.resend(self.message, self.call.context.deadline)

    def retracted(self) -> None:
        """Called by the transport: the request is not to be re-sent."""
        self.resend = False


class PendingCalls:
    """
    The pending calls of a client, by correlation id.

    Args:
        owner: is part of the reply queue's name.
    """

    def __init__(self, transport: Transport, wire: Wire, diagnosis: Diagnosis, owner: str) -> None:
        self.wire = wire
        self.reply_to = new_id()
        self._transport = transport
        self._diagnosis = diagnosis
        self._owner = owner
        self._pending: dict[str, Pending] = {}
        self._diagnosing: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Declare and consume the reply queue. Waits for a connection."""
        self._loop = asyncio.get_running_loop()
        self._timers = Timers(self._loop)
        self._subscription = await self._transport.listen(
            self.wire.reply_queue(self._owner, self.reply_to),
            self._on_reply,
            keep=True,
            gone=self._on_queue_gone,
            # After a cut without a FIN the broker still has the dead consumer, and would give it
            # half of the replies. The newest consumer gets them first.
            arguments=lambda reconnects: {"x-priority": reconnects},
        )
        self._transport.returns.expect(self.reply_to, self._on_returned)

    async def close(self) -> None:
        """Fail what is pending, and delete the reply queue. Bounded; idempotent."""
        self._fail_all("the client was closed before the answer came")
        for task in self._diagnosing:
            task.cancel()
        self._transport.returns.forget(self.reply_to)
        if self._subscription is not None:
            self._timers.close()
            subscription, self._subscription = self._subscription, None
            await subscription.cancel()
            await self._transport.delete(subscription.queue.name)

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, pending: Pending) -> bool:
        return pending.correlation_id in self._pending

    def add(self, pending: Pending) -> None:
        """Wait for the answer to *pending*, until its deadline."""
        self._pending[pending.correlation_id] = pending
        if pending.expires_at is not None:
            pending.deadlines = self._timers.add(pending.expires_at, pending)

    def remove(self, pending: Pending) -> bool:
        """Wait no more for the answer to *pending*. Return whether it was waited for."""
        pending.deadlines.pop(pending, None)
        return self._pending.pop(pending.correlation_id, None) is not None

    def _fail(self, pending: Pending, error: Exception) -> None:
        self.remove(pending)
        if not pending.future.done():
            pending.future.set_exception(error)

    def _fail_all(self, why: str) -> None:
        for pending in list(self._pending.values()):
            self._fail(pending, _lost(pending, why))

    # Replies

    def _on_reply(self, message: Message) -> None:
        pending = self._pending.get(message.correlation_id or "")
        if pending is None:
            # Its call timed out, was cancelled, or was answered before.
            log.debug("ignored a reply to a call that is not pending: %s", message.correlation_id)
            return
        try:
            result = self.wire.replies.decode(message)
        except Exception as exc:  # noqa: BLE001 - the remote error, of whatever class
            self._on_error(pending, exc)
            return
        del self._pending[pending.correlation_id]
        pending.deadlines.pop(pending, None)
        if not pending.future.done():  # its task may have been cancelled in this turn of the loop
            pending.future.set_result(result)

    def _on_error(self, pending: Pending, error: Exception) -> None:
        if pending.late:
            # Most likely the service's own timeout. Our diagnosis goes on with this error as its
            # cause, so that the caller's error does not depend on which of the two is faster.
            pending.error = error
        elif isinstance(error, RpcTimeout):  # the host's; the method's own is a RemoteError
            self._fail(pending, timed_out(pending.call, pending.sent_at, str(error)))
        else:
            self._fail(pending, error)

    def _on_queue_gone(self) -> None:
        self._fail_all(
            "the reply queue was gone when the connection came back (it expires 300 s after its "
            "consumer left, and a broker without persistent storage loses it), so the answer "
            "cannot come any more; the method may have run"
        )

    # Requests that failed

    def _on_returned(self, message: Message, error: AioRpcError) -> None:
        pending = self._pending.get(message.correlation_id or "")
        if pending is not None:
            self.undelivered(pending, error)

    def undelivered(self, pending: Pending, error: AioRpcError) -> None:
        """The request did not reach a queue, or nobody knows whether it did."""
        if pending not in self:
            return
        call = pending.call
        if isinstance(error, Unroutable):
            self._fail(pending, self._diagnosis.unknown_service(call))
        elif not isinstance(error, ConnectionLost):
            self._fail(pending, error)
        elif (deadline := call.context.deadline) is not None and deadline.remaining() <= 0:
            self._fail(pending, timed_out(call, pending.sent_at, str(error)))
        else:
            self._fail(pending, _lost(pending, str(error)))

    # Deadlines

    def expired(self, pending: Pending) -> None:
        """The deadline of *pending* has passed: fail it, and say why."""
        if pending.future.done():
            self.remove(pending)
            return
        # The diagnosis takes a moment. A result that comes meanwhile is still an answer.
        pending.late = True
        task = self._loop.create_task(self._diagnose(pending))
        self._diagnosing.add(task)
        task.add_done_callback(self._diagnosing.discard)

    async def _diagnose(self, pending: Pending) -> None:
        why = "an unknown reason"
        try:
            why = await self._diagnosis.why_no_answer(pending.call)
        finally:
            error = timed_out(pending.call, pending.sent_at, why)
            error.__cause__ = pending.error
            self._fail(pending, error)


def _lost(pending: Pending, why: str) -> ConnectionLost:
    waited = monotonic() - pending.sent_at
    return ConnectionLost(f"{pending.call} failed after {waited:.3g} s: {why}")
