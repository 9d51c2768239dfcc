"""
Finds out why a call gets no answer, and makes the texts of ``RpcTimeout``, ``UnknownService`` and
``ServiceUnavailable``.

It asks the broker for the state of the service's queue, and waits a bounded time for the answer.
"""

from __future__ import annotations

from time import monotonic

from ..call import Call
from ..exceptions import RpcTimeout, ServiceUnavailable, UnknownService
from ..transports.base import State, Transport
from ..wire.message import name_fault
from ..wire.names import rpc_queue_name

__all__ = ["Diagnosis", "timed_out"]

#: The longest time, in seconds, to find out the reason of a timeout.
LOOK = 0.04
#: For this many seconds, ``fail_fast`` does not ask again whether a queue has consumers.
LOOK_HOLDS = 1.0


class Diagnosis:
    """Explains calls that get no answer over *transport*."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        #: By queue name: the ``time.monotonic()`` at which the queue had consumers.
        self._consumed_at: dict[str, float] = {}

    async def why_no_answer(self, call: Call) -> str:
        """Return why *call* has no answer at its deadline. Takes at most ``LOOK`` seconds."""
        transport, queue = self._transport, rpc_queue_name(call.service)
        if transport.state is State.BLOCKED:
            return f"{transport.url} blocks publishing (a memory or disk alarm of the broker)"
        if transport.state is not State.CONNECTED:
            return f"there is no connection to {transport.url} ({transport.state.value})"
        state = await transport.inspect(queue, LOOK)
        if state is None:
            return f"{transport.url} did not report the state of queue {queue} in time"
        if state.trouble:
            return f"queue {queue} cannot be used now: {state.trouble}"
        if not state.exists:
            return f"queue {queue} does not exist any more"
        if state.consumers == 0:
            return f"queue {queue} has 0 consumers: start the service"
        plural = "s" if state.consumers != 1 else ""
        waiting = f" and {state.messages} waiting messages" if state.messages else ""
        return (
            f"queue {queue} has {state.consumers} consumer{plural}{waiting}: the service is there, "
            "but slow or saturated"
        )

    async def require_consumers(self, call: Call) -> None:
        """
        Check that the queue of *call* has a consumer. Ignore a broker that does not answer.

        Raises:
            UnknownService: the queue does not exist.
            ServiceUnavailable: the queue has no consumers, or cannot be used now.
        """
        queue, now = rpc_queue_name(call.service), monotonic()
        if name_fault(queue):
            return  # we cannot ask the broker; sending the request raises the right error
        consumed_at = self._consumed_at.get(queue)
        if consumed_at is not None and now - consumed_at <= LOOK_HOLDS:
            return
        state = await self._transport.inspect(queue)
        if state is None:
            return
        if not state.exists:
            raise self.unknown_service(call)
        if state.trouble:
            raise ServiceUnavailable(
                f"{call} was not sent: queue {queue} on {self._transport.url} cannot be used now: "
                f"{state.trouble}. Call without fail_fast to let the request wait until its "
                "deadline"
            )
        if state.consumers:
            self._consumed_at[queue] = now
            return
        waiting = f"; {state.messages} messages wait there" if state.messages else ""
        raise ServiceUnavailable(
            f"{call} was not sent: queue {queue} on {self._transport.url} has 0 consumers"
            f"{waiting}. Start the service, or call without fail_fast to let the request wait "
            "until its deadline"
        )

    def unknown_service(self, call: Call) -> UnknownService:
        """Make the error for a request that reached no queue."""
        if "." in call.method:
            hint = "a method's name cannot have a dot on this wire"
        else:
            hint = f"no service named {call.service!r} ever ran there, or the name is wrong"
        return UnknownService(
            call.service,
            f"{call.service}: no queue takes {call} on {self._transport.url} "
            f"(queue {rpc_queue_name(call.service)} does not exist): {hint}",
        )


def timed_out(call: Call, began_at: float, why: str) -> RpcTimeout:
    """Make the error of a *call* that timed out. It began at *began_at* (monotonic time)."""
    deadline = call.context.deadline
    seconds = (deadline.at if deadline else monotonic()) - began_at
    # A call begins microseconds before we set its deadline: rounding turns 0.5001 s into 0.5 s.
    return RpcTimeout(f"{call} gave no answer within {round(seconds, 2):g} s: {why}")
