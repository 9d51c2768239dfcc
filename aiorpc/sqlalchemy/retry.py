"""
Trying a transaction again: nameko-sqlalchemy's ``transaction_retry``, awaited.

What is tried again: a connection that was lost, and transactions that the server gave up in favour
of others (serialisation failures, deadlocks, waits for a lock). Anything else is raised at once.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from ..context import current
from .engine.pool import DatabaseUnreachable
from .methods import mark_retried, require_coroutine_function
from .providers import CallDatabase
from .session import CallSession

__all__ = ["is_transient", "transaction_retry"]

log = logging.getLogger("aiorpc.sqlalchemy")

P = ParamSpec("P")
T = TypeVar("T")

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_SQLSTATES = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
}
# https://mariadb.com/kb/en/mariadb-error-codes/
_MYSQL_ERRORS = {
    1020,  # ER_CHECKREAD: the row changed since it was read
    1205,  # ER_LOCK_WAIT_TIMEOUT
    1213,  # ER_LOCK_DEADLOCK
    2002,  # CR_CONNECTION_ERROR
    2003,  # CR_CONN_HOST_ERROR
    2006,  # CR_SERVER_GONE_ERROR
    2013,  # CR_SERVER_LOST
}
#: ER_SP_DOES_NOT_EXIST: after a deadlock in ``begin_nested()``, rolling back to its savepoint finds
#: that it went with the transaction, and this is what is raised.
_NO_SAVEPOINT = 1305
_SQLITE_ERRORS = ("database is locked", "database table is locked", "database schema is locked")


class _Retry(Protocol):
    # What comes out says object and None, as it may: `@rpc` is overloaded, and where mypy sees an
    # Any among the arguments of an overload it gives up.
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Callable[P, Coroutine[object, None, T]]: ...


@overload
def transaction_retry(
    function: Callable[P, Coroutine[Any, Any, T]], /
) -> Callable[P, Coroutine[object, None, T]]: ...
@overload
def transaction_retry(
    *,
    session: AsyncSession | Callable[[Any], Any] | None = None,
    total: int = 1,
    backoff_factor: float = 0,
    backoff_max: float | None = None,
) -> _Retry: ...


def transaction_retry(
    function: Any = None,
    *,
    session: AsyncSession | Callable[[Any], Any] | None = None,
    total: int = 1,
    backoff_factor: float = 0,
    backoff_max: float | None = None,
) -> Any:
    """
    Run a coroutine function again when its transaction failed for a reason that passes::

        @rpc
        @transaction_retry(total=3, backoff_factor=0.05)
        async def borrow(self, book_id: int) -> None: ...

    It stands under ``@rpc`` and above ``@accepts`` and ``@returns``: what they do is part of the
    attempt. Changes in a session declared with ``commit=True`` are sent to the database within the
    attempt; their COMMIT comes later, when the result is encoded, and is not tried again if it
    fails: a lost connection, PostgreSQL at SERIALIZABLE. Who cannot have that commits by hand.

    The session is rolled back before each new attempt, which starts where the function does: what
    it did beside the database is done again. A connection can be lost while a commit is under way;
    then nobody knows whether it was committed, and it is tried again: give such work a unique key.

    Args:
        session: what to roll back: a session, or a function from the method's ``self`` to one
            (``operator.attrgetter("db.session")``). None: every ``DatabaseSession`` and
            ``Database`` of the service whose method it is.
        total: how many times to try again.
        backoff_factor: seconds to wait: none before the first new attempt, then
            ``backoff_factor * 2 ** (n - 1)`` before the n-th. The deadline of the call ends it.
        backoff_max: the longest wait in seconds; None: no bound.

    Raises:
        ConfigurationError: it decorates what is no coroutine function.
    """

    def decorate(
        function: Callable[..., Coroutine[Any, Any, T]],
    ) -> Callable[..., Coroutine[Any, Any, T]]:
        require_coroutine_function(function, "transaction_retry")

        async def one_attempt(*args: Any, **kwargs: Any) -> T:
            result = await function(*args, **kwargs)
            if args:
                await _flush_what_will_be_committed(session, args)
            return result

        @functools.wraps(function)
        async def attempts(*args: Any, **kwargs: Any) -> T:
            for attempt in range(1, total + 1):
                try:
                    return await one_attempt(*args, **kwargs)
                except (DBAPIError, DatabaseUnreachable) as error:
                    if not is_transient(error):
                        raise
                    await _roll_back(session, args)
                    delay = _delay(attempt, backoff_factor, backoff_max)
                    deadline = current.get().deadline
                    if deadline is not None and deadline.remaining() <= delay:
                        raise
                    log.info(
                        "%s: attempt %d of %d failed, again in %g s: %s",
                        function.__qualname__,
                        attempt,
                        total + 1,
                        delay,
                        getattr(error, "orig", error),
                    )
                if delay:
                    await asyncio.sleep(delay)
            return await one_attempt(*args, **kwargs)

        mark_retried(attempts)
        return attempts

    return decorate if function is None else decorate(function)


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is tried again."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, DatabaseUnreachable)
    if error.connection_invalidated:
        return True
    original = error.orig
    if _code(original) == _NO_SAVEPOINT:
        return any(is_transient(earlier) for earlier in _what_led_to(error))
    sqlstate = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if sqlstate is not None:
        return sqlstate in _SQLSTATES or sqlstate.startswith("08")  # connection_exception
    code = _code(original)
    if isinstance(code, int):
        return code in _MYSQL_ERRORS
    return isinstance(code, str) and code.startswith(_SQLITE_ERRORS)


def _code(original: BaseException | None) -> Any:
    """What MySQL's drivers give as a number, and SQLite's as words."""
    return original.args[0] if original is not None and original.args else None


def _what_led_to(error: BaseException) -> Iterator[DBAPIError]:
    """The other errors of the database that were being handled when *error* was raised."""
    seen = {id(error)}
    found = [error.__cause__, error.__context__]
    while found:
        earlier = found.pop()
        if earlier is None or id(earlier) in seen:
            continue
        seen.add(id(earlier))
        found += [earlier.__cause__, earlier.__context__]
        if isinstance(earlier, DBAPIError) and _code(earlier.orig) != _NO_SAVEPOINT:
            yield earlier


def _delay(attempt: int, factor: float, longest: float | None) -> float:
    delay = 0.0 if attempt == 1 else factor * 2.0 ** (attempt - 1)
    return delay if longest is None else min(delay, longest)


async def _roll_back(session: Any, args: tuple[Any, ...]) -> None:
    for one in _sessions(session, args):
        try:
            await one.rollback()
        except (DBAPIError, DatabaseUnreachable) as error:
            # The connection is gone, and the transaction with it.
            log.debug("rolling back failed: %r", error)
            await one.invalidate()


async def _flush_what_will_be_committed(session: Any, args: tuple[Any, ...]) -> None:
    for one in _sessions(session, args):
        if isinstance(one, CallSession) and one.commits_at_end:
            await one.flush_pending()


def _sessions(session: Any, args: tuple[Any, ...]) -> list[AsyncSession]:
    if session is None:
        return _sessions_of(args[0]) if args else []
    if isinstance(session, AsyncSession):
        return [session]
    named: Any = session(args[0]) if callable(session) else session
    # Of a Database, or of what stands in for one.
    return [named if hasattr(named, "rollback") else named.session]


def _sessions_of(service: Any) -> list[AsyncSession]:
    """Those that the service has on its attributes in this call."""
    found = []
    for value in getattr(service, "__dict__", {}).values():
        if isinstance(value, AsyncSession):
            found.append(value)
        elif isinstance(value, CallDatabase) and value.was_used:
            found.append(value.session)
    return found
