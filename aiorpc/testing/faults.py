"""
Faults that a test calls down on a service or on a connection, on any transport::

    with faults.lose_reply(container, "remote_method"):
        with pytest.raises(RpcTimeout):
            await cluster.service_x.remote_method.with_options(timeout=0.2)("hello")

They strike where a container is given its calls, so nothing is patched, and what follows is real:
the broker redelivers, the client times out. All of them are context managers; what the first three
give has ``struck``, how often the fault has struck, so that a test can tell that it did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

from ..call import Call
from ..calling.proxies import ClusterProxy, ServiceProxy
from ..calling.standalone import ClusterRpcProxy, ServiceRpcProxy
from ..entrypoints.consumer import QueueConsumer
from ..entrypoints.timer import Once, Timer
from ..exceptions import ConfigurationError
from ..extensions import Ending, Entrypoint, Outcome, Submission
from ..hosting.container import ServiceContainer, Submit
from ..hosting.runner import ServiceRunner
from ..transports.base import State, Transport
from .entrypoints import Disguised, Dummy, entrypoint_named

__all__ = ["Fault", "delay", "drop_connection", "duplicate", "lose_reply"]

#: What is known to send no reply; what others make of theirs is their own business.
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
    Which calls a fault strikes.

    Attributes:
        struck: how often it has struck.
    """

    def __init__(self, container: ServiceContainer, method: str | None, times: int | None) -> None:
        if method is not None:
            entrypoint_named(container, method)
        self.struck = 0
        self._method = method
        self._times = times

    def _strikes(self, entrypoint: Entrypoint) -> bool:
        if self._method not in (None, entrypoint.method_name) or self.struck == self._times:
            return False
        self.struck += 1
        return True


@contextmanager
def lose_reply(
    container: ServiceContainer, method: str | None = None, *, times: int | None = None
) -> Generator[Fault]:
    """
    The reply never arrives: the method runs, its dependencies commit, the request is acked, and the
    caller waits until its deadline. What a crash of the broker at the wrong moment does.

    Args:
        method: the ``@rpc`` method; all of them by default.
        times: how often, at most; by default as long as the block lasts.

    Raises:
        ConfigurationError: the method answers nobody: it handles events, say.
    """
    _require(
        container,
        method,
        lambda entrypoint: not isinstance(entrypoint, _UNANSWERED),
        "which answers nobody, so there is no reply to lose: give an @rpc method",
    )
    fault = Fault(container, method, times)

    def losing(submit: Submit) -> Submit:
        def lost(
            entrypoint: Entrypoint, call: Call, settle: Settle, encode: Encode = None
        ) -> Submission:
            def unanswered(outcome: Outcome) -> None:
                # A call that its caller has taken back is the one that is acked without an answer.
                # One that goes back to its queue had no answer to lose.
                if outcome.ending is not Ending.ABANDONED and fault._strikes(entrypoint):
                    outcome = Disguised(Ending.WITHDRAWN, truth=outcome)
                settle(outcome)

            return submit(entrypoint, call, unanswered if call.kind == "rpc" else settle, encode)

        return lost

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
    Calls reach their worker *seconds* later: a slow network, a long queue. Deadlines go on
    meanwhile. At the end of the block those that still wait go on at once.

    Args:
        method: which one; everything that the container fires by default.
        times: how often, at most; by default as long as the block lasts.
    """
    fault = Fault(container, method, times)
    waiting: set[_Delayed] = set()

    def delaying(submit: Submit) -> Submit:
        def delayed(
            entrypoint: Entrypoint, call: Call, settle: Settle, encode: Encode = None
        ) -> Submission:
            if not fault._strikes(entrypoint):
                return submit(entrypoint, call, settle, encode)
            return _Delayed(
                seconds, waiting, lambda: submit(entrypoint, call, settle, encode), settle
            )

        return delayed

    with _intercepted(container, delaying):
        try:
            yield fault
        finally:
            for each in list(waiting):
                each.go_on()


class _Delayed:
    """A call on its slow way; see :class:`aiorpc.extensions.Submission`."""

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
        self._timer = asyncio.get_running_loop().call_later(seconds, self.go_on)
        waiting.add(self)

    def go_on(self) -> None:
        self._timer.cancel()
        self._waiting.discard(self)
        self._submission = self._submit()

    def withdraw(self) -> None:
        if self._submission is not None:
            self._submission.withdraw()
        elif self in self._waiting:
            self._timer.cancel()
            self._waiting.discard(self)
            self._settle(Outcome(Ending.WITHDRAWN))


@contextmanager
def duplicate(
    container: ServiceContainer,
    method: str | None = None,
    *,
    times: int | None = None,
    concurrently: bool = False,
) -> Generator[Fault]:
    """
    A message is delivered twice: the method runs and its dependencies commit, but the connection
    breaks before reply and ack, so the broker delivers it again, with ``redelivered`` set. The
    second run answers.

    Args:
        method: which one; everything that comes in messages by default.
        times: how many messages, at most; by default all that come while the block lasts.
        concurrently: deliver again at once, while the first run goes on.

    Raises:
        ConfigurationError: the method comes in no message: it is a timer's, say.
    """
    _require(
        container,
        method,
        lambda entrypoint: entrypoint.queue_name(container) is not None,
        "which comes in no message, so nothing is delivered twice: give a method that messages "
        "fire, by @rpc, @event_handler or @consume",
    )
    fault = Fault(container, method, times)

    def duplicating(submit: Submit) -> Submit:
        def duplicated(
            entrypoint: Entrypoint, call: Call, settle: Settle, encode: Encode = None
        ) -> Submission:
            from_a_queue = entrypoint.queue_name(container) is not None
            if not from_a_queue or call.redelivered or not fault._strikes(entrypoint):
                return submit(entrypoint, call, settle, encode)
            if concurrently:
                settle(Outcome(Ending.ABANDONED))
                return submit(entrypoint, call, lambda outcome: None, encode)
            return submit(
                entrypoint, call, lambda outcome: settle(Outcome(Ending.ABANDONED)), encode
            )

        return duplicated

    with _intercepted(container, duplicating):
        yield fault


@contextmanager
def drop_connection(connected: Connected) -> Generator[None]:
    """
    The connection of *connected* breaks, as it does when a cable is pulled, and comes back when the
    block ends: what was unacked is redelivered, what was unconfirmed is sent again. Services of one
    ``ServiceRunner`` share a connection.

    Args:
        connected: a started container or runner, a proxy, or a transport.

    Raises:
        ConfigurationError: it is not connected yet, or not any more.
    """
    transport = _transport_of(connected)
    transport.drop_connection(None)
    try:
        yield
    finally:
        transport.restore_connection()


@contextmanager
def _intercepted(
    container: ServiceContainer, interceptor: Callable[[Submit], Submit]
) -> Generator[None]:
    remove = container.intercept(interceptor)
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


def _require(
    container: ServiceContainer, method: str | None, strikes: Callable[[Entrypoint], bool], why: str
) -> None:
    """
    Raises:
        ConfigurationError: none of the entrypoints that fire *method* (all of them, by default) is
            one that the fault can strike, so that it would be waited for in vain.
    """
    if method is not None:
        entrypoint_named(container, method)  # a misspelt one has an error of its own
    fired = [each for each in container.entrypoints if method in (None, each.method_name)]
    if not any(map(strikes, fired)):
        kinds = sorted({type(entrypoint).__name__ for entrypoint in fired})
        raise ConfigurationError(
            f"{container.service_name}{'.' + method if method else ''} is fired by "
            f"{' and '.join(kinds) or 'nothing'}, {why}"
        )
