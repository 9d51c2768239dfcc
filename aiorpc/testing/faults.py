"""
Faults that a test puts on a service or on a connection, with any transport::

    with faults.lose_reply(container, "remote_method"):
        with pytest.raises(RpcTimeout):
            await cluster.service_x.remote_method.with_options(timeout=0.2)("hello")

They strike between a container's entrypoints and its workers. Nothing is patched, so all that
follows is real: the broker redelivers, the client times out. All faults are context managers. The
first three yield a :class:`Fault`, whose ``struck`` says how often the fault has struck.
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

#: Entrypoints that send no reply. Any other entrypoint, a project's own too, may send one.
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
    One fault, and which calls it strikes.

    Attributes:
        struck: how often the fault has struck.
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
            ConfigurationError: no entrypoint that fires *method* (by default: any) can be struck.
                The text says what fires it, and *why_not*.
        """
        if method is not None:
            entrypoint_named(container, method)  # a misspelt name has its own error
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
    Lose the reply: the method runs, its dependencies commit and the request is acked, but the
    caller waits until its deadline. A broker that crashes at the wrong moment does the same.

    Args:
        method: the ``@rpc`` method; by default all of them.
        times: how many replies to lose at most; by default all while the block lasts.

    Raises:
        ConfigurationError: the method sends no reply, such as an event handler.
    """
    fault = Fault(
        container,
        method,
        times,
        lambda entrypoint: not isinstance(entrypoint, _UNANSWERED),
        "which sends no reply, so there is none to lose: give an @rpc method",
    )

    def losing(
        submit: Submit, entrypoint: Entrypoint, call: Call, settle: Settle, encode: Encode = None
    ) -> Submission:
        def unanswered(outcome: Outcome) -> None:
            # The request of a cancelled call is acked without an answer, so the outcome is
            # disguised as that. An abandoned request is requeued: it has no answer to lose.
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
    Let calls reach their worker *seconds* later, as a slow network or a long queue does. Their
    deadlines do not move. At the end of the block the calls that still wait reach their workers.

    Args:
        method: the method to delay; by default everything that the container fires.
        times: how many calls to delay at most; by default all while the block lasts.
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
    """The :class:`aiorpc.extensions.Submission` of a call that is delayed."""

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
    Let a message be delivered twice. The first run commits, but the message is requeued before
    reply and ack, as if the connection broke. The second run, with ``redelivered`` set, answers.

    Args:
        method: the method to run twice; by default everything that messages fire.
        times: how many messages at most; by default all while the block lasts.
        concurrently: deliver again at once, while the first run is under way.

    Raises:
        ConfigurationError: no message fires the method, for example a timer does.
    """
    fault = Fault(
        container,
        method,
        times,
        lambda entrypoint: entrypoint.queue_name(container) is not None,
        "which no message fires: give a method with @rpc, @event_handler or @consume",
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
    Break the connection of *connected*, as a pulled cable does, until the block ends. Then the
    broker redelivers what was unacked, and what was unconfirmed is re-sent. The services of one
    ``ServiceRunner`` share one connection.

    Args:
        connected: a started container or runner, a proxy, or a transport.

    Raises:
        ConfigurationError: *connected* is not connected yet, or was closed.
    """
    restore = cut(_transport_of(connected))
    try:
        yield
    finally:
        restore()


@contextmanager
def _intercepted(container: ServiceContainer, strike: Callable[..., Submission]) -> Generator[None]:
    """
    Call *strike* instead of the container's ``submit`` while the block lasts. Its first argument is
    the ``submit`` that it replaces.
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
            f"{connected!r} has no connection to drop: give a container, runner or proxy that is "
            "started and not stopped yet, or a transport"
        )
    return transport
