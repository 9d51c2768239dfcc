"""
The class of a call, how a call ends, and the types of its handlers and middleware. Nothing here
awaits or does I/O.

The caller and the service use the same class, so the same middleware (a trace, a counter, a check
of permissions) can wrap a call on both sides. An event or a message is a call too: the sender's,
and the one that it starts.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias

import msgspec

from .context import EMPTY, NO_CONTEXT, Context

__all__ = ["Call", "Ending", "Handler", "Middleware", "Outcome", "Side", "compose"]

#: See :attr:`Call.side`. The words are those of OpenTelemetry.
Side: TypeAlias = Literal["client", "server", "producer", "consumer", "internal"]


class Call(msgspec.Struct, frozen=True, eq=False):
    """
    A call of one method: its name, its arguments and its context. It never changes; its methods
    return a changed copy for the handler of a middleware.
    """

    #: The service that runs the method. For an event or a message that is sent: its sender.
    service: str
    #: The name of the method. For an event that is sent: its type. For a message: the attribute of
    #: the service that is the Publisher.
    method: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = EMPTY
    context: Context = NO_CONTEXT
    #: The kind of entrypoint that starts the call: ``rpc``, ``event``, ``timer``, or another name.
    kind: str = "rpc"
    #: Whether the call may have run before, because its message was redelivered or re-sent.
    redelivered: bool = False
    #: ``service.method.unique``, the last call id in ``context``. The service that runs the call
    #: makes this id; at the caller, the id is empty.
    id: str = ""
    #: The :class:`aiorpc.Entrypoint` that starts the method. None: this side sends the call, or the
    #: service has no such method.
    entrypoint: Any = None
    #: Of an event or a message: the exchange and the routing key with which it is or was sent.
    exchange: str = ""
    routing_key: str = ""
    #: The host and the port of the broker in the configuration. Empty and 0: ``memory://``.
    broker: tuple[str, int] = ("", 0)
    #: The message that started the call: ``message_id``, ``correlation_id``, ``headers`` and more.
    #: None at the sender, and if no message started the call.
    message: Any = None
    #: The ``time.monotonic()`` at which the service received the call; 0 without middleware.
    received_at: float = 0.0
    #: See :meth:`tell`.
    listener: Callable[[str], object] | None = None

    @property
    def side(self) -> Side:
        """
        Who has the call: ``client`` and ``producer`` send it, and ``server`` and ``consumer`` run
        the method. ``internal``: no message starts it, but a timer, for example.
        """
        if self.kind == "rpc":
            return "server" if self.id else "client"
        if self.kind in ("event", "message"):
            return "consumer" if self.id else "producer"
        return "server" if self.kind == "http" else "internal"

    def replace(
        self,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> Self:
        """Return this call with other arguments, or another context. None: unchanged."""
        return msgspec.structs.replace(
            self,
            args=self.args if args is None else tuple(args),
            kwargs=self.kwargs if kwargs is None else kwargs,
            context=self.context if context is None else context,
        )

    def with_data(self, data: Mapping[str, Any]) -> Self:
        """
        Return this call with *data* added to its context data. The method gets the data, and so do
        all calls and events that the method makes.
        """
        return self.replace(context=self.context.with_data(data))

    def heard_by(self, listener: Callable[[str], object]) -> Self:
        """
        Return this call, with a *listener* for what happens to it inside the handler: that its
        request is re-sent, for example. The listener gets the name of each event.
        """
        before = self.listener

        def both(event: str) -> None:
            listener(event)
            assert before is not None
            before(event)

        return msgspec.structs.replace(self, listener=both if before else listener)

    def tell(self, event: str) -> None:
        """Tell the listeners of this call that *event* has happened to it."""
        if self.listener is not None:
            self.listener(event)

    def __str__(self) -> str:
        return f"{self.service}.{self.method}"


class Ending(enum.Enum):
    """How a worker ended. The entrypoint then acks or requeues the worker's message."""

    #: The method returned, and its dependencies closed without an error.
    RETURNED = "returned"
    #: The method, a dependency or a middleware raised.
    RAISED = "raised"
    #: The deadline passed before the method ended; the error is an ``RpcTimeout``.
    TIMED_OUT = "timed out"
    #: The method did not run: the request is wrong, or too many calls wait (``Overloaded``).
    REFUSED = "refused"
    #: The caller cancelled the call, so nobody waits for an answer.
    CANCELLED = "cancelled"
    #: The container stopped before the worker began or ended. The entrypoint requeues the message.
    ABANDONED = "abandoned"


class Outcome(msgspec.Struct, eq=False):
    """How one call ended. ``value`` is the result after the *encode* function of ``submit``."""

    ending: Ending
    value: Any = None
    error: BaseException | None = None
    #: Values of sensitive arguments: neither the log nor the caller may see them in the error.
    secrets: tuple[str, ...] = ()
    #: Whether the method returned, but its result could not be sent. The entrypoint sets it.
    unsent: bool = False


Handler: TypeAlias = Callable[[Call], Awaitable[Any]]
Middleware: TypeAlias = Callable[[Call, Handler], Awaitable[Any]]


def compose(middleware: Sequence[Middleware], handler: Handler) -> Handler:
    """Return *handler* wrapped in *middleware*; the first one is the outermost."""
    for wrap in middleware[::-1]:
        handler = _wrapped(wrap, handler)
    return handler


def _wrapped(wrap: Middleware, handler: Handler) -> Handler:
    def wrapped(call: Call) -> Awaitable[Any]:
        return wrap(call, handler)

    return wrapped
