"""
``retries``: the caller makes failed calls again. Awaits the calls and the pauses between them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..call import Call, Handler
from ..checks import COUNT, SECONDS, STRINGS, Kind, check
from ..exceptions import (
    CircuitOpen,
    ConnectionLost,
    InProgress,
    Overloaded,
    RemoteError,
    ServiceUnavailable,
)
from ..logs import logger

__all__ = ["retries"]

log = logger("aiorpc.middleware")

_PATTERNS = Kind(
    lambda value: STRINGS.fits(value) and all("." in each for each in value),
    "a list of service.method, such as [shop.quote, library.get_*]",
)
_SHARE = Kind(lambda value: type(value) in (int, float) and 0 <= value <= 1, "a number from 0 to 1")
_KINDS = {
    "methods": _PATTERNS,
    "attempts": COUNT,
    "first_pause": SECONDS,
    "longest_pause": SECONDS,
    "budget": COUNT,
    "earned": _SHARE,
    "errors": STRINGS._replace(text="a list of names of exceptions"),
}
#: Errors after which another attempt may succeed. RpcTimeout is none: the time is over.
_PASSING = (ConnectionLost, InProgress, Overloaded, ServiceUnavailable)
#: Services and methods that are remembered at most.
_MOST = 1000


class retries:  # noqa: N801 - used like a function
    """
    Calls a method again if the call failed for a reason that may pass: ``ConnectionLost``,
    ``Overloaded``, ``ServiceUnavailable`` or ``InProgress``. Works at callers only; elsewhere it
    does nothing.

    After ``ConnectionLost``, the method may have run already. So only *methods* are called again;
    list those that may run twice, and idempotent ones whose calls have a key: each attempt sends
    the same key.

    The pause before the first retry is random, up to *first_pause*. Each further pause may be twice
    as long, up to *longest_pause*. After ``Overloaded``, the pause is at least its ``retry_after``.
    A pause that would outlast the call's deadline is not begun: the caller gets the error at once.

    Each retry costs one token of the service's *budget*, and each successful call earns a part of
    one back. Without a token, there is no retry: so retries do not overload a service that fails.

    Args:
        methods: patterns of ``service.method``: ``shop.quote``, ``library.get_*``.
        attempts: calls at most, the first one included.
        first_pause, longest_pause: seconds.
        budget: tokens at the start, and at most.
        earned: tokens that a successful call earns, 0 to 1.
        errors: further errors after which a call is made again: class names of errors that the
            method raises, such as ``OperationalError``, or import paths.
    """

    def __init__(
        self,
        *,
        methods: Sequence[str],
        attempts: int = 3,
        first_pause: float = 0.1,
        longest_pause: float = 5.0,
        budget: int = 10,
        earned: float = 0.1,
        errors: Sequence[str] = (),
    ) -> None:
        given = {name: value for name, value in locals().items() if name in _KINDS}
        check("retries()", given, _KINDS)
        self._patterns = tuple(methods)
        self._attempts = attempts
        self._pauses = first_pause, longest_pause
        self._budget, self._earned = budget, earned
        self._errors = frozenset(errors)
        #: Whether a method is listed, by its name; and the tokens left, by service.
        self._listed: dict[str, bool] = {}
        self._tokens: dict[str, float] = {}

    async def __call__(self, call: Call, handler: Handler) -> Any:
        """Make *call*, and again while it fails."""
        if call.side != "client" or not self._lists(str(call)):
            return await handler(call)
        attempt = 1
        last: Exception | None = None
        while True:
            try:
                result = await handler(call)
            except Exception as error:
                # A stream raises the same error again, because it never runs twice.
                if error is last or not self._passes(error):
                    raise
                pause = self._pause(call, attempt, error)
                if pause is None:
                    if attempt > 1:
                        error.add_note(f"{call} was called {attempt} times, by retries")
                    raise
                last = error
            else:
                self._earn(call.service)
                return result
            name = type(last).__name__
            log.info("%s failed: %s: %s; again in %.3f s", call, name, last, pause)
            call.tell("aiorpc.retry")
            attempt += 1
            await asyncio.sleep(pause)

    def _lists(self, name: str) -> bool:
        listed = self._listed.get(name)
        if listed is None:
            if len(self._listed) >= _MOST:  # a gateway's clients may choose names
                self._listed.clear()
            listed = any(fnmatchcase(name, pattern) for pattern in self._patterns)
            self._listed[name] = listed
        return listed

    def _passes(self, error: Exception) -> bool:
        """Return whether another attempt may succeed after *error*."""
        if isinstance(error, _PASSING):
            return not isinstance(error, CircuitOpen)
        if isinstance(error, RemoteError):
            return error.exc_type in self._errors or error.exc_path in self._errors
        kind = type(error)
        return kind.__name__ in self._errors or f"{kind.__module__}.{kind.__name__}" in self._errors

    def _pause(self, call: Call, attempt: int, error: Exception) -> float | None:
        """Return the seconds to wait before the next attempt; None: there is none."""
        if attempt >= self._attempts:
            return None
        first, longest = self._pauses
        pause = random.uniform(0, min(first * 2 ** min(attempt - 1, 30), longest))
        pause += getattr(error, "retry_after", None) or 0
        deadline = call.context.deadline
        if deadline is not None and deadline.remaining() <= pause:
            return None
        tokens = self._tokens.get(call.service, self._budget)
        if tokens < 1:
            log.warning("%s is not called again: the budget of %s is used up", call, call.service)
            return None
        self._remember(call.service, tokens - 1)
        return pause

    def _earn(self, service: str) -> None:
        tokens = self._tokens.get(service)
        if tokens is not None:
            self._remember(service, tokens + self._earned)

    def _remember(self, service: str, tokens: float) -> None:
        if tokens >= self._budget:
            self._tokens.pop(service, None)
        else:
            self._tokens[service] = tokens
