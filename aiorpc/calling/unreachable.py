"""
The requests that no queue takes now, because the node of their queue is down. They wait until
their deadline. One of them is sent again after growing pauses; when the broker takes it, the others
follow.

This file asks the broker for the state of a queue, so that a service that does not exist, and a
queue that is full, are errors at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from ..call import Call
from ..exceptions import (
    AioRpcError,
    ConnectionLost,
    Overloaded,
    ServiceUnavailable,
    Unroutable,
)
from ..logs import logger
from ..transports.base import Outgoing, QueueState, Transport
from ..transports.outgoing import shorten
from ..wire.names import rpc_queue_name

__all__ = ["CallRequest", "UnreachableQueues"]

log = logger("aiorpc.client")

#: Seconds before a request is sent again: doubled each time, up to the second number.
PAUSES = (0.1, 2.0)
#: Seconds to find out the state of a queue. RabbitMQ 4 does not answer while its node is down.
LOOK = 0.5
#: Seconds to wait for the confirm of a request that is sent again.
CONFIRMING = 10.0
#: Requests at most that are sent in one turn of the loop.
_BATCH = 100
#: How often a queue that is empty may refuse requests: for about 10 s. A quorum queue without a
#: leader does, and on a busy cluster an election takes seconds.
EMPTY_REFUSALS = 10


class CallRequest(Outgoing, eq=False, kw_only=True):
    """
    A request of *call*.

    Attributes:
        resend: whether the client may send the request again, although it may have run.
        patient: whether the request may wait for its queue.
    """

    is_request = True

    call: Call
    resend: bool
    patient: bool = True


#: Ends the wait of a request with an error.
Fail: TypeAlias = Callable[[CallRequest, AioRpcError], None]


class _Unreachable:
    """A queue that does not take requests, and these requests."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        #: The requests in their order, each with the broker's last refusal.
        self.requests: dict[CallRequest, AioRpcError] = {}
        #: The reason, once it is known.
        self.why = ""
        self.refusals = 0
        #: Whether messages waited in it after the last refusal. It is full if it refuses again; a
        #: quorum queue may have got its leader, and messages, since a first refusal.
        self.seems_full = False

    def is_final(self, state: QueueState | None, refused: AioRpcError) -> bool:
        """Whether waiting is useless, given the *state* of the queue. Otherwise note the reason."""
        seemed_full, self.seems_full = self.seems_full, False
        if state is None:
            self.why = "the broker does not describe it, so its node is perhaps down"
        elif state.trouble:
            self.why = state.trouble
        elif not state.exists:
            return True
        elif isinstance(refused, Overloaded):
            self.refusals += 1
            self.seems_full = state.messages > 0
            how = "has messages" if self.seems_full else "is empty"
            self.why = f"it {how} and refuses more ({refused})"
            return seemed_full if self.seems_full else self.refusals > EMPTY_REFUSALS
        return not self.why


