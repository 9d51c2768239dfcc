"""
The databases of a run: sqlite3 in this thread, and a driver that waits in virtual time. To
SQLAlchemy, the driver is aiosqlite. Knows the faults of databases, and nothing of aiorpc.

A statement takes time to the server and back. The server carries it out at once, or waits in
virtual time while another connection has the lock. A connection may be lost before or after a
statement or a COMMIT was carried out. What was not committed then is rolled back.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .loop import PROCESS, Process, SimulationLoop

__all__ = ["Connection", "Database", "Watcher"]

#: Seconds for which a statement waits for the lock.
LOCK_TIMEOUT = 5.0
#: SQLAlchemy knows by this text that a connection is lost.
_LOST = "connection closed: the server is gone"


class Watcher(Protocol):
    """Sees what happens in the databases, and has their faults."""

    def stating(self, process: Process, kind: str) -> tuple[str, float] | None:
        """
        A process sends a statement. Return a fault: the connection is lost ``"before"`` or
        ``"after"`` it was carried out, or it is ``"slow"`` by so many seconds.
        """
        ...

    def inserted(self, connection: Connection, table: str, row: Sequence[Any]) -> None:
        """A watched table got *row*, which is not committed yet."""
        ...

    def ended(self, rows: Sequence[tuple[str, Sequence[Any]]], *, committed: bool) -> None:
        """The rows of a transaction were committed or rolled back."""
        ...


@dataclass(eq=False)
class _Work:
    """Something that the server of a connection has to do."""

    kind: str
    function: Callable[[], Any]
    future: asyncio.Future[Any]
    #: When it began, perhaps to wait for the lock.
    since: float = 0.0
    slow: float = 0.0
    lose: str = ""
    done: bool = False


class Database:
    """
    A server with one database, in the file *path*.

    Args:
        server: the process that carries out the statements.
        tables: the tables whose new rows *watcher* sees.

    Attributes:
        connections: the open connections of each process.
        waiting: what waits for the lock, in order. SQLite would not keep the order: it looks again
            and again, and who waits for long looks seldom. Other databases keep it.
        factor: by how much statements take longer.
    """

    def __init__(
        self,
        loop: SimulationLoop,
        server: Process,
        path: Path,
        seed: object,
        watcher: Watcher,
        tables: Sequence[str] = (),
    ) -> None:
        self.loop = loop
        self.server = server
        self.path = path
        self.name = path.stem
        self.watcher = watcher
        self.random = random.Random(f"database {path.stem} {seed}").random
        self.heads = {f"INSERT INTO {table} ": table for table in tables}
        self.connections: dict[Process, list[Connection]] = {}
        self.waiting: dict[_Work, Connection] = {}
        self.factor = 1.0
        self._gone_until = self._mute_until = 0.0

    def delay(self) -> float:
        """Seconds to the server, or back: mostly short, sometimes long."""
        chance = self.random()
        seconds = 0.0001 + 0.0004 * chance
        if chance > 0.97:
            seconds = 0.02 * self.random()
        return seconds * self.factor

    async def connect(self) -> Connection:
        """
        Connect the current process.

        Raises:
            ConnectionRefusedError: the server is gone.
        """
        process = PROCESS.get()
        await asyncio.sleep(2 * self.delay())
        now = self.loop.time()
        if self.mute:
            await asyncio.sleep(self._mute_until - now)
            raise ConnectionResetError(f"the server of {self.name} does not answer")
        if now < self._gone_until:
            raise ConnectionRefusedError(f"the server of {self.name} is gone")
        connection = Connection(self, process)
        self.connections.setdefault(process, []).append(connection)
        return connection

    # --- faults

    @property
    def mute(self) -> bool:
        return self.loop.time() < self._mute_until

    def go(self, seconds: float) -> None:
        """Lose all connections, and refuse new ones for *seconds*."""
        self._gone_until = self.loop.time() + seconds
        for connection in self._all():
            connection.lose(carry_out=self.random() < 0.5)

    def mute_for(self, seconds: float) -> None:
        """Answer nothing for *seconds*, then lose all connections."""
        if not self.mute:
            self._mute_until = self.loop.time() + seconds
            self.loop.later(seconds, self._unmute)

    def _unmute(self) -> None:
        for connection in self._all():
            connection.lose(carry_out=self.random() < 0.5)

    def slow_for(self, seconds: float, factor: float) -> None:
        self.factor = factor
        self.loop.later(seconds, self._quick)

    def _quick(self) -> None:
        self.factor = 1.0

    def crashed(self, process: Process) -> None:
        """Lose the connections of *process*, some time later."""
        for connection in self.connections.get(process, ()):
            seconds = 0.5 * self.random() ** 4
            self.loop.later(seconds, connection.lose, self.random() < 0.5)

    def _all(self) -> list[Connection]:
        return [each for several in self.connections.values() for each in several]

    def close(self) -> None:
        """Close all connections at the end of a run."""
        for connection in self._all():
            connection.end()

    def waits_to_commit(self, but: Connection) -> bool:
        """Whether a connection other than *but* waits until nobody reads, to commit."""
        return any(each is not but and work.kind == "commit" for work, each in self.waiting.items())

    def serve(self) -> None:
        """Carry out what waited for a lock that is free now."""
        progress = bool(self.waiting) and not self.mute
        while progress:
            progress = False
            for work, connection in list(self.waiting.items()):
                progress = connection.attempt(work) or progress


class Connection:
    """What aiosqlite's connection is to SQLAlchemy and to aiorpc."""

    __module__ = "aiosqlite.core"  # aiorpc knows drivers by their module

    def __init__(self, database: Database, process: Process) -> None:
        self.database = database
        self.process = process
        self._sqlite = sqlite3.connect(database.path, timeout=0, check_same_thread=False)
        self._sqlite.executescript("PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF")
        #: What SQLAlchemy looks at to know whether it has closed this connection.
        self._connection: sqlite3.Connection | None = self._sqlite
        self._work: deque[_Work] = deque()
        self._lost = False
        #: New rows that are not committed, and how many there were at each savepoint.
        self._rows: list[tuple[str, Sequence[Any]]] = []
        self._savepoints: dict[str, int] = {}

    # --- in the process

    @property
    def in_transaction(self) -> bool:
        return not self._lost and self._sqlite.in_transaction

    @property
    def isolation_level(self) -> str | None:
        return self._sqlite.isolation_level

    def cursor(self) -> Cursor:
        return Cursor(self)

    async def create_function(self, *args: Any, **options: Any) -> None:
        self._sqlite.create_function(*args, **options)

    async def commit(self) -> None:
        await self.run("commit", self._sqlite.commit)

    async def rollback(self) -> None:
        await self.run("rollback", self._sqlite.rollback)

    async def interrupt(self) -> None:
        """End the wait for the lock."""
        if self._work and self._work[0] in self.database.waiting:
            self._work[0].since = float("-inf")
            self._soon(self._carry_out, self._work[0])

    async def close(self) -> None:
        self._connection = None
        if not self._lost:
            await self.run("close", self.end)

    def stop(self) -> None:
        """Close at once, without waiting."""
        self._connection = None
        self.lose(carry_out=False)

    async def run(self, kind: str, function: Callable[[], Any]) -> Any:
        """
        Return what *function* does at the server. A cancelled caller does not stop it.

        Raises:
            sqlite3.Error: the statement failed, or the connection is lost.
        """
        loop = self.database.loop
        if self._lost:
            raise sqlite3.OperationalError(_LOST)
        work = _Work(kind, function, loop.create_future())
        self._work.append(work)
        if len(self._work) == 1:
            self._send(work)
        return await work.future

    def _send(self, work: _Work) -> None:
        database = self.database
        now = database.loop.time()
        fault = database.watcher.stating(self.process, work.kind)
        if fault is not None:
            work.lose, work.slow = fault
        work.since = now + work.slow
        database.loop.call_at(
            work.since + database.delay(), self._carry_out, work, context=database.server.context
        )

    def _answer(self, work: _Work, result: Any, error: Exception | None) -> None:
        if self._work and self._work[0] is work:
            self._work.popleft()
            if self._work:
                self._send(self._work[0])
        if work.future.done():
            return
        if error is None:
            work.future.set_result(result)
        else:
            work.future.set_exception(error)

    # --- at the server

    def _soon(self, function: Callable[..., object], *args: Any, seconds: float = 0.0) -> None:
        loop, server = self.database.loop, self.database.server
        loop.call_at(loop.time() + seconds, function, *args, context=server.context)

    def _carry_out(self, work: _Work) -> None:
        if self._lost or work.done or self.database.mute:  # it loses its connections
            return
        if work.lose == "before":
            self.lose(carry_out=False)
        elif self.attempt(work):
            self.database.serve()

    def attempt(self, work: _Work) -> bool:
        """Carry out *work*, unless another connection has the lock. Return whether it was."""
        database = self.database
        result, error = None, None
        try:
            result = work.function()
        except sqlite3.Error as exc:
            if self._waits(exc, work):
                return False
            error = exc
        work.done = True
        database.waiting.pop(work, None)
        self._note(work.kind)
        if work.lose == "after":
            self.lose(carry_out=False)
            return True
        when = database.loop.time() + database.delay()
        database.loop.call_at(when, self._answer, work, result, error, context=self.process.context)
        return True

    def _waits(self, error: sqlite3.Error, work: _Work) -> bool:
        """Whether *work* failed because of the lock, and is carried out later."""
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_BUSY:
            return False
        now = self.database.loop.time()
        # SQLite lets a reader fail at once that wants to write while a writer waits for readers.
        deadlock = work.kind != "commit" and self.database.waits_to_commit(self)
        if now > work.since + LOCK_TIMEOUT or (deadlock and self._sqlite.in_transaction):
            return False
        if work not in self.database.waiting:
            self.database.waiting[work] = self
            self._soon(self._carry_out, work, seconds=LOCK_TIMEOUT + 0.001)
        return True

    def _note(self, kind: str) -> None:
        """Report rows that were committed or rolled back."""
        if self._rows and not self._lost and not self._sqlite.in_transaction:
            self._ended(committed=kind != "rollback")

    def _ended(self, *, committed: bool) -> None:
        rows, self._rows = self._rows, []
        self._savepoints.clear()
        self.database.watcher.ended(rows, committed=committed)

    def execute(
        self, sql: str, parameters: Sequence[Any]
    ) -> tuple[Any, list[Any], int, int | None]:
        """Return the description, the rows, the number of rows, and the id of the last row."""
        cursor = self._sqlite.execute(sql, parameters)
        rows = cursor.fetchall() if cursor.description else []
        found = cursor.description, rows, cursor.rowcount, cursor.lastrowid
        cursor.close()
        self._watch(sql, parameters)
        return found

    def executemany(
        self, sql: str, rows: Sequence[Sequence[Any]]
    ) -> tuple[Any, list[Any], int, Any]:
        cursor = self._sqlite.executemany(sql, rows)
        found = None, list[Any](), cursor.rowcount, cursor.lastrowid
        cursor.close()
        for row in rows:
            self._watch(sql, row)
        return found

    def _watch(self, sql: str, parameters: Sequence[Any]) -> None:
        if sql.startswith("INSERT INTO "):
            for head, table in self.database.heads.items():
                if sql.startswith(head):
                    self._rows.append((table, parameters))
                    self.database.watcher.inserted(self, table, parameters)
        elif sql.startswith("SAVEPOINT "):
            self._savepoints[sql.split()[-1]] = len(self._rows)
        elif sql.startswith("ROLLBACK TO "):
            kept = self._savepoints[sql.split()[-1]]
            rows, self._rows = self._rows[kept:], self._rows[:kept]
            self.database.watcher.ended(rows, committed=False)

    def lose(self, carry_out: bool) -> None:
        """
        Lose the connection. With *carry_out*, the server has read the statement that is on its way,
        and carries it out.
        """
        if self._lost:
            return
        if carry_out and self._work and not self._work[0].done:
            try:
                self._work[0].function()
                self._note(self._work[0].kind)
            except sqlite3.Error:
                pass
        self.end()
        loop, left = self.database.loop, list(self._work)
        self._work.clear()
        when = loop.time() + self.database.delay()
        for work in left:
            error = sqlite3.OperationalError(_LOST)
            loop.call_at(when, self._answer, work, None, error, context=self.process.context)

    def end(self) -> None:
        """Roll back, and close the file."""
        if self._lost:
            return
        if self._sqlite.in_transaction:
            self._sqlite.rollback()
        self._sqlite.close()
        self._lost = True
        if self._rows:
            self._ended(committed=False)
        for work in self._work:
            self.database.waiting.pop(work, None)
        if self.database.waiting:
            self._soon(self.database.serve)
        there = self.database.connections.get(self.process, [])
        if self in there:
            there.remove(self)


@dataclass(eq=False)
class Cursor:
    """What aiosqlite's cursor is to SQLAlchemy. The rows come with the answer."""

    connection: Connection
    arraysize: int = 1
    description: Any = None
    rowcount: int = -1
    lastrowid: int | None = None
    _found: list[Any] = field(default_factory=list)

    async def __aenter__(self) -> Cursor:
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        await self._run(lambda: self.connection.execute(sql, parameters))

    async def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self._run(lambda: self.connection.executemany(sql, rows))

    async def _run(self, function: Callable[[], Any]) -> None:
        found = await self.connection.run("statement", function)
        self.description, self._found, self.rowcount, self.lastrowid = found

    async def fetchall(self) -> list[Any]:
        found, self._found = self._found, []
        return found

    async def close(self) -> None: ...
