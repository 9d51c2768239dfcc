"""
The connection pool of one engine. The pool serves calls in order, within their deadlines.

SQLAlchemy's pool (``AsyncAdaptedQueuePool``) ignores deadlines. A new call can overtake waiting
calls, a failed attempt to connect wakes no waiting call, and a cancelled call drops the connection
that it was opening. ``CallPool`` uses the same options, counts and queue of unused connections. ADR
5 has the reasons.

Awaits the database server. SQLAlchemy calls the public methods, and ``_do_...``, in a greenlet,
where ``await_only`` can wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from time import monotonic
from typing import Any

from sqlalchemy import exc
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool
from sqlalchemy.util import await_only, greenlet_spawn

from ... import figures
from ...context import current
from ...logs import logger
from .closing import InterruptiblePool
from .drivers import abort, looks_alive

__all__ = ["CallPool", "DatabaseUnreachable", "PoolTimeout", "bound_pings", "most_connections"]

log = logger("aiorpc.sqlalchemy")

#: Seconds without use, after which the pool pings a connection before the next use. A ping costs
#: more than a small query (three round trips with asyncpg).
PING_AFTER = 1.0

#: The key in a connection's ``info`` for the time of its last return to the pool.
_RETURNED_AT = "aiorpc_returned_at"

#: Seconds to finish an attempt to connect, after its call was cancelled.
LINGER = 5.0


class DatabaseUnreachable(ConnectionError):
    """We cannot connect to the database server. The text names the database and the reason."""


class PoolTimeout(exc.TimeoutError):
    """No connection became free in time. The text has the pool's limits, and advice."""


