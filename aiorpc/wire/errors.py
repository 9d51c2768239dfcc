"""
Errors to the wire and back, as Nameko does it (nameko 2.14 ``nameko/exceptions.py``: ``serialize``,
``deserialize``, ``safe_for_serialization``). Pure functions.

An error is ``{"exc_type", "exc_path", "exc_args", "value"}``. Ours may have ``"refusal": true``:
the method did not raise it, its host refused the call or ended it. A caller sees such an error as
the class itself (``RpcTimeout``, ``DeliveryUncertain``, ...); Nameko ignores the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..exceptions import (
    AioRpcError,
    DeliveryUncertain,
    IncorrectSignature,
    InProgress,
    MalformedReply,
    MalformedRequest,
    MethodNotFound,
    Overloaded,
    RemoteError,
    RpcTimeout,
    exception_path,
    registered,
)

__all__ = ["error_from_payload", "error_payload", "text_of"]

_NAMEKO_PATHS: Mapping[type[BaseException], str] = {
    exc_type: f"nameko.exceptions.{exc_type.__name__}"
    for exc_type in (MalformedRequest, MethodNotFound, IncorrectSignature)
}
_REFUSALS: Mapping[str, type[AioRpcError]] = {
    exc_type.__name__: exc_type
    for exc_type in (RpcTimeout, DeliveryUncertain, InProgress, Overloaded)
}
_DEPTH = 20
#: The most items of one error's arguments, at all depths together.
_ITEMS = 1000


def error_payload(exc: BaseException, *, refusal: bool = False) -> dict[str, Any]:
    """The ``error`` of a reply. What came from further away keeps the name that it had there."""
    if isinstance(exc, RemoteError):
        return {
            "exc_type": exc.exc_type,
            "exc_path": exc.exc_path,
            "exc_args": _Safe().value(exc.exc_args),
            "value": exc.value,
        }
    exc_type = type(exc)
    payload: dict[str, Any] = {
        "exc_type": exc_type.__name__,
        "exc_path": _NAMEKO_PATHS.get(exc_type) or exception_path(exc_type),
        "exc_args": _Safe().value(exc.args),
        "value": _Safe().value(exc),
    }
    if refusal:
        payload["refusal"] = True
    return payload


def error_from_payload(payload: Any) -> Exception:
    """
    The error to raise at the caller: the registered class, or :class:`RemoteError`. A class that
    cannot be made from the arguments that came is a RemoteError too.
    """
    if not isinstance(payload, Mapping):
        return MalformedReply(f"the reply's error is a {type(payload).__name__}, not an object")
    exc_type, value = _text(payload.get("exc_type")), _text(payload.get("value"))
    path = payload.get("exc_path") or ""
    args = payload.get("exc_args") or ()
    if payload.get("refusal") is True and exc_type in _REFUSALS:
        return _REFUSALS[exc_type](value)
    local = registered(path) if isinstance(path, str) else None
    if not isinstance(args, (list, tuple)):
        args = (args,)
    if local is not None:
        try:
            return local(*args)
        except Exception:  # noqa: BLE001, S110 - a foreign constructor: the error itself must get through
            pass
    return RemoteError(exc_type, value, args, path if isinstance(path, str) else "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


class _Safe:
    """
    Nameko's ``safe_for_serialization``: strings, mappings and iterables keep their shape, the rest
    becomes ``str``. Bounded in depth and in items, since Nameko's dies of arguments that contain
    themselves: a tree whose nodes know their parents has more paths than anybody can walk.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _ITEMS

    def value(self, value: Any, depth: int = _DEPTH) -> Any:
        if isinstance(value, str):
            return str(value)
        if depth and self._left > 0 and isinstance(value, Mapping):
            return {text_of(k): self.value(v, depth - 1) for k, v in self._some(value.items())}
        if depth and self._left > 0 and isinstance(value, Iterable):
            try:
                return [self.value(item, depth - 1) for item in self._some(value)]
            except Exception:  # noqa: BLE001, S110 - somebody's __iter__
                pass
        return text_of(value)

    def _some(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if self._left <= 0:
                return
            self._left -= 1
            yield item


def text_of(value: Any) -> str:
    """*value* as a text, whatever its ``__str__`` does."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - somebody's __str__; the text is Nameko's
        return "[__unicode__ failed]"
