"""
Faults that a test injects into a service or a connection, with any transport::

    with faults.lose_reply(container, "remote_method"):
        with pytest.raises(RpcTimeout):
            await cluster.service_x.remote_method.with_options(timeout=0.2)("hello")

A fault acts between a container's entrypoints and its workers. No code is patched, so the
consequences are real: the broker redelivers, the client times out. All faults are context managers.
Faults of services yield a :class:`Fault`, whose ``struck`` counts the affected calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

from ..call import Call
from ..calling.proxies import ClusterProxy, ServiceProxy
from ..calling.standalone import ClusterRpcProxy, ServiceRpcProxy
from ..entrypoints.consumer import QueueConsumer
from ..entrypoints.timer import Once, Timer
from ..exceptions import ConfigurationError
from ..extensions import Ending, Entrypoint, Outcome, Submission
from ..hosting.container import ServiceContainer
from ..hosting.pool import Submit
from ..hosting.runner import ServiceRunner
from ..transports.base import State, Transport
from .connections import cut
from .entrypoints import Disguised, Dummy, entrypoint_named

__all__ = ["Fault", "delay", "drop_connection", "duplicate", "lose_reply"]

#: Entrypoints that send no reply. Any other entrypoint, also a user's, may send a reply.
_UNANSWERED = (QueueConsumer, Timer, Once, Dummy)

Settle: TypeAlias = Callable[[Outcome], None]
Encode: TypeAlias = "Callable[[Any], Any] | None"
Connected: TypeAlias = (
    ServiceContainer
    | ServiceRunner
    | ClusterProxy
    | ServiceProxy
    | ClusterRpcProxy
    | ServiceRpcProxy
    | Transport
)


class Fault:
    """
    A fault, and its choice of calls.

    Attributes:
        struck: the number of calls that the fault has affected.
    """

    def __init__(
        self,
        container: ServiceContainer,
        method: str | None,
        times: int | None,
        can_strike: Callable[[Entrypoint], bool] = lambda entrypoint: True,
        why_not: str = "",
    ) -> None:
        """
        Raises:
            ConfigurationError: the fault cannot act on an entrypoint of *method* (by default: of
                any method). The text names the kinds of entrypoints, and *why_not*.
        """
        if method is not None:
            entrypoint_named(container, method)  # a misspelt name has another error
        fired = [each for each in container.entrypoints if method in (None, each.method_name)]
        if why_not and not any(map(can_strike, fired)):
            kinds = sorted({type(entrypoint).__name__ for entrypoint in fired})
            raise ConfigurationError(
                f"{container.service_name}{'.' + method if method else ''} is fired by "
                f"{' and '.join(kinds) or 'nothing'}, {why_not}"
            )
        self.struck = 0
        self._method = method
        self._times = times
        self._can_strike = can_strike

    def _strikes(self, entrypoint: Entrypoint) -> bool:
        strikes = (
            self._method in (None, entrypoint.method_name)
            and self.struck != self._times
            and self._can_strike(entrypoint)
        )
        self.struck += strikes
        return strikes


@contextmanager
def lose_reply(
    container: ServiceContainer, method: str | None = None, *, times: int | None = None
) -> Generator[Fault]:
    """
    Lose the reply. The method runs, its dependencies commit and the service acks the request, but
    the caller waits until its deadline. A crash of the broker can have the same effect.

    Args:
        method: the ``@rpc`` method; by default all ``@rpc`` methods.
        times: the largest number of replies to lose; by default all replies during the block.

    Raises:
        ConfigurationError: the method sends no reply, such as an event handler.
    """
    fault = Fault(
        container,
        method,
        times,
        lambda entrypoint: not isinstance(entrypoint, _UNANSWERED),
        "which sends no reply, so no reply can be lost: pass an @rpc method",
    )

    def losing(
        submit: Submit, entrypoint: Entrypoint, call: Call, settle: Settle, encode: Encode = None
    ) -> Submission:
        def unanswered(outcome: Outcome) -> None:
            # A service acks the request of a cancelled call without an answer, so we show the
            # outcome "cancelled". An abandoned request is requeued and has no reply.
            if outcome.ending is not Ending.ABANDONED and fault._strikes(entrypoint):
                outcome = Disguised(Ending.CANCELLED, truth=outcome)
            settle(outcome)

        return submit(entrypoint, call, unanswered if call.kind == "rpc" else settle, encode)

    with _intercepted(container, losing):
        yield fault


@contextmanager
def delay(
    container: ServiceContainer,
    method: str | None = None,
    *,
    seconds: float,
    times: int | None = None,
) -> Generator[Fault]:
    """
    Delay calls for *seconds* before they reach a worker, like a slow network or a long queue.
    Deadlines do not change. The end of the block also ends the delays.

    Args:
        method: the method to delay; by default all methods with an entrypoint.
        times: the largest number of calls to delay; by default all calls during the block.
    """
    fault = Fault(container, method, times)
    waiting: set[_Delayed] = set()

    def delaying(
        submit: Submit, entrypoint: Entrypoint, call: Call, settle: Settle, encode: Encode = None
    ) -> Submission:
        if not fault._strikes(entrypoint):
            return submit(entrypoint, call, settle, encode)
        return _Delayed(seconds, waiting, partial(submit, entrypoint, call, settle, encode), settle)

    with _intercepted(container, delaying):
        try:
            yield fault
        finally:
            for each in list(waiting):
                each.arrive()


class _Delayed:
    """The :class:`aiorpc.extensions.Submission` of a delayed call."""

    def __init__(
        self,
        seconds: float,
        waiting: set[_Delayed],
        submit: Callable[[], Submission],
        settle: Settle,
    ) -> None:
        self._waiting = waiting
        self._submit = submit
        self._settle = settle
        self._submission: Submission | None = None
        self._timer = asyncio.get_running_loop().call_later(seconds, self.arrive)
        waiting.add(self)

    def arrive(self) -> None:
        self._timer.cancel()
        self._waiting.discard(self)
        self._submission = self._submit()

    def cancel(self) -> None:
        if self._submission is not None:
            self._submission.cancel()
        elif self in self._waiting:
            self._timer.cancel()
            self._waiting.discard(self)
            self._settle(Outcome(Ending.CANCELLED))


@contextmanager
def duplicate(
    container: ServiceContainer,
    method: str | None = None,
    *,
    times: int | None = None,
    concurrently: bool = False,
) -> Generator[Fault]:
    """
    Deliver a message twice. The first run commits, but the message is requeued before reply and
    ack, as after a lost connection. The second run, with ``redelivered`` set, answers.

    Args:
        method: the method to run twice; by default all methods that messages start.
        times: the largest number of messages; by default all messages during the block.
        concurrently: deliver the message again at once, during the first run.

    Raises:
        ConfigurationError: no message starts the method; for example, a timer starts it.
    """
    fault = Fault(
        container,
        method,
        times,
        lambda entrypoint: entrypoint.queue_name(container) is not None,
        "which no message starts: pass a method with @rpc, @event_handler or @consume",
    )

    def duplicating(
        submit: Submit, entrypoint: Entrypoint, call: Call, settle: Settle, encode: Encode = None
    ) -> Submission:
        if call.redelivered or not fault._strikes(entrypoint):
            return submit(entrypoint, call, settle, encode)
        requeue = partial(settle, Outcome(Ending.ABANDONED))
        if concurrently:
            requeue()
            return submit(entrypoint, call, lambda outcome: None, encode)
        return submit(entrypoint, call, lambda outcome: requeue(), encode)

    with _intercepted(container, duplicating):
        yield fault


@contextmanager
def drop_connection(connected: Connected) -> Generator[None]:
    """
    Break the connection of *connected* until the block ends, like a pulled cable. Then the broker
    redelivers unacked messages, and the transport re-sends unconfirmed messages. The services of
    one ``ServiceRunner`` share one connection.

    Args:
        connected: a started container or runner, a proxy, or a transport.

    Raises:
        ConfigurationError: *connected* has no connection yet, or is closed.
    """
    restore = cut(_transport_of(connected))
    try:
        yield
    finally:
        restore()


@contextmanager
def _intercepted(container: ServiceContainer, strike: Callable[..., Submission]) -> Generator[None]:
    """
    Call *strike* instead of the container's ``submit`` during the block. The first argument of
    *strike* is the replaced ``submit``.
    """
    remove = container.intercept(lambda submit: partial(strike, submit))
    try:
        yield
    finally:
        remove()


def _transport_of(connected: Connected) -> Transport:
    transport: Transport | None = None
    match connected:
        case Transport():
            return connected
        case ServiceContainer() if connected.started:
            transport = connected.transport
        case ServiceRunner():
            transport = connected._transport
        case ClusterProxy() | ServiceProxy():
            transport = connected._client.transport
        case ClusterRpcProxy() | ServiceRpcProxy() if connected._transport is not None:
            transport = connected._transport
    if transport is None or transport.state is State.CLOSED:
        raise ConfigurationError(
            f"{connected!r} has no connection to drop: pass a container, runner or proxy that is "
            "started and not stopped yet, or a transport"
        )
    return transport