class CallPool(InterruptiblePool):
    """
    Has at most ``pool_size + max_overflow`` connections, and keeps up to ``pool_size`` of them.

    A call that finds no free connection waits up to ``pool_timeout`` seconds. The wait ends shortly
    before the deadline, so that the caller gets the error.

    Args:
        pool_pre_ping_timeout: seconds in which the server has to answer a ping.
    """

    # create_engine finds a pool's options by the names of positional arguments.
    def __init__(self, creator: Any, pool_pre_ping_timeout: float = 2.0, **options: Any) -> None:
        super().__init__(creator, **options)
        self.ping_timeout = pool_pre_ping_timeout
        #: A future for each waiting call, in order.
        self._waiters: deque[asyncio.Future[ConnectionPoolEntry | None]] = deque()
        figures.measure(self, _figures)

    # The methods that SQLAlchemy calls

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except OSError as error:  # SQLAlchemy does not wrap asyncpg's network errors
            raise DatabaseUnreachable(
                f"cannot connect to {self.database or 'the database'}: {_reason(error)}. "
                "Check that the server is up, and the host and port of its URL in DB_URIS"
            ) from error

    def _do_get(self) -> ConnectionPoolEntry:
        if self.checkedin():
            return self._checked(self._pool.get_nowait())
        if not self._inc_overflow():
            handed_over: ConnectionPoolEntry | None = await_only(self._wait())
            if handed_over is not None:
                return self._checked(handed_over)
        opened: ConnectionPoolEntry = await_only(self._open())
        return opened

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if record.dbapi_connection is None:  # invalidated: a new connection may take its place
            self._free_place()
            return
        record.info[_RETURNED_AT] = monotonic()
        if self._serve(record):
            return
        if self._pool.full():
            self._discard(record)
        else:
            self._pool.put_nowait(record)

    def recreate(self) -> CallPool:
        pool = super().recreate()
        assert isinstance(pool, CallPool)
        pool.database = self.database
        pool.ping_timeout = self.ping_timeout
        return pool

    def dispose(self) -> None:
        while self.checkedin():
            self._discard(self._pool.get_nowait())

    def waiting(self) -> int:
        """Return the number of waiting calls. ``QueuePool`` does not count them."""
        return sum(not waiter.done() for waiter in self._waiters)

    # Waiting

    async def _wait(self) -> ConnectionPoolEntry | None:
        """Wait in line for a connection. None: the call may open a new connection."""
        patience = self._timeout
        if (deadline := current.get().deadline) is not None:
            # The error needs a moment to reach the caller before the deadline.
            remaining = deadline.remaining()
            patience = max(0.0, min(patience, remaining - min(0.25, max(0.02, remaining * 0.05))))
        waiter: asyncio.Future[ConnectionPoolEntry | None] = asyncio.Future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(patience):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():  # got a value and was cancelled
                self._take_back(waiter.result())
            waiter.cancel()
            if isinstance(error, TimeoutError):
                raise PoolTimeout(self._explain(patience)) from None
            raise

    def _serve(self, value: ConnectionPoolEntry | None) -> bool:
        """Pass *value* to the first waiting call. Return False if no call waits."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(value)
                return True
        return False

    def _explain(self, patience: float) -> str:
        bound = "pool_timeout" if patience >= self._timeout else "the deadline of the call"
        return (
            f"no connection to {self.database or 'the database'} became free within "
            f"{patience:.2f} s ({bound}): all {most_connections(self)} are in use "
            f"(pool_size {self.size()}, max_overflow {self._max_overflow}), and {self.waiting()} "
            "more calls wait. Raise the limits in DB_ENGINE_OPTIONS, commit or roll back before "
            "slow work so that connections return sooner, or lower max_workers"
        )

    def _free_place(self) -> None:
        """Allow one more connection: the first waiting call opens it."""
        if not self._serve(None):
            self._dec_overflow()

    def _discard(self, record: ConnectionPoolEntry) -> None:
        try:
            record.close()
        finally:
            self._free_place()

    def _take_back(self, record: ConnectionPoolEntry | None) -> None:
        """Return *record* outside of SQLAlchemy's greenlet, where we cannot await its close."""
        if record is None:
            self._free_place()
        elif not self._pool.full() or self.waiting():
            self._do_return_conn(record)
        else:
            self._in_background(greenlet_spawn(self._do_return_conn, record))

    # Opening

    async def _open(self) -> ConnectionPoolEntry:
        """
        Connect in a separate task. If the call is cancelled, the task continues, and the next call
        gets the connection. A driver that is cancelled while it connects leaves sockets and threads
        open.
        """
        task = self._in_background(greenlet_spawn(self._create_connection))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            timer = asyncio.get_running_loop().call_later(LINGER, task.cancel)
            task.add_done_callback(partial(self._opened_without_a_call, timer))
            raise
        except BaseException:
            self._free_place()
            raise

    def _opened_without_a_call(
        self, timer: asyncio.TimerHandle, task: asyncio.Task[ConnectionPoolEntry]
    ) -> None:
        timer.cancel()
        if task.cancelled():
            self._free_place()
        elif (error := task.exception()) is not None:
            log.debug("%s: an attempt to connect failed: %r", self.database, error)
            self._free_place()
        else:
            record = task.result()
            record.fresh = False  # type: ignore[attr-defined]  # the next call may come late
            self._take_back(record)

    # Liveness

    def _checked(self, record: ConnectionPoolEntry) -> ConnectionPoolEntry:
        """Skip the ping of *record* if the connection was used recently and looks alive."""
        if self._invalidate_time > record.starttime:  # type: ignore[attr-defined]
            # Another connection's ping failed, so SQLAlchemy replaces this connection too. Without
            # abort(), SQLAlchemy would wait until the server closes the connection.
            abort(record.driver_connection)
        elif (
            self._pre_ping
            and monotonic() - record.info[_RETURNED_AT] < PING_AFTER
            and looks_alive(record.driver_connection)
        ):
            # SQLAlchemy does not ping a connection that was just opened.
            record.fresh = True  # type: ignore[attr-defined]
        return record


def _figures(pool: CallPool) -> figures.Measured:
    database = pool.database
    yield "database_connections", (database, "used"), pool.checkedout()
    yield "database_connections", (database, "idle"), pool.checkedin()
    if (most := most_connections(pool)) is not None:
        yield "database_connections_max", (database,), most
    yield "database_waiting", (database,), pool.waiting()


def most_connections(pool: QueuePool) -> int | None:
    """Return the number of connections that *pool* opens at most; ``None``: unlimited."""
    return None if pool._max_overflow < 0 else pool.size() + pool._max_overflow


def bound_pings(dialect: Dialect, within: float, database: str) -> None:
    """
    Make the pings of *dialect* fail after *within* seconds. The pool then replaces its unused
    connections. A firewall may silently drop packets of a connection that was idle for long.
    """
    ping = dialect.do_ping

    def bounded(connection: DBAPIConnection) -> bool:
        timer = asyncio.get_running_loop().call_later(within, cut, connection)
        try:
            return ping(connection)
        finally:
            timer.cancel()

    def cut(connection: DBAPIConnection) -> None:
        log.warning(
            "%s: an unused connection did not answer a ping within %g s (pool_pre_ping_timeout); "
            "connecting again. If a firewall drops idle connections, set pool_recycle to less than "
            "its limit",
            database,
            within,
        )
        abort(dialect.get_driver_connection(connection))

    setattr(dialect, "do_ping", bounded)  # noqa: B010 - mypy refuses the assignment


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer within connect_timeout (10 s, unless the URL or connect_args have it)"
    return str(error) or repr(error)
