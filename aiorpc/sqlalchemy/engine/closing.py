"""
Closes connections on which a cancelled call left an unfinished statement.

Awaits the database server, at most ``TERMINATE`` seconds for each step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from ...logs import logger
from .drivers import Statement, driver_of, kill, roll_back_interrupted, unfinished_statement

__all__ = ["InterruptiblePool"]

log = logger("aiorpc.sqlalchemy")

T = TypeVar("T")

#: Seconds to close a dropped connection, and seconds to end its statement at the server.
TERMINATE = 2.5


class InterruptiblePool(AsyncAdaptedQueuePool):
    """A pool that closes a connection during a statement in at most ``2 * TERMINATE`` seconds."""

    # SQLAlchemy names a pool's logger by its module. The loggers of `aiorpc` often have level INFO,
    # and would show lines such as "Pool recreating".
    _sqla_logger_namespace = "sqlalchemy.pool.aiorpc"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: The database's key in ``DB_URIS``, for log lines and errors.
        self.database = ""
        #: Background tasks that connect or end statements. No call waits for these tasks.
        self._background: set[asyncio.Task[Any]] = set()

    def _in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def settle(self, within: float) -> None:
        """Wait up to *within* seconds for the background tasks, then cancel the late ones."""
        if self._background:
            _, late = await asyncio.wait(self._background, timeout=within)
            for task in late:
                task.cancel()

    def _close_connection(self, connection: DBAPIConnection, *, terminate: bool = False) -> None:
        if terminate and in_greenlet():
            await_only(self._terminate(connection))
        else:
            super()._close_connection(connection, terminate=terminate)

    async def _terminate(self, connection: DBAPIConnection) -> None:
        """
        Close *connection*, during a statement too. The driver first asks the server to end the
        statement. SQLAlchemy 2.1 waits for the server's answer without a limit.
        """
        driver_connection = self._dialect.get_driver_connection(connection)
        if driver_of(driver_connection) == "aiosqlite":
            # aiosqlite's thread finishes the statement. A second stop would keep the thread alive
            # for ever, so a cancellation leaves this task in the background.
            await asyncio.shield(self._in_background(self._end_sqlite(connection)))
            return
        try:
            async with asyncio.timeout(TERMINATE):
                if (statement := unfinished_statement(driver_connection)) is not None:
                    await asyncio.shield(self._in_background(self._kill(statement)))
                await greenlet_spawn(super()._close_connection, connection, terminate=True)
        except TimeoutError:
            log.debug("%s: a connection did not close within %g s", self.database, TERMINATE)

    async def _end_sqlite(self, connection: DBAPIConnection) -> None:
        """Roll back, then close: close() alone keeps the lock while a cursor lives."""
        try:
            await roll_back_interrupted(self._dialect.get_driver_connection(connection))
        finally:  # the connection's thread blocks the end of the process
            await greenlet_spawn(super()._close_connection, connection, terminate=True)

    async def _kill(self, statement: Statement) -> None:
        """End *statement* at the server, which would otherwise continue and keep its locks."""
        try:
            async with asyncio.timeout(TERMINATE):
                await greenlet_spawn(self._kill_by_another, statement)
        except Exception as exc:  # noqa: BLE001 - the server may be down or full
            log.debug("%s: could not end a statement at the server: %r", self.database, exc)

    def _kill_by_another(self, statement: Statement) -> None:
        # None: no entry of this pool holds the connection.
        connection = self._invoke_creator(None)  # type: ignore[arg-type]
        try:
            kill(connection, statement)
        finally:
            super()._close_connection(connection, terminate=True)
