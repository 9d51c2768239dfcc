"""
Calls that end early, by their deadline or because their caller cancelled them, leave nothing
behind: no connection out of the pool, no open transaction on the server. On all three databases.

AIORPC_CANCELLED_CALLS=2000 sets the number of calls; -s prints the figures.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import random
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import bindparam, event, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiorpc import ClusterRpcProxy, RemoteError, RpcTimeout, ServiceContainer, rpc
from aiorpc.call import Call
from aiorpc.context import current
from aiorpc.extensions import Ending, Outcome, Submission, entrypoints_of
from aiorpc.sqlalchemy import DatabaseSession
from tests.support.waiting import eventually

CALLS = int(os.environ.get("AIORPC_CANCELLED_CALLS", "120"))
IN_FLIGHT = 40
APPLICATION = f"aiorpc-{os.getpid()}"
#: The ids that MariaDB gave to our connections.
MYSQL_IDS: list[int] = []
PHASES = ("connecting", "executing", "committing")
#: Not every call has to connect.
FATES = ("connecting", "connecting", "connecting", "executing", "committing")


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = f"aiorpc_cancelled_{os.getpid()}"  # other test runs may use the same server

    id: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[int]


class Victims:
    """The calls to cancel in a certain phase, and the phase in which each was."""

    def __init__(self) -> None:
        self.phase: dict[int, str] = {}
        self.doomed: dict[int, tuple[str, Submission]] = {}
        self.by_id: dict[str, int] = {}
        self.cancelled: Counter[str] = Counter()
        self.committed: set[int] = set()

    def running(self) -> int | None:
        """The number of the call in whose context we are."""
        ids = current.get().call_id_stack
        return self.by_id.get(ids[-1]) if ids else None

    def entered(self, phase: str) -> None:
        """The running call enters *phase*; if it is to be cancelled there, cancel it soon."""
        number = self.running()
        if number is None:
            return
        self.phase[number] = phase
        if number in self.doomed and self.doomed[number][0] == phase:
            _, submission = self.doomed.pop(number)
            loop = asyncio.get_running_loop()
            loop.call_later(random.choice((0.0, 0.0, 0.001, 0.003)), submission.cancel)


class Kind:
    """What differs between the three databases."""

    def __init__(self, url: str, driver: str, slow: str, open_transactions: Any) -> None:
        self.url = url
        self.driver = driver
        #: A statement of some milliseconds.
        self.slow = slow
        self.open_transactions: Callable[[AsyncEngine], Awaitable[int]] = open_transactions


async def _postgresql_transactions(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return await connection.scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name "
                "AND pid <> pg_backend_pid() AND state <> 'idle'"
            ),
            {"name": APPLICATION},
        )


async def _mysql_transactions(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return await connection.scalar(
            text(
                "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id "
                "<> connection_id() AND trx_mysql_thread_id IN :ids"
            ).bindparams(bindparam("ids", expanding=True)),
            {"ids": MYSQL_IDS},
        )


async def _sqlite_transactions(engine: AsyncEngine) -> int:
    connection = sqlite3.connect(engine.url.database or "", timeout=0)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return 1
    finally:
        connection.close()
    return 0


@pytest.fixture
def kind(database_url: str) -> Kind:
    if database_url.startswith("postgres"):
        url = f"{database_url}{'&' if '?' in database_url else '?'}application_name={APPLICATION}"
        return Kind(url, "asyncpg", "SELECT pg_sleep(0.02)", _postgresql_transactions)
    if database_url.startswith("mysql"):
        return Kind(database_url, "aiomysql", "SELECT SLEEP(0.02)", _mysql_transactions)
    slow = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 10000) "
        "SELECT count(*) FROM c"
    )
    # Forty writers queue for one file, and SQLite does not serve them in their order.
    return Kind(f"{database_url}?timeout=60", "aiosqlite", slow, _sqlite_transactions)


def service(kind: Kind, victims: Victims) -> type:
    connect = importlib.import_module(kind.driver).connect

    async def noted_connect(*args: Any, **kwargs: Any) -> Any:
        victims.entered("connecting")
        connection = connect(*args, **kwargs)
        if kind.driver == "aiosqlite":
            getattr(connection, "_thread", connection).daemon = True
        connection = await connection
        if kind.driver == "aiomysql":
            MYSQL_IDS.append(connection.thread_id())
        victims.entered("executing")
        return connection

    class Cancelling:
        name = f"cancelling_{uuid.uuid4().hex[:8]}"
        db = DatabaseSession(
            Base,
            engine_options={
                "pool_size": 3,
                # SQLite lets one write at a time, and the others try again and again.
                "max_overflow": 2 if kind.driver == "aiosqlite" else 12,
                "connect_args": {"async_creator_fn": noted_connect},
            },
        )

        @rpc
        async def work(self, number: int) -> None:
            victims.by_id[current.get().call_id_stack[-1]] = number
            victims.phase[number] = "executing"
            try:
                await self.db.execute(text("SELECT 1"))
                victims.entered("executing")
                await self.db.execute(text(kind.slow))
                await self.db.execute(insert(Entry).values(run=number))
                await self.db.commit()
            except asyncio.CancelledError:
                victims.cancelled[victims.phase[number]] += 1
                raise

        @rpc
        async def count(self) -> int:
            return await self.db.scalar(select(func.count()).select_from(Entry)) or 0

    return Cancelling


class Run:
    """Starts calls until enough of them were cancelled, in every phase."""

    def __init__(self, container: ServiceContainer, victims: Victims, cluster: Any) -> None:
        self.container = container
        self.victims = victims
        self.cluster = cluster
        self.entrypoint = next(
            one for one in entrypoints_of(container.service_cls) if one.method_name == "work"
        )
        self.endings: Counter[Ending] = Counter()
        self.started = 0
        self.waited_in_vain = 0

    def enough(self) -> bool:
        cancelled = self.victims.cancelled
        return cancelled.total() >= CALLS and all(
            cancelled[phase] >= CALLS / 10 for phase in PHASES
        )

    async def until_enough(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(self._fire())

    async def _fire(self) -> None:
        while not self.enough():
            self.started += 1
            if random.random() < 0.3:
                await self._call_with_deadline(self.started)
            else:
                await self._call_and_cancel(self.started, random.choice(FATES))

    async def _call_with_deadline(self, number: int) -> None:
        service = self.cluster[self.container.service_name]
        try:
            await service.work.with_options(timeout=random.uniform(0.002, 0.06))(number)
        except RpcTimeout:
            pass
        except RemoteError as error:
            if error.exc_type != "PoolTimeout":
                raise
            self.waited_in_vain += 1

    async def _call_and_cancel(self, number: int, phase: str) -> None:
        settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        call = Call(self.container.service_name, "work", (number,))
        submission = self.container.submit(self.entrypoint, call, settled.set_result)
        self.victims.doomed[number] = (phase, submission)
        outcome = await settled
        self.victims.doomed.pop(number, None)
        self.endings[outcome.ending] += 1
        assert outcome.ending in (Ending.CANCELLED, Ending.RETURNED), outcome.error


@pytest.mark.timeout(60 + CALLS / 5)
async def test_cancelled_calls_leave_nothing_behind(kind: Kind) -> None:
    victims = Victims()
    service_cls = service(kind, victims)
    config = {
        "AMQP_URI": f"memory://{uuid.uuid4().hex}",
        "DB_URIS": {f"{service_cls.name}:Base": kind.url},
    }
    began = time.monotonic()
    async with ServiceContainer(service_cls, config) as container, ClusterRpcProxy(config) as it:
        engine: AsyncEngine = container.providers[0].engine
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)

        @event.listens_for(engine.sync_engine, "commit")
        def committing(connection: Any) -> None:
            victims.entered("committing")
            if (number := victims.running()) is not None:
                victims.committed.add(number)

        run = Run(container, victims, it)
        await run.until_enough()
        await eventually(lambda: container.running == 0)
        await engine.pool.settle(5)

        rows = await it[container.service_name].count()
        checked_out = engine.pool.checkedout()
        left_open = await _settled(kind, engine)
        gc.collect()
        print(
            f"\n{kind.driver}: {victims.cancelled.total()} of {run.started} calls were cancelled "
            f"in {time.monotonic() - began:.1f} s: {dict(victims.cancelled)}; {rows} rows "
            f"({len(victims.committed)} commits begun); {run.waited_in_vain} waited in vain for a "
            f"connection; checked out {checked_out}; "
            f"open transactions {left_open}; {engine.pool.status()}"
        )
        assert run.enough()
        assert checked_out == 0
        assert left_open == 0
        # A commit that was begun is finished, and nothing else is committed.
        assert rows == len(victims.committed)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)


async def _settled(kind: Kind, engine: AsyncEngine) -> int:
    """A server notices a connection that went away when its statement has ended."""
    left_open = 0

    async def none_is_open() -> bool:
        nonlocal left_open
        left_open = await kind.open_transactions(engine)
        return not left_open

    with suppress(TimeoutError):
        await eventually(none_is_open, 5)
    return left_open
