"""
The asyncio form of nameko-sqlalchemy's ``transaction_retry``: retries failed transactions.

The decorator retries after a lost connection, a conflict with another transaction (a serialisation
failure, a deadlock, a lock timeout), or a statement that a migration made outdated. It raises other
errors at once. Awaits the database, and sleeps between attempts.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, overload

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from ..context import current
from ..exceptions import ConfigurationError
from ..logs import logger
from .engine.pool import DatabaseUnreachable
from .providers import CallDatabase, session_of
from .session import CallSession

__all__ = ["RETRIED", "is_transient", "require_coroutine_function", "transaction_retry"]

log = logger("aiorpc.sqlalchemy")

P = ParamSpec("P")
T = TypeVar("T")

#: Marks a retried function. functools.wraps() copies this attribute to the functions around it.
RETRIED = "_aiorpc_transaction_retry"

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_SQLSTATES = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
}
# https://mariadb.com/docs/server/reference/error-codes
_MYSQL_ERRORS = {
    1020,  # ER_CHECKREAD: the row changed since it was read
    1205,  # ER_LOCK_WAIT_TIMEOUT
    1213,  # ER_LOCK_DEADLOCK
    2002,  # CR_CONNECTION_ERROR
    2003,  # CR_CONN_HOST_ERROR
    2006,  # CR_SERVER_GONE_ERROR
    2013,  # CR_SERVER_LOST
}
#: ER_SP_DOES_NOT_EXIST. A deadlock in ``begin_nested()`` ends the whole transaction. The roll back
#: to the savepoint then fails with this error.
_NO_SAVEPOINT = 1305
#: asyncpg's errors after a migration changed a type or a table of a prepared statement. asyncpg
#: reads the new definition before its next transaction.
_OUTDATED = {"InvalidCachedStatementError", "OutdatedSchemaCacheError"}
_SQLITE_ERRORS = ("database is locked", "database table is locked", "database schema is locked")


@dataclass(frozen=True)
class _Retry:
    """The decorator that ``transaction_retry(...)`` returns."""

    session: AsyncSession | Callable[[Any], Any] | None
    total: int
    backoff_factor: float
    backoff_max: float | None

    # The result type has object and None because of mypy: an overloaded decorator around a
    # function, such as `@rpc`, loses its types if an argument has Any.
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Callable[P, Coroutine[object, None, T]]:
        require_coroutine_function(function, "transaction_retry")

        @functools.wraps(function)
        async def attempts(*args: P.args, **kwargs: P.kwargs) -> T:
            attempt = 0
            while True:
                attempt += 1
                try:
                    result = await function(*args, **kwargs)
                    # With ``commit=True``, flush here: a flush that fails is retried too.
                    for session in self._sessions(args) if args else ():
                        if isinstance(session, CallSession) and session.commits_at_end:
                            await session.flush_pending()
                    return result
                except (DBAPIError, DatabaseUnreachable) as error:
                    if attempt > self.total or not is_transient(error):
                        raise
                    await _roll_back(self._sessions(args))
                    delay = self._delay(attempt)
                    deadline = current.get().deadline
                    if deadline is not None and deadline.remaining() <= delay:
                        raise
                    log.info(
                        "%s: attempt %d of %d failed, retrying in %g s: %s",
                        function.__qualname__,
                        attempt,
                        self.total + 1,
                        delay,
                        getattr(error, "orig", error),
                    )
                if delay:
                    await asyncio.sleep(delay)

        setattr(attempts, RETRIED, True)
        return attempts

    def _sessions(self, args: tuple[Any, ...]) -> list[AsyncSession]:
        if self.session is None:
            return _sessions_in(args[0]) if args else []
        if isinstance(self.session, AsyncSession):
            return [self.session]
        return [session_of(self.session(args[0]) if callable(self.session) else self.session)]

    def _delay(self, attempt: int) -> float:
        """Seconds before the next attempt, by the formula of nameko-sqlalchemy."""
        delay = 0.0 if attempt == 1 else self.backoff_factor * 2.0 ** (attempt - 1)
        return delay if self.backoff_max is None else min(delay, self.backoff_max)


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
    Run a coroutine function again when its transaction failed for a transient reason::

        @rpc
        @transaction_retry(total=3, backoff_factor=0.05)
        async def borrow(self, book_id: int) -> None: ...

    Write the decorator under ``@rpc``, and above ``@accepts`` and ``@returns``, so that a retry
    repeats the work of those two. A retry first rolls the session back. Then the whole function
    runs again, with its effects on other systems. If a connection is lost during a COMMIT, the work
    may be done twice: give it a unique key. With ``commit=True``, the COMMIT comes after the
    attempt and is not retried; to retry it, commit in the method.

    Args:
        session: the session to roll back, or a function that returns the session for a service
            instance (``operator.attrgetter("db.session")``). None: all sessions of the service.
        total: how many times to retry.
        backoff_factor: seconds to wait before the n-th retry: ``backoff_factor * 2 ** (n - 1)``,
            but no wait before the first retry. No retry starts after the deadline of the call.
        backoff_max: seconds of the longest wait; None: unlimited.

    Raises:
        ConfigurationError: the decorated object is not a coroutine function.
    """
    retry = _Retry(session, total, backoff_factor, backoff_max)
    return retry if function is None else retry(function)


def require_coroutine_function(method: Any, decorator: str) -> None:
    """Raise ``ConfigurationError`` unless *method* is a coroutine function."""
    if not inspect.iscoroutinefunction(method):
        name = getattr(method, "__qualname__", type(method).__name__)
        raise ConfigurationError(
            f"@{decorator} decorates coroutine functions: make {name} `async def`"
        )


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed at a retry."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, DatabaseUnreachable)
    if error.connection_invalidated:
        return True
    original = error.orig
    if original is not None and type(original.__cause__).__name__ in _OUTDATED:
        return True
    if _code(original) == _NO_SAVEPOINT:
        return any(is_transient(earlier) for earlier in _what_led_to(error))
    code = _code(original)
    if isinstance(code, int):  # PyMySQL has SQLSTATEs too, which is HY000 for most errors
        return code in _MYSQL_ERRORS
    sqlstate = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if sqlstate is not None:
        return sqlstate in _SQLSTATES or sqlstate.startswith("08")  # connection_exception
    return isinstance(code, str) and code.startswith(_SQLITE_ERRORS)


def _code(original: BaseException | None) -> Any:
    """The error's code, a number, for a driver of MySQL; the error's text for SQLite."""
    return original.args[0] if original is not None and original.args else None


def _what_led_to(error: BaseException) -> Iterator[DBAPIError]:
    """The earlier database errors in the chain of causes and contexts of *error*."""
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


async def _roll_back(sessions: list[AsyncSession]) -> None:
    for session in sessions:
        try:
            await session.rollback()
        except (DBAPIError, DatabaseUnreachable) as error:
            # The connection is lost, so the server rolls back.
            log.debug("rolling back failed: %r", error)
            await session.invalidate()


def _sessions_in(service: Any) -> list[AsyncSession]:
    """The sessions in the attributes of *service* that this call has used."""
    return [
        session_of(value)
        for value in getattr(service, "__dict__", {}).values()
        if isinstance(value, AsyncSession) or (isinstance(value, CallDatabase) and value.was_used)
    ]
