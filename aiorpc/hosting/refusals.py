"""
Passes calls that cannot run through the middleware: wrong requests, calls of an overloaded method.
Awaits the middleware; no other I/O.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from ..call import Call, Ending, Outcome, compose
from ..context import current
from ..logs import logger
from ..wire.errors import reason_of
from .sensitive import secrets_of
from .workshop import Workshop

__all__ = ["refuse"]

log = logger("aiorpc.worker")


async def refuse(
    workshop: Workshop,
    call: Call,
    outcome: Outcome,
    settle: Callable[[Outcome], None],
    encode: Callable[[Any], Any] | None,
) -> None:
    """
    Pass *call* through the middleware of *workshop*, then settle it; see
    :meth:`aiorpc.extensions.Host.refuse`.
    """
    ended = outcome  # also if this task is cancelled
    try:
        ended = await _through(workshop, call, outcome, encode)
    finally:
        try:
            settle(ended)
        except Exception:
            log.exception("%s: the outcome could not be settled", call)


async def _through(
    workshop: Workshop, call: Call, outcome: Outcome, encode: Callable[[Any], Any] | None
) -> Outcome:
    async def raises(call: Call) -> NoReturn:
        assert outcome.error is not None
        raise outcome.error

    current.set(call.context)
    bound = workshop.cleanup_timeout
    limit = asyncio.timeout(bound)
    try:
        async with limit:
            result = await compose(workshop.middleware, raises)(call)
        return Outcome(Ending.RETURNED, encode(result) if encode else result)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a service's error ends its call only
        if error is outcome.error:
            return outcome
        if limit.expired():
            log.error("%s: its middleware took longer than %g s (CLEANUP_TIMEOUT)", call, bound)
            return outcome
        raised, entrypoint = Outcome(Ending.RAISED, error=error), call.entrypoint
        if entrypoint is not None and entrypoint.sensitive_arguments:
            raised.secrets = secrets_of(entrypoint, call, workshop.service_cls)
        log.warning("%s was refused, and its middleware raised %s", call, reason_of(raised))
        return raised
