"""
Encodes and decodes the errors of replies. Pure functions: nothing here awaits or does I/O.

An error is ``{"exc_type", "exc_path", "exc_args", "value"}``, as in Nameko (nameko 2.14
``nameko/exceptions.py``: ``serialize``, ``deserialize``, ``safe_for_serialization``). aiorpc adds
``"refusal": true`` if the host refused or ended the call, so the error is not the method's. The
caller then gets the error class itself (``RpcTimeout``, ``DeliveryUncertain``, ...). Nameko ignores
this key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..call import Outcome
from ..config import hide
from ..exceptions import (
    AioRpcError,
    BadRequest,
    ConnectionLost,
    DeliveryUncertain,
    InProgress,
    MalformedReply,
    Overloaded,
    RemoteError,
    RpcTimeout,
    exception_path,
    path_on_the_wire,
    registry,
)

__all__ = [
    "error_from_payload",
    "error_payload",
    "reason_of",
    "safe_for_serialization",
    "text_of",
]

_REFUSALS: Mapping[str, type[AioRpcError]] = {
    exc_type.__name__: exc_type
    for exc_type in (RpcTimeout, DeliveryUncertain, InProgress, Overloaded, ConnectionLost)
}
#: The number of nested levels of an error's arguments that we send.
_DEPTH = 20
#: The number of items of an error's arguments that we send, in all levels together.
_ITEMS = 1000
#: The number of characters of each text of an error that we send. A text is in the reply twice.
_CHARACTERS = 100_000


def error_payload(exc: BaseException, *, refusal: bool = False) -> dict[str, Any]:
    """
    Return the value of ``error`` in a reply.

    Args:
        exc: the error to send. A RemoteError keeps the class name of the original error.
        refusal: whether the host refused or ended the call.
    """
    if isinstance(exc, RemoteError):
        return {
            "exc_type": exc.exc_type,
            "exc_path": path_on_the_wire(exc.exc_path),
            "exc_args": safe_for_serialization(exc.exc_args),
            "value": exc.value,
        }
    args, value = safe_for_serialization(exc.args), safe_for_serialization(exc)
    if isinstance(exc, AioRpcError) and not isinstance(exc, BadRequest):
        args, value = _without_broker(args), _without_broker(value)
    payload: dict[str, Any] = {
        "exc_type": type(exc).__name__,
        "exc_path": path_on_the_wire(exception_path(type(exc))),
        "exc_args": args,
        "value": value,
    }
    if refusal:
        payload["refusal"] = True
        if isinstance(exc, Overloaded) and exc.retry_after is not None:
            payload["retry_after"] = exc.retry_after
    return payload


def error_from_payload(payload: Any) -> Exception:
    """
    Return the error to raise at the caller: an instance of the registered class. Return a
    :class:`RemoteError` if no class is registered, or if the class does not accept the arguments.
    """
    if not isinstance(payload, Mapping):
        kind = type(payload).__name__
        return MalformedReply(
            f"the error in the reply is a {kind}, not an object with exc_type, exc_args and value: "
            "check that the service speaks Nameko's protocol"
        )
    exc_type, value = text_of(payload.get("exc_type")), text_of(payload.get("value"))
    path, args = payload.get("exc_path"), payload.get("exc_args") or ()
    if payload.get("refusal") is True and exc_type in _REFUSALS:
        refused = _REFUSALS[exc_type](value)
        if isinstance(refused, Overloaded):
            refused.retry_after = _seconds(payload.get("retry_after"))
        return refused
    if not isinstance(path, str):
        path = ""
    if not isinstance(args, (list, tuple)):
        args = (args,)
    registered = registry.get(path_on_the_wire(path))
    if registered is not None:
        try:
            return registered(*args)
        except Exception:  # noqa: BLE001, S110 - the constructor may raise anything
            pass
    return RemoteError(exc_type, value, args, path)


def _seconds(given: Any) -> float | None:
    """Return *given* if it is a number of seconds; a peer may send any value."""
    return given if type(given) in (int, float) and 0 <= given < math.inf else None


def safe_for_serialization(value: Any) -> Any:
    """
    Return *value* as the replies of errors carry it, as Nameko's function does: strings, mappings
    and iterables keep their shape, and other values become ``str``.
    """
    return _Safe().value(value)


#: A broker's URL as our errors show it.
_URL = r"amqps?://(?:[^\s/@]*@)?(\[[^\s\]]+\]|[^\s/:]+):\d+/(?:[\w%~-]|\.\b)*"
#: An address as the errors of sockets show it.
_ADDRESS = r"\('[^'\s]*', \d+(?:, \d+, \d+)?\)"


def _without_broker(value: Any) -> Any:
    """
    Return the text *value* without host and port of the broker, which do not concern a caller. In a
    list or a dict, do so with each text.
    """
    if isinstance(value, list):
        return [_without_broker(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_broker(item) for name, item in value.items()}
    hosts = set(re.findall(_URL, value))
    value = re.sub(f"{_URL}|{_ADDRESS}", "the broker", value)
    for host in hosts:  # a certificate's error names the host alone
        value = value.replace(f"'{host.strip('[]')}'", "the broker")
    return value


class _Safe:
    """
    Nameko's ``safe_for_serialization`` with limits on depth and items.

    Strings, mappings and iterables keep their shape; other values become ``str``. The limits are
    needed because an argument may contain itself, and then Nameko's function fails. A tree whose
    nodes link to their parents has too many paths to walk.
    """

    def __init__(self) -> None:
        self._left = _ITEMS

    def value(self, value: Any, depth: int = _DEPTH) -> Any:
        if isinstance(value, str):
            return _cut(str(value))
        if depth and self._left > 0 and isinstance(value, Mapping):
            return {text_of(k): self.value(v, depth - 1) for k, v in self._some(value.items())}
        if depth and self._left > 0 and isinstance(value, Iterable):
            try:
                return [self.value(item, depth - 1) for item in self._some(value)]
            except Exception:  # noqa: BLE001, S110 - an __iter__ may raise anything
                pass
        return _cut(text_of(value))

    def _some(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if self._left <= 0:
                return
            self._left -= 1
            yield item


def _cut(text: str) -> str:
    if len(text) <= _CHARACTERS:
        return text
    return f"{text[:_CHARACTERS]}... ({len(text)} characters)"


def text_of(value: Any) -> str:
    """Return ``str(value)``, or the text that Nameko uses if ``__str__`` raises."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a __str__ may raise anything
        return "[__unicode__ failed]"


def reason_of(outcome: Outcome) -> str:
    """Return the type and the text of the error of *outcome*, with its secrets masked."""
    error = outcome.error
    text: str = hide(f"{type(error).__name__}: {text_of(error)}", outcome.secrets)
    return text
