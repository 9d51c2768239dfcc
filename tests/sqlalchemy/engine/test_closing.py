"""Connections closed in the middle of a statement: what the database keeps of it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
from sqlalchemy import func, insert, make_url, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import greenlet_spawn

from aiorpc import RemoteError, RpcTimeout, rpc
from aiorpc.sqlalchemy import Database, DatabaseSession, configured, open_engine
from aiorpc.sqlalchemy.engine.drivers import Statement, kill
from tests.support.databases import Author, Base, FirstBase, all_returned, running
from tests.support.forwarder import Forwarder

#: A statement of many seconds.
SLOW = {
    "sqlite": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT count(*) FROM c",
    "postgresql": "SELECT pg_sleep(20)",
    "mysql": "SELECT SLEEP(20)",
}


class Writing:
    name = "writing"
    db = DatabaseSession(Base)

    @rpc
    async def set_up(self) -> None:
        self.db.add(Author(name="Austen"))
        await self.db.commit()

    @rpc
    async def write_then_wait(self, patience: float | None = None) -> None:
        """It holds a lock while it waits."""
        await self.db.execute(insert(Author).values(name="Mallory"))
        (await self.db.get_one(Author, 1)).name = "Jane"
        await self.db.flush()
        async with asyncio.timeout(patience):
            await self.db.execute(text(SLOW[self.db.get_bind().dialect.name]))

    @rpc
    async def write(self, name: str) -> int:
        (await self.db.get_one(Author, 1)).name = name
        await self.db.commit()
        return await self.db.scalar(select(func.count()).select_from(Author)) or 0


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """A collection would close the connections that the code under test leaves open."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
async def test_a_cancelled_statement_leaves_no_lock(database_url: str) -> None:
    async with running(Writing, database_url) as (proxy, container):
        await proxy.set_up()
        for number in range(3):
            with pytest.raises(RpcTimeout):
                await proxy.write_then_wait.with_options(timeout=0.3)()
            await all_returned(container, 3)
            assert await proxy.write.with_options(timeout=3)(f"after {number}") == 1
            with pytest.raises(RemoteError, match="TimeoutError"):
                await proxy.write_then_wait(0.2)
            assert await proxy.write.with_options(timeout=3)(f"after {number} too") == 1


@pytest.mark.usefixtures("no_garbage_collection")
async def test_a_cancelled_statement_in_memory_leaves_no_lock() -> None:
    class InMemory(Writing):
        name = "in_memory"

        @rpc
        async def make_tables(self) -> None:
            await (await self.db.connection()).run_sync(Base.metadata.create_all)
            await self.db.commit()

    async with running(InMemory, "sqlite://") as (proxy, container):
        await proxy.make_tables()
        await proxy.set_up()
        with pytest.raises(RpcTimeout):
            await proxy.write_then_wait.with_options(timeout=0.3)()
        await all_returned(container, 3)
        assert await proxy.write.with_options(timeout=3)("after") == 1


async def test_a_statement_is_not_killed_on_another_server_of_the_same_address(
    mysql_uri: str,
) -> None:
    database = configured({"DB_URI": mysql_uri}, "tests", Base)
    async with (
        open_engine(database) as engine,
        engine.connect() as victim,
        engine.connect() as other,
    ):
        name = (await victim.execute(text("SELECT @@hostname, @@port"))).one()
        thread_id = await victim.scalar(text("SELECT CONNECTION_ID()"))
        by_another = (await other.get_raw_connection()).dbapi_connection
        await greenlet_spawn(kill, by_another, Statement(("elsewhere", 1), thread_id))
        assert await victim.scalar(select(1)) == 1
        await greenlet_spawn(kill, by_another, Statement(tuple(name), thread_id))
        with pytest.raises(DBAPIError):
            await victim.scalar(select(1))


class Several:
    """Each method leaves two sessions to close, and a network that swallows every byte."""

    name = "several"
    a = DatabaseSession(Base)
    b = DatabaseSession(FirstBase)
    first = DatabaseSession(Base, commit=True)
    second = DatabaseSession(FirstBase, commit=True)
    database = Database(Base)
    hole: Forwarder

    @rpc
    async def roll_back(self) -> None:
        await self.a.execute(select(1))
        await self.b.execute(select(1))
        self.hole.open.clear()

    @rpc
    async def commit(self) -> None:
        await self.first.execute(select(1))
        await self.second.execute(select(1))
        self.hole.open.clear()

    @rpc
    async def end_blocks(self) -> None:
        async with self.database.get_session(close_on_exit=False) as session:
            await session.execute(select(1))
        await session.execute(select(1))
        await self.database.session.execute(select(1))
        self.hole.open.clear()


@pytest.mark.parametrize("method", ["roll_back", "commit", "end_blocks"])
async def test_closing_is_bounded_for_every_session_of_a_call(
    server_url: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiorpc.sqlalchemy.engine.closing.TERMINATE", 0.2)
    loop = asyncio.get_running_loop()
    url = make_url(server_url)
    Several.hole = hole = Forwarder(url)
    async with hole.running() as port:
        through = url.set(port=port).render_as_string(hide_password=False)
        bounds = {"CLEANUP_TIMEOUT": 0.3, "SHUTDOWN_TIMEOUT": 1}
        async with running(Several, through, **bounds) as (proxy, container):
            began = loop.time()
            with pytest.raises(RemoteError, match=r"did not close within 0\.3 s"):
                await getattr(proxy, method).with_options(timeout=8)()
            assert loop.time() - began < 4
            await all_returned(container, 4)
            hole.open.set()