class UnreachableQueues:
    """
    Args:
        waits: whether the caller of a request still waits.
        fail: ends the wait of a request with an error.
        unknown_service: makes the error for a call whose queue does not exist.
        spawn: runs a coroutine until the client closes.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        waits: Callable[[CallRequest], bool],
        fail: Fail,
        unknown_service: Callable[[Call], AioRpcError],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._transport = transport
        self._waits = waits
        self._fail = fail
        self._unknown_service = unknown_service
        self._spawn = spawn
        self._queues: dict[str, _Unreachable] = {}

    def why(self, request: CallRequest) -> str:
        """Return why *request* waits here; empty if it does not."""
        there = self._queues.get(rpc_queue_name(request.call.service))
        if there is None or request not in there.requests or not there.why:
            return ""
        return f"queue {there.queue} takes no requests now: {there.why}"

    def __contains__(self, request: CallRequest) -> bool:
        there = self._queues.get(rpc_queue_name(request.call.service))
        return there is not None and request in there.requests

    def take(self, request: CallRequest, refused: AioRpcError) -> None:
        """Take *request*, which the broker returned (``Unroutable``) or nacked (``Overloaded``)."""
        queue = rpc_queue_name(request.call.service)
        there = self._queues.get(queue)
        if there is None:
            there = self._queues[queue] = _Unreachable(queue)
            self._spawn(self._send_again(there))
        there.requests[request] = refused

    async def _send_again(self, there: _Unreachable) -> None:
        try:
            pause, most = PAUSES
            while (request := self._next(there)) is not None:
                state = await self._transport.inspect(there.queue, LOOK)
                if there.is_final(state, there.requests[request]):
                    self._fail_all(there, missing=state is not None and not state.exists)
                    continue
                self._fail_impatient(there)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, most)
                if await self._is_taken(there):
                    await self._send_others(there)
                    pause = PAUSES[0]
        finally:
            del self._queues[there.queue]
            self._fail_all(there)

    def _next(self, there: _Unreachable) -> CallRequest | None:
        """Forget the requests whose callers do not wait any more; return the first other."""
        for request in list(there.requests):
            if not self._waits(request):
                del there.requests[request]
        return next(iter(there.requests), None)

    async def _is_taken(self, there: _Unreachable) -> bool:
        """Send one request again. Return whether the broker took it."""
        request = self._next(there)
        if request is None or not self._prepare(request, there.requests[request]):
            return False
        attempt = Outgoing(
            exchange=request.exchange,
            routing_key=request.routing_key,
            message=request.message,
            mandatory=True,
            expires_at=request.expires_at,
            again=lambda _: request.once_more(),
        )
        try:
            await self._transport.publish(attempt, CONFIRMING)
        except (Unroutable, Overloaded) as refused:
            there.requests[request] = refused
            return False
        except AioRpcError as error:  # it may have arrived, so its answer may come
            log.debug("cannot send %s again: %s", request.call, error)
            there.requests.pop(request, None)
            return False
        there.requests.pop(request, None)
        return True

    def _prepare(self, request: CallRequest, refused: AioRpcError) -> bool:
        """
        Make the message to send again, and return whether there is one. A returned request did not
        run. A nacked request may have run before its queue went down.
        """
        if isinstance(refused, Unroutable):
            shorten(request, asyncio.get_running_loop().time())
            return True
        if not request.resend:
            error = f"{request.call} may have run, and is not sent again: {refused}"
            self._fail(request, ConnectionLost(error))
        message = request.once_more()
        if message is None:  # its deadline has passed
            return False
        request.message = message
        return True

    async def _send_others(self, there: _Unreachable) -> None:
        """Send the other requests, because the queue can be used again. Some may come back."""
        for number, request in enumerate(list(there.requests), 1):
            refused = there.requests.pop(request)
            if self._waits(request) and self._prepare(request, refused):
                try:
                    self._transport.send(request)
                except AioRpcError as error:  # the broker's limit is known by now
                    self._fail(request, error)
            if number % _BATCH == 0:
                await asyncio.sleep(0)
                await self._transport.drained()

    def _fail_all(self, there: _Unreachable, *, missing: bool = False) -> None:
        requests, there.requests = there.requests, {}
        for request, refused in requests.items():
            if missing or isinstance(refused, Unroutable):
                refused = self._unknown_service(request.call)
            self._fail(request, refused)

    def _fail_impatient(self, there: _Unreachable) -> None:
        """Fail the requests that may not wait, or not be sent again to learn if a queue is full."""
        full = there.seems_full
        for request in [
            each for each in there.requests if not each.patient or (full and not each.resend)
        ]:
            refused = there.requests.pop(request)
            if not full:
                refused = ServiceUnavailable(
                    f"{request.call} was not delivered: queue {there.queue} takes no requests now: "
                    f"{there.why}. Call without fail_fast to let the request wait until its "
                    "deadline"
                )
            self._fail(request, refused)
