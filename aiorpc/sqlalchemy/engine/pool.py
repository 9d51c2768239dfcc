"""
The pool of connections of one engine: calls get them in their order, and within their deadlines.

SQLAlchemy's own pool (``AsyncAdaptedQueuePool``) does not know deadlines, lets newcomers overtake
who waits, wakes nobody when an attempt to connect fails, and throws a connection away when the call
that opens it is cancelled. This one has the same options and counts.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from sqlalchemy import exc
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from ...context import current
from .drivers import Statement, broken_off, driver_of, kill, looks_alive, roll_back_interrupted

__all__ = ["CallPool", "DatabaseUnreachable", "PoolTimeout"]

log = logging.getLogger("aiorpc.sqlalchemy")

#: Seconds for which an unused connection is taken to be alive if it looks alive: a ping costs more
#: than a small query (asyncpg's is three round trips).
PING_AFTER = 1.0

#: Seconds for the server to take leave of a connection that is thrown away.
TERMINATE = 2.5

#: Seconds that a connection may still take to open when the call that wanted it is gone.
LINGER = 5.0


class DatabaseUnreachable(ConnectionError):
    """The database server cannot be connected to. The text says which, and why."""


class PoolTimeout(exc.TimeoutError):
    """No connection came free in time. The text says how many there are and what to change."""


class CallPool(Pool):
    """
    At most ``pool_size + max_overflow`` connections, of which ``pool_size`` stay open unused.

    A call that finds none free waits its turn, ``pool_timeout`` seconds at most and so long as its
    deadline leaves time to say that it was in vain.
    """

    _is_asyncio = True  # pyright: ignore[reportAssignmentType]  # as SQLAlchemy's own pools do

    def __init__(
        self,
        creator: Callable[..., Any],
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float = 30.0,
        use_lifo: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(creator, **options)
        self._size = pool_size
        self._max_overflow = -1 if pool_size == 0 else max_overflow
        self._timeout = timeout
        self._use_lifo = use_lifo
        self._keep: float = pool_size or math.inf
        self._limit: float = math.inf if self._max_overflow < 0 else pool_size + max_overflow
        #: Unused connections, each with the time at which it was given back.
        self._idle: deque[tuple[ConnectionPoolEntry, float]] = deque()
        #: How many of ``_limit`` are taken: by connections, used or not, and attempts to open one.
        self._places = 0
        #: Calls that wait. They get a connection, or None: a place in which to open one.
        self._waiting: deque[asyncio.Future[ConnectionPoolEntry | None]] = deque()
        #: What has begun and ends by itself, above all attempts to connect.
        self._background: set[asyncio.Task[Any]] = set()
        #: The database's name in the configuration, for messages.
        self.database = ""

    # What SQLAlchemy asks of a pool

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except OSError as error:  # asyncpg lets these through as they are
            raise DatabaseUnreachable(
                f"cannot connect to {self.database or 'the database'}: {error or repr(error)}; is "
                "the server up, and are host and port of its URL in DB_URIS right?"
            ) from error

    def _do_get(self) -> ConnectionPoolEntry:
        if self._idle:
            record, returned_at = self._idle.pop() if self._use_lifo else self._idle.popleft()
            return self._checked(record, returned_at)
        if self._places < self._limit:
            self._places += 1
        else:
            handed_over: ConnectionPoolEntry | None = await_only(self._turn())
            if handed_over is not None:
                return self._checked(handed_over, monotonic())
        opened: ConnectionPoolEntry = await_only(self._open())
        return opened

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if record.dbapi_connection is None:  # invalidated: its place is free for a new one
            self._free_place()
        elif (waiter := self._next_waiter()) is not None:
            waiter.set_result(record)
        elif len(self._idle) < self._keep:
            self._idle.append((record, monotonic()))
        else:
            try:
                record.close()
            finally:
                self._free_place()

    def recreate(self) -> CallPool:
        pool = type(self)(
            self._creator,
            pool_size=self._size,
            max_overflow=self._max_overflow,
            timeout=self._timeout,
            use_lifo=self._use_lifo,
            pre_ping=self._pre_ping,
            recycle=self._recycle,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )
        pool.database = self.database
        return pool

    def dispose(self) -> None:
        while self._idle:
            record, _ = self._idle.pop()
            try:
                record.close()
            finally:
                self._free_place()

    # Counts, by the names of QueuePool

    def size(self) -> int:
        return self._size

    def timeout(self) -> float:
        return self._timeout

    def checkedin(self) -> int:
        return len(self._idle)

    def checkedout(self) -> int:
        """Connections in use, and attempts to open one."""
        return self._places - len(self._idle)

    def overflow(self) -> int:
        return self._places - self._size

    def status(self) -> str:
        return (
            f"Pool size: {self._size}  Connections in pool: {self.checkedin()} Current Overflow: "
            f"{self.overflow()} Current Checked out connections: {self.checkedout()}"
        )

    # Waiting

    async def _turn(self) -> ConnectionPoolEntry | None:
        waiter: asyncio.Future[ConnectionPoolEntry | None]
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        patience = self._patience()
        try:
            async with asyncio.timeout(patience):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():  # it came, and we are leaving
                self._hand_back(waiter.result())
            waiter.cancel()
            if isinstance(error, TimeoutError):
                raise PoolTimeout(self._explain(patience)) from None
            raise

    def _patience(self) -> float:
        """Seconds to wait; a little is kept back for the answer to reach the caller in time."""
        deadline = current.get().deadline
        if deadline is None:
            return self._timeout
        remaining = deadline.remaining()
        return max(0.0, min(self._timeout, remaining - min(0.25, max(0.02, remaining * 0.05))))

    def _explain(self, patience: float) -> str:
        waiting = sum(not waiter.done() for waiter in self._waiting)
        own_bound = patience >= self._timeout
        return (
            f"no connection to {self.database or 'the database'} came free within {patience:.2f} s "
            f"({'pool_timeout' if own_bound else 'what the deadline of the call left'}): all "
            f"{self._limit:g} are taken (pool_size {self._size}, max_overflow "
            f"{self._max_overflow}), and {waiting} more calls wait. Raise these in "
            "DB_ENGINE_OPTIONS, commit or roll back before slow work so that connections go back "
            "sooner, or lower max_workers"
        )

    def _next_waiter(self) -> asyncio.Future[ConnectionPoolEntry | None] | None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                return waiter
        return None

    def _free_place(self) -> None:
        """Give the place to the call that waits longest; it opens a connection there."""
        if (waiter := self._next_waiter()) is not None:
            waiter.set_result(None)
        else:
            self._places -= 1

    def _hand_back(self, record: ConnectionPoolEntry | None) -> None:
        """Return outside of SQLAlchemy's greenlet, where nothing can be awaited."""
        if record is None:
            self._free_place()
        elif len(self._idle) < self._keep or any(not waiter.done() for waiter in self._waiting):
            self._do_return_conn(record)
        else:
            self._in_background(greenlet_spawn(self._do_return_conn, record))

    # Opening

    async def _open(self) -> ConnectionPoolEntry:
        """
        Connect in a task of its own, in the place that we hold. If the call is cancelled meanwhile
        the connection is opened all the same, and serves the next one: drivers that are cancelled
        while they connect leave sockets and threads behind.
        """
        task = self._in_background(greenlet_spawn(self._create_connection))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                self._opened_for_nobody(task)
            else:
                task.add_done_callback(self._opened_for_nobody)
                asyncio.get_running_loop().call_later(LINGER, task.cancel)
            raise
        except BaseException:
            self._free_place()
            raise

    def _opened_for_nobody(self, task: asyncio.Task[ConnectionPoolEntry]) -> None:
        if task.cancelled():
            self._free_place()
        elif (error := task.exception()) is not None:
            log.debug("connecting to %s failed: %r", self.database, error)
            self._free_place()
        else:
            record = task.result()
            record.fresh = False  # type: ignore[attr-defined]  # who gets it may get it late
            self._hand_back(record)

    def _in_background(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def settle(self, within: float) -> None:
        """Wait for what goes on in the background, *within* seconds; then end it."""
        if self._background:
            _, late = await asyncio.wait(self._background, timeout=within)
            for task in late:
                task.cancel()

    # Closing

    def _close_connection(self, connection: DBAPIConnection, *, terminate: bool = False) -> None:
        if terminate and in_greenlet():
            await_only(self._terminate(connection))
        else:
            super()._close_connection(connection, terminate=terminate)

    async def _terminate(self, connection: DBAPIConnection) -> None:
        """
        Close a connection that a cancelled call leaves in the middle of something. First politely,
        so that the server ends what it does; but some drivers wait for it without a bound.
        """
        driver_connection = self._dialect.get_driver_connection(connection)
        if driver_of(driver_connection) == "aiosqlite":
            # Its thread runs to the end of the statement, and never ends if it is stopped twice. So
            # it is left to itself where we are cancelled.
            await asyncio.shield(self._in_background(self._end_sqlite(connection)))
            return
        try:
            async with asyncio.timeout(TERMINATE):
                if (statement := broken_off(driver_connection)) is not None:
                    await asyncio.shield(self._in_background(self._kill(statement)))
                await greenlet_spawn(super()._close_connection, connection, terminate=True)
        except TimeoutError:
            log.debug("%s: a connection did not close in %g s", self.database, TERMINATE)

    async def _end_sqlite(self, connection: DBAPIConnection) -> None:
        """A connection closed with a cursor alive would keep its transaction, and the lock."""
        try:
            await roll_back_interrupted(self._dialect.get_driver_connection(connection))
        finally:  # its thread would keep the process from ending
            await greenlet_spawn(super()._close_connection, connection, terminate=True)

    async def _kill(self, statement: Statement) -> None:
        """End it at the server, which goes on with it, and keeps its locks, when we are gone."""
        try:
            async with asyncio.timeout(TERMINATE):
                await greenlet_spawn(self._kill_by_another, statement)
        except Exception as exc:  # noqa: BLE001 - the server may be gone, or full
            log.debug("%s: a statement was not ended at the server: %r", self.database, exc)

    def _kill_by_another(self, statement: Statement) -> None:
        # None: it belongs to no entry of this pool.
        connection = self._invoke_creator(None)  # type: ignore[arg-type]
        try:
            kill(connection, statement)
        finally:
            super()._close_connection(connection, terminate=True)

    # Liveness

    def _checked(self, record: ConnectionPoolEntry, returned_at: float) -> ConnectionPoolEntry:
        """Spare it the ping if it was used a moment ago and looks alive."""
        if (
            self._pre_ping
            and monotonic() - returned_at < PING_AFTER
            and looks_alive(record.driver_connection)
        ):
            # SQLAlchemy does not ping a connection that was just opened.
            record.fresh = True  # type: ignore[attr-defined]
        return record
