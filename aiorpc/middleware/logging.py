"""
``json_lines``: logs each call as one line of JSON. Writes to a logger; awaits only the call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from datetime import UTC, datetime
from time import monotonic
from typing import Any, get_args

import msgspec

from ..call import Call, Handler, Side
from ..checks import FLAG, NAME, Kind, check
from ..config import hide
from ..hosting.sensitive import secrets_of
from ..logs import one_line
from ..wire.errors import safe_for_serialization, text_of
from .conventions import cut_off

__all__ = ["json_lines"]

_SIDES = get_args(Side)
_KINDS = {
    "sides": Kind(
        lambda value: (
            isinstance(value, Collection)
            and not isinstance(value, str)
            and all(each in _SIDES for each in value)
        ),
        f"a list of some of {', '.join(_SIDES)}",
    ),
    "arguments": FLAG,
    "logger": NAME,
}
#: Characters of a text that a line shows.
_MOST = 500
#: JSON has these types.
_SIMPLE = (int, float, bool, type(None))


class json_lines:  # noqa: N801 - used like a function
    """
    Logs each call as one line of JSON, at level INFO, when it has ended::

        {"time": "2026-11-30T12:00:00.000+00:00", "side": "server", "kind": "rpc",
         "service": "shop", "method": "quote", "call_id": "shop.quote.0c1f...",
         "call_id_stack": [...], "trace_id": "4bf9...", "seconds": 0.0012, "outcome": "ok",
         "args": ["Emma"], "kwargs": {}}

    ``outcome`` is ``ok``, ``error``, ``timeout`` or ``cancelled``. For an error, the line has its
    class and text as ``error`` and ``text``. Sensitive arguments are masked, also in the text.

    Args:
        sides: the sides whose calls are logged; see :attr:`aiorpc.Call.side`. By default those that
            run a method.
        arguments: whether lines have the arguments. Only a service knows which arguments are
            sensitive, so the lines of senders and of unknown methods never have arguments.
        logger: the name of the logger.
    """

    def __init__(
        self,
        *,
        sides: Collection[str] = ("server", "consumer", "internal"),
        arguments: bool = True,
        logger: str = "aiorpc.calls",
    ) -> None:
        check("json_lines()", {"sides": sides, "arguments": arguments, "logger": logger}, _KINDS)
        self._sides = frozenset(sides)
        self._arguments = arguments
        self._log = logging.getLogger(logger)

    async def __call__(self, call: Call, handler: Handler) -> Any:
        """Run *call*, and log it."""
        if call.side not in self._sides or not self._log.isEnabledFor(logging.INFO):
            return await handler(call)
        began = monotonic()
        try:
            result = await handler(call)
        except BaseException as error:
            self._write(call, began, error)
            raise
        self._write(call, began, None)
        return result

    def _write(self, call: Call, began: float, error: BaseException | None) -> None:
        try:
            line = self._line(call, monotonic() - began, error)
            text = msgspec.json.encode(line).decode()
            # log.info() would look for the line of code that logs.
            record = self._log.makeRecord(
                self._log.name, logging.INFO, __file__, 0, text, (), None, "json_lines"
            )
            self._log.handle(record)
        except Exception:  # an error here must not become the error of the call
            logging.getLogger("aiorpc.worker").exception("%s could not be logged as JSON", call)

    def _line(self, call: Call, seconds: float, error: BaseException | None) -> dict[str, Any]:
        stack = call.context.call_id_stack
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "side": call.side,
            "kind": call.kind,
            "service": call.service,
            "method": call.method,
            "call_id": call.id or (stack[-1] if stack else ""),
            "call_id_stack": stack,
            "trace_id": _trace_id_of(call),
            "seconds": round(seconds, 6),
            "outcome": _outcome_of(call, error),
        }
        entrypoint = call.entrypoint
        secrets: tuple[str, ...] = ()
        if entrypoint is not None and entrypoint.sensitive_arguments:
            secrets = secrets_of(entrypoint, call, entrypoint.service_cls)
        if error is not None:
            line["error"] = type(error).__name__
            text = hide(text_of(error), secrets)  # before the cut: half a secret is not found
            line["text"] = one_line(text, _MOST)
        if self._arguments and entrypoint is not None:
            line["args"] = [_shown(value, secrets) for value in call.args]
            line["kwargs"] = {name: _shown(value, secrets) for name, value in call.kwargs.items()}
        return line


def _shown(value: Any, secrets: tuple[str, ...]) -> Any:
    """
    Return *value* without *secrets*, as JSON can carry it: lists and dicts have texts. Other
    objects, such as a request, are texts themselves.
    """
    kind = type(value)
    if not secrets and (kind in _SIMPLE or (kind is str and len(value) <= _MOST)):
        return value
    opened = isinstance(value, dict | list | tuple | set | frozenset)
    text = _cut(hide(safe_for_serialization(value if opened else text_of(value)), secrets))
    return value if kind in _SIMPLE and text == str(value) else text


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {_cut(key): _cut(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item) for item in value]
    return value if len(value) <= _MOST else f"{value[:_MOST]}... ({len(value)} characters)"


def _outcome_of(call: Call, error: BaseException | None) -> str:
    if error is None:
        return "ok"
    if isinstance(error, TimeoutError) or cut_off(error, call):
        return "timeout"
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "error"


def _trace_id_of(call: Call) -> str:
    """Return the id of the trace in W3C's ``traceparent``, ``00-<trace>-<span>-<flags>``."""
    parent = call.context.data.get("traceparent")
    parts = parent.split("-") if isinstance(parent, str) else ()
    return parts[1] if len(parts) >= 4 else ""
