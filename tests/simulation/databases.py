"""The databases of one run: their files, their faults, and what they hold when all is at rest."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bank import DATABASES, HANDLERS, TABLES, create
from .database import Connection, Database
from .faults import KINDS_OF_DATABASES, Fault
from .loop import Process

if TYPE_CHECKING:
    from .world import World

__all__ = ["Databases", "faults_of_databases", "has_databases"]

#: The share of the runs that have databases: they take longer than the others.
SHARE = 0.2
#: Statements, commits and acks at which a connection may be lost, or which may be slow.
FRAMES = {"statement": 150, "commit": 60, "ack": 30}


def has_databases(seed: object) -> bool:
    """Whether the services of *seed* have databases."""
    return random.Random(f"with databases {seed}").random() < SHARE


def faults_of_databases(seed: object, names: Sequence[str], seconds: float) -> list[Fault]:
    """Return the faults of *seed* at the databases of the services *names*, within *seconds*."""
    draw = random.Random(f"faults of databases {seed}").random
    kinds = (*KINDS_OF_DATABASES, "lost", "lost", "replay", "crash at", "cut at", "nack", "crash")
    books = [name for name in names if name.startswith("books")]
    faults = []
    for _ in range(int(draw() * 10)):
        kind = kinds[int(draw() * len(kinds))]
        chance = draw(), draw()
        if kind in ("nack", "crash"):
            where, at, frame, when = names[int(draw() * len(names))], 1.0 + draw() * seconds, "", ""
        elif kind in ("crash at", "cut at"):
            where, frame, when = books[int(draw() * len(books))], "ack", "before"
            at = float(1 + int(draw() * FRAMES["ack"]))
        elif kind == "replay":
            where, at, frame, when = "books", 1.0 + draw() * seconds, "", ""
        elif kind.startswith("database"):
            where, at, frame, when = (
                DATABASES[int(draw() * len(DATABASES))],
                draw() * seconds,
                "",
                "",
            )
        else:
            where, when = names[int(draw() * len(names))], ("before", "after")[int(draw() * 2)]
            frame = ("statement", "commit")[int(draw() * 2)]
            at = float(1 + int(draw() * FRAMES[frame]))
        faults.append(Fault(kind, at, where, draw() ** 2 * 4.0, frame, when, chance))
    return faults


class Databases:
    """The databases of *world*: what its services connect to, and what sees their statements."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._folder = tempfile.TemporaryDirectory()
        self.by_name: dict[str, Database] = {}
        for name in DATABASES:
            path = Path(self._folder.name, f"{name}.db")
            create(path)
            server = Process(world.loop, f"{name}.db")
            self.by_name[name] = Database(world.loop, server, path, world.seed, self, TABLES)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the services."""
        return {
            "DB_URIS": {f"{name}:Base": f"sqlite:///{name}.db" for name in DATABASES},
            "DB_ENGINE_OPTIONS": {"connect_args": {"async_creator_fn": self._connect}},
        }

    async def _connect(self, path: str, **_: Any) -> Connection:
        return await self.by_name[Path(path).stem].connect()

    @property
    def mute(self) -> bool:
        """Whether a database does not answer now."""
        return any(database.mute for database in self.by_name.values())

    # --- what the databases tell

    def stating(self, process: Process, kind: str) -> tuple[str, float] | None:
        fault = self._world.faults.at(process.name, kind)
        if fault is None:
            return None
        self._world.faults.strike(fault)
        return ("slow", fault.seconds) if fault.kind == "slow statement" else (fault.when, 0.0)

    def inserted(self, connection: Connection, table: str, row: Sequence[Any]) -> None:
        self._world.ledger.accounts.inserted(table, row)

    def ended(self, rows: Sequence[tuple[str, Sequence[Any]]], *, committed: bool) -> None:
        self._world.ledger.accounts.ended(rows, committed=committed)

    # --- faults

    def strike(self, fault: Fault) -> None:
        """Strike a database with *fault*, or publish messages again that it has handled."""
        if fault.kind == "replay":
            self._world.replay(HANDLERS.values(), 1 + int(fault.chance[0] * 6))
            return
        self._world.ledger.trouble(fault.kind, fault.where, fault.seconds + 0.5)
        database = self.by_name.get(fault.where)
        if database is None:  # a fault of one statement
            return
        if fault.kind == "database gone":
            database.go(fault.seconds)
        elif fault.kind == "database mute":
            database.mute_for(fault.seconds)
        else:
            database.slow_for(fault.seconds, 5 + 100 * fault.chance[0])

    def crashed(self, process: Process) -> None:
        for database in self.by_name.values():
            database.crashed(process)

    # --- the end

    async def check_rest(self) -> None:
        """
        Check that no transaction is open, at some moment while old rows are deleted now and then.
        Check that the files have what was committed.
        """
        for _ in range(100):
            if not (open_ := self._open()):
                break
            await asyncio.sleep(0.03)
        for each in open_:
            self._world.ledger.violated("not at rest", each)
        for database in self.by_name.values():
            for table in TABLES:
                self._check_table(database, table)
            with closing(sqlite3.connect(database.path)) as connection:
                (left,) = connection.execute("SELECT count(*) FROM aiorpc_outbox").fetchone()
            if left:
                text = f"the outbox of {database.name} has {left} rows"
                self._world.ledger.violated("not at rest", text)

    def _open(self) -> list[str]:
        return [
            f"{process} has a transaction in {database.name}"
            for database in self.by_name.values()
            for process, connections in database.connections.items()
            for connection in connections
            if connection.in_transaction
        ]

    def _check_table(self, database: Database, table: str) -> None:
        seen = self._world.ledger.accounts.rows
        with closing(sqlite3.connect(database.path)) as connection:
            rows = connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
        for row in rows:
            if not seen[(table, *row[1:])]:
                self._world.ledger.violated("simulator", f"{table} has {row}, which nobody saw")

    def left(self, process: Process) -> list[str]:
        """What the stopped *process* holds."""
        return [
            f"a connection to {database.name}"
            for database in self.by_name.values()
            for _ in database.connections.get(process, ())
            if not database.mute
        ]

    def close(self) -> None:
        for database in self.by_name.values():
            database.close()
        self._folder.cleanup()
