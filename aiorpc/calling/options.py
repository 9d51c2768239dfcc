"""
The options of a call, and the values that all calls of one method share. Values only; nothing here
awaits or does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypedDict

import msgspec

from ..call import Middleware
from ..checks import (
    FLAG,
    MAPPING,
    MIDDLEWARE,
    PRIORITY,
    TEXT,
    TIMEOUT,
    Kind,
    check,
    check_middleware,
    check_names,
    optional,
)
from ..context import EMPTY
from ..wire.keys import LONGEST_KEY, is_key
from ..wire.message import Message

__all__ = [
    "DEFAULTS",
    "UNSET",
    "CallOptions",
    "Options",
    "Route",
    "check_options",
]

UNSET: Final = msgspec.UNSET


class Options(TypedDict, total=False):
    """The keywords of ``with_options``, for type checkers; see :class:`CallOptions`."""

    timeout: float | None | msgspec.UnsetType
    headers: Mapping[str, Any] | msgspec.UnsetType
    context_data: Mapping[str, Any] | msgspec.UnsetType
    persistent: bool | msgspec.UnsetType
    confirm: bool | msgspec.UnsetType
    resend: bool | msgspec.UnsetType
    fail_fast: bool | msgspec.UnsetType
    priority: int | msgspec.UnsetType
    serializer: str | msgspec.UnsetType | None
    idle_timeout: float | None | msgspec.UnsetType
    middleware: Sequence[Middleware] | msgspec.UnsetType
    idempotency_key: str | None | msgspec.UnsetType
    scope: str | None | msgspec.UnsetType


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    The options of a call. ``UNSET`` means the client's default.

    Attributes:
        timeout: seconds that the caller waits for the answer; ``None`` for no limit.
        headers: further AMQP headers, sent unchanged.
        context_data: replaces or extends the context data that the call inherits.
        persistent: whether the request survives a restart of the broker.
        confirm: whether the broker confirms the request. With ``False`` the client never re-sends.
        resend: whether the client re-sends a request if the connection is lost before the confirm.
            With ``False`` the call fails with ``ConnectionLost`` instead.
        fail_fast: raise ``ServiceUnavailable`` at once if the service's queue has no consumers.
        priority: the AMQP priority of the request, 0 to 255. It needs a queue with
            ``x-max-priority``, which an operator declares.
        serializer: the name of the serializer that encodes the request. It must be in ACCEPT,
            because a service answers in the serializer of the request.
        idle_timeout: seconds that a stream waits for its next item; ``None`` for no limit. The
            ``timeout`` limits the whole stream.
        middleware: functions that wrap the call, inside the middleware of the configuration and of
            the proxy; the first is the outermost.
        idempotency_key: names what the call does. A method with ``@rpc(idempotent=True)`` runs once
            for all calls with this key, and each of them gets the same answer.
        scope: whose key it is, such as a user; another scope with the same key is another call.
    """

    timeout: float | None | msgspec.UnsetType = UNSET
    headers: Mapping[str, Any] = EMPTY
    context_data: Mapping[str, Any] = EMPTY
    persistent: bool | msgspec.UnsetType = UNSET
    confirm: bool | msgspec.UnsetType = UNSET
    resend: bool = True
    fail_fast: bool = False
    priority: int = 0
    serializer: str | None = None
    idle_timeout: float | None = None
    middleware: tuple[Middleware, ...] = ()
    idempotency_key: str | None = None
    scope: str | None = None

    def replaced(self, owner: str, changes: Options) -> CallOptions:
        """
        Return a copy with *changes*. A change to ``UNSET`` has no effect.

        Args:
            owner: the function that takes the options, for errors.

        Raises:
            TypeError: *changes* names an option that does not exist.
            ConfigurationError: the value of an option is wrong.
        """
        check_options(owner, changes, _KINDS)
        given: dict[str, Any] = {
            name: value for name, value in changes.items() if value is not UNSET
        }
        if "middleware" in given:
            check_middleware(owner, given["middleware"])
            given["middleware"] = tuple(given["middleware"])
        check(owner, given, _KINDS)
        return msgspec.structs.replace(self, **given)


_KEY = optional(Kind(is_key, f"a str of 1 to {LONGEST_KEY} printable characters"))
_KINDS = {
    "timeout": TIMEOUT,
    "headers": MAPPING,
    "context_data": MAPPING,
    "persistent": FLAG,
    "confirm": FLAG,
    "resend": FLAG,
    "fail_fast": FLAG,
    "priority": PRIORITY,
    "serializer": optional(TEXT),
    "idle_timeout": TIMEOUT,
    "middleware": MIDDLEWARE,
    "idempotency_key": _KEY,
    "scope": _KEY,
}

#: What to write instead of options that Nameko has, or that aiorpc has elsewhere.
_REMEDIES = {
    **dict.fromkeys(
        ("confirm", "fail_fast", "headers", "persistent", "priority", "resend", "serializer"),
        "it is an option of a call: method.with_options()",
    ),
    "compression": "leave it out; aiorpc reads compressed messages, but sends none",
    "declare": "declare exchanges and queues where the Publisher is declared, with declare=[...]",
    "delivery_mode": "write persistent=True or persistent=False",
    "exchange": "write a Publisher for each exchange",
    "expiration": "write timeout=; an unread request expires at the deadline of its call",
    "extra_headers": "write headers=",
    "mandatory": "leave it out; requests always are",
    "queue": "write declare=[queue]",
    "reply_listener_cls": "leave it out; one proxy serves any number of tasks",
    "retry": "leave it out; aiorpc re-sends until the deadline",
    "retry_policy": "leave it out; aiorpc re-sends until the deadline",
    "use_confirms": "write confirm=False for calls; events and messages are always confirmed",
}


def check_options(owner: str, given: Iterable[str], known: Collection[str]) -> None:
    """
    Check that *owner*, a function, has all options in *given*.

    Raises:
        TypeError: an option is not *known*; the text names the nearest one, or the remedy.
    """
    check_names(owner, given, known, _REMEDIES)


DEFAULTS = CallOptions()


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Values that all calls of one method with the same options share. Computed once."""

    service: str
    method: str
    routing_key: str
    options: CallOptions
    #: Seconds to wait for the answer; ``None`` for no limit.
    timeout: float | None
    persistent: bool
    confirm: bool
    #: AMQP headers of each request, beside those of its context.
    headers: Mapping[str, Any]
    #: ``Requests.encode`` with the options' serializer and priority.
    encode: Callable[..., Message]
