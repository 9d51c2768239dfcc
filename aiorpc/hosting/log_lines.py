"""
Writes the log lines about ended calls, and names the running call in log records. Awaits nothing.
"""

from __future__ import annotations

import logging
from functools import partial
from time import monotonic
from typing import TypeAlias

from ..call import Call
from ..config import hide
from ..context import current
from ..exceptions import BadArguments
from ..extensions import Ending, Entrypoint, Outcome
from ..logs import indented, logger
from ..wire.errors import text_of

__all__ = ["CallLogFilter", "log_end"]

log = logger("aiorpc.worker")


#: Classes for ``isinstance``, also in tuples of tuples.
ExceptionClasses: TypeAlias = "type[Exception] | tuple[ExceptionClasses, ...]"


class _Shown(str):
    """A text that ``%r`` shows as it is."""

    __slots__ = ()
    __repr__ = str.__str__


class CallLogFilter(logging.Filter):
    """
    Adds the fields ``call_id``, ``service`` and ``method`` of the running call to each log record,
    for JSON logs. Outside of a call, the fields are empty strings.

    Put the filter on a handler: then it sees the records of all loggers, also of the service's own
    lines. A field that a record already has stays.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        stack = current.get().call_id_stack
        call_id = stack[-1] if stack else ""
        name, _, _ = call_id.rpartition(".")
        service, _, method = name.rpartition(".")
        fields = record.__dict__
        fields.setdefault("call_id", call_id)
        fields.setdefault("service", service)
        fields.setdefault("method", method)
        return True


def log_end(
    call: Call,
    outcome: Outcome,
    entrypoint: Entrypoint,
    service_cls: type,
    began: float,
) -> None:
    """
    Log the error of *call*, if it has one, and at level DEBUG how *call* ended.

    Args:
        entrypoint: has the errors that are warnings.
        began: the ``time.monotonic()`` at which the worker started; 0 for no line at DEBUG.
    """
    token = current.set(call.context)  # a worker that did not run ends in another context
    try:
        error = outcome.error
        if error is not None:
            expected = (entrypoint.expected_exceptions, entrypoint.answers)
            _log_error(call, outcome, error, expected, service_cls)
        if began:
            how = outcome.ending.value if error is None else type(error).__name__
            if outcome.unsent:
                how = f"{how}, but the result could not be sent"
            seconds = monotonic() - began
            log.debug("%s ended after %.3f s: %s (call id %s)", call, seconds, how, call.id)
    finally:
        current.reset(token)


def _log_error(
    call: Call,
    outcome: Outcome,
    error: BaseException,
    expected: ExceptionClasses,
    service_cls: type,
) -> None:
    hidden = partial(hide, secrets=outcome.secrets)
    if outcome.ending in (Ending.TIMED_OUT, Ending.REFUSED):
        log.warning("%s: %s (call id %s)", call, error, call.id)
    elif isinstance(error, BadArguments) and error.refuses_call and call.kind == "rpc":
        # As the service logs a request that it refuses without a worker.
        name = type(error).__name__
        text = hidden(text_of(error))
        log.warning("%s: a request was refused: %s: %s (call id %s)", call, name, text, call.id)
    elif isinstance(error, expected):
        shown = _Shown(hidden(repr(error))) if outcome.secrets else error
        log.warning("%s raised an expected error: %r (call id %s)", call, shown, call.id)
    elif log.isEnabledFor(logging.ERROR):
        text, name = "%s raised %s (call id %s)", type(error).__name__
        info = (type(error), error, error.__traceback__)
        arguments = (call, name, call.id)
        record = log.makeRecord(log.name, logging.ERROR, __file__, 0, text, arguments, info)
        if not log.isEnabledFor(logging.DEBUG):
            from ..tracebacks import shortened  # imports sysconfig: only for the first error

            # logging.Formatter uses this text; collectors of errors get the whole traceback.
            record.exc_text = shortened(error, service_cls)
        if outcome.secrets:
            whole = record.exc_text or logging.Formatter().formatException(info)
            record.exc_text = hidden(whole)
            if record.exc_text != whole:  # no collector may get the error itself
                record.exc_text = indented(error, record.exc_text, hidden)
                record.exc_info = None
        log.handle(record)
