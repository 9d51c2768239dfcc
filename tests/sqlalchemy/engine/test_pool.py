"""The pool: the order of calls, connections that die, and calls that get no connection."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import event, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from aiorpc import RemoteError, RpcTimeout, rpc
from aiorpc.context import Context, Deadline, current
from aiorpc.sqlalchemy import (
    CallPool,
    DatabaseSession,
    DatabaseUnreachable,
    PoolTimeout,
    configured,
    open_engine,
)
from tests.support.databases import Base, all_returned, engine_of, running
from tests.support.forwarder import Forwarder
from tests.support.waiting import eventually


@asynccontextmanager
async def engine_with(url: str, **options: Any) -> AsyncIterator[tuple[AsyncEngine, CallPool]]:
    async with open_engine(configured({"DB_URI": url}, "tests", Base, options)) as engine:
        assert isinstance(engine.pool, CallPool)
        yield engine, engine.pool
        assert engine.pool.checkedout() == 0


async def test_the_call_that_waits_longest_is_served_first(sqlite_url: str) -> None:
    served: list[int] = []

    async def work(number: int) -> None:
        async with engine.connect():
            served.append(number)
            await asyncio.sleep(0)

    async with engine_with(sqlite_url, pool_size=1, max_overflow=0) as (engine, pool):
        async with engine.connect():
            waiting = [asyncio.create_task(work(number)) for number in range(5)]
            await eventually(lambda: pool.waiting() == 5)
        # The pool has handed the connection to the first of them when a newcomer asks for it.
        await asyncio.gather(*waiting, work(5))
    assert served == [0, 1, 2, 3, 4, 5]


async def test_connections_beyond_pool_size_are_closed_when_they_return(sqlite_url: str) -> None:
    async with engine_with(sqlite_url, pool_size=2, max_overflow=2) as (engine, pool):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(engine.connect())
            assert (pool.checkedout(), pool.overflow(), pool.checkedin()) == (4, 2, 0)
        assert (pool.checkedout(), pool.overflow(), pool.checkedin()) == (0, 0, 2)
        assert "Connections in pool: 2" in pool.status()
        await engine.dispose()
        assert engine.pool is not pool
        async with engine.connect():
            pass
        assert engine.pool.checkedin() == 1


async def test_pool_size_zero_means_unlimited(sqlite_url: str) -> None:
    async with engine_with(sqlite_url, pool_size=0) as (engine, pool):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(20):
                await stack.enter_async_context(engine.connect())
            assert pool.checkedout() == 20
        assert pool.checkedin() == 20


async def test_a_call_waits_up_to_pool_timeout(sqlite_url: str) -> None:
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.05}
    async with engine_with(sqlite_url, **options) as (engine, _), engine.connect():
        with pytest.raises(
            PoolTimeout, match=r"tests:Base became free within 0.05 s \(pool_timeout"
        ):
            await engine.connect()


@pytest.mark.alone  # milliseconds count
async def test_waiting_ends_a_moment_before_the_deadline_of_the_call(sqlite_url: str) -> None:
    loop = asyncio.get_running_loop()
    async with engine_with(sqlite_url, pool_size=1, max_overflow=0) as (engine, _):
        async with engine.connect():
            began = loop.time()
            token = current.set(Context(deadline=Deadline.after(0.4)))
            with pytest.raises(PoolTimeout, match=r"the deadline of the call") as caught:
                await engine.connect()
            current.reset(token)
        assert 0.3 < loop.time() - began < 0.4
        assert "all 1 are in use (pool_size 1, max_overflow 0)" in str(caught.value)


async def test_a_cancelled_waiter_passes_its_connection_on(sqlite_url: str) -> None:
    async def work() -> None:
        async with engine.connect():
            pass

    async with engine_with(sqlite_url, pool_size=1, max_overflow=0) as (engine, pool):
        async with engine.connect():
            tasks = [asyncio.create_task(work()) for _ in range(3)]
            await eventually(lambda: pool.waiting() == 3)
        # The pool has handed the connection to the first, which is cancelled before it runs.
        tasks[0].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert tasks[0].cancelled()


class SlowConnect:
    """In place of the driver's ``connect``: waits for an event, and fails while ``failing``."""

    def __init__(self) -> None:
        self.connecting = asyncio.Event()
        self.may_connect = asyncio.Event()
        self.failing = False

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import aiosqlite

        self.connecting.set()
        await self.may_connect.wait()
        if self.failing:
            raise ConnectionRefusedError("nobody there")
        connection = aiosqlite.connect(*args, **kwargs)
        getattr(connection, "_thread", connection).daemon = True
        return await connection

    @property
    def options(self) -> dict[str, Any]:
        return {"connect_args": {"async_creator_fn": self}}


async def test_a_connection_opened_for_a_cancelled_call_serves_the_next_one(
    sqlite_url: str,
) -> None:
    connect = SlowConnect()
    connects: list[Any] = []
    options = {**connect.options, "pool_size": 1, "max_overflow": 0}
    async with engine_with(sqlite_url, **options) as (engine, pool):
        event.listen(engine.sync_engine, "connect", lambda *_: connects.append(1))
        task = asyncio.create_task(engine.connect().start())
        await connect.connecting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.checkedout() == 1  # its place is taken until it is open
        waiting = asyncio.create_task(select_one(engine))
        connect.may_connect.set()
        assert await waiting == 1
        assert len(connects) == 1


async def test_a_connection_opened_for_a_cancelled_call_is_pinged_if_it_was_unused(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiorpc.sqlalchemy.engine.pool.PING_AFTER", 0)
    connect = SlowConnect()
    async with engine_with(sqlite_url, **connect.options) as (engine, pool):
        pings = noted_pings(engine)
        task = asyncio.create_task(select_one(engine))
        await connect.connecting.wait()
        task.cancel()
        await asyncio.wait([task])
        connect.may_connect.set()
        await eventually(lambda: pool.checkedin() == 1)
        assert await select_one(engine) == 1
        assert pings


async def test_a_failed_attempt_to_connect_lets_the_next_one_try(sqlite_url: str) -> None:
    connect = SlowConnect()
    connect.failing = True
    options = {**connect.options, "pool_size": 1, "max_overflow": 0}
    async with engine_with(sqlite_url, **options) as (engine, pool):
        tasks = [asyncio.create_task(select_one(engine)) for _ in range(3)]
        await connect.connecting.wait()
        await eventually(lambda: pool.waiting() == 2)
        connect.may_connect.set()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert {type(result) for result in results} == {DatabaseUnreachable}
        assert str(results[0]).startswith("cannot connect to tests:Base: nobody there")
        connect.failing = False
        assert await select_one(engine) == 1


async def test_an_attempt_to_connect_without_a_call_ends_with_the_engine(sqlite_url: str) -> None:
    connect = SlowConnect()
    before = asyncio.all_tasks()
    config = {"DB_URI": sqlite_url, "CLEANUP_TIMEOUT": 0.1}
    async with open_engine(configured(config, "tests", Base, connect.options)) as engine:
        task = asyncio.create_task(select_one(engine))
        await connect.connecting.wait()
        task.cancel()
        await asyncio.wait([task])
        assert asyncio.all_tasks() > before  # the attempt
    await eventually(lambda: asyncio.all_tasks() <= before)


@pytest.mark.parametrize("idle", [0.0, 1.2], ids=["looked at", "pinged"])
async def test_a_connection_that_the_server_ended_is_replaced(server_url: str, idle: float) -> None:
    async with engine_with(server_url, pool_size=2) as (engine, pool):
        async with engine.connect() as first, engine.connect() as second:
            ids = [await one.scalar(text(OWN_ID[engine.name])) for one in (first, second)]
        assert pool.checkedin() == 2
        # As an administrator, or a restart, ends them.
        async with engine_with(server_url) as (other, _), other.connect() as administrator:
            for number in ids:
                await administrator.execute(text(END[engine.name].format(number)))
        # Ends reach the client through its socket; an idle connection is pinged after a second.
        await asyncio.sleep(0.05 + idle)
        assert await select_one(engine) == 1
        assert await select_one(engine) == 1


async def test_a_connection_just_used_is_not_pinged(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine_with(database_url) as (engine, _):
        await select_one(engine)
        pings = noted_pings(engine)
        await select_one(engine)
        assert not pings
        monkeypatch.setattr("aiorpc.sqlalchemy.engine.pool.PING_AFTER", 0)
        await select_one(engine)
        assert pings


async def test_connections_that_the_network_forgot_cost_one_ping(
    server_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aiorpc.sqlalchemy.engine.pool.PING_AFTER", 0)
    loop = asyncio.get_running_loop()
    firewall = Forwarder(make_url(server_url))
    async with firewall.running() as port:
        through = make_url(server_url).set(port=port).render_as_string(hide_password=False)
        async with engine_with(through, pool_pre_ping_timeout=0.2) as (engine, pool):
            async with engine.connect() as first, engine.connect() as second:
                for connection in (first, second):
                    await connection.execute(select(1))
            firewall.forget_connections()
            began = loop.time()
            async with engine.connect() as first, engine.connect() as second:
                assert [await one.scalar(select(1)) for one in (first, second)] == [1, 1]
            # Closing a forgotten connection politely would take 2 s.
            assert 0.2 <= loop.time() - began < 1.5
            assert pool.checkedin() == 2
    assert caplog.text.count("did not answer a ping within 0.2 s (pool_pre_ping_timeout)") == 1


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
async def test_a_server_that_does_not_answer_costs_connect_timeout(kind: str) -> None:
    ended: asyncio.Queue[None] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.put_nowait(None)

    silent = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    url = f"{kind}://user:secret@127.0.0.1:{port}/db?connect_timeout=0.1"
    async with engine_with(url, pool_size=1, max_overflow=0) as (engine, _):
        for _ in range(2):
            with pytest.raises(DatabaseUnreachable, match="tests:Base: no answer within"):
                async with asyncio.timeout(5):
                    await engine.connect()
    for _ in range(2):  # no socket is left behind
        await asyncio.wait_for(ended.get(), 5)
    silent.close()


async def select_one(engine: AsyncEngine) -> Any:
    async with engine.connect() as connection:
        return await connection.scalar(select(1))


def noted_pings(engine: AsyncEngine) -> list[Any]:
    pings: list[Any] = []
    ping = engine.dialect.do_ping
    engine.dialect.do_ping = lambda *args: pings.append(1) or ping(*args)
    return pings


END = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}
OWN_ID = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}


# In a service


class Busy:
    name = "busy"
    db = DatabaseSession(Base, engine_options={"pool_size": 2, "max_overflow": 0})
    may_end: asyncio.Event

    @rpc
    async def hold(self) -> None:
        await self.db.execute(select(1))
        await self.may_end.wait()

    @rpc
    async def quick(self) -> int:
        return await self.db.scalar(select(1)) or 0


async def test_more_calls_than_connections_wait_for_one_another(database_url: str) -> None:
    async with running(Busy, database_url) as (proxy, container):
        answers = await asyncio.gather(*(proxy.quick() for _ in range(50)))
        assert answers == [1] * 50
        await all_returned(container)


@pytest.mark.alone  # milliseconds count
async def test_the_caller_gets_pool_timeout_if_no_connection_is_free(database_url: str) -> None:
    Busy.may_end = asyncio.Event()
    async with running(Busy, database_url) as (proxy, container):
        holding = [proxy.hold.call_async() for _ in range(2)]
        pool: Any = engine_of(container).pool
        await eventually(lambda: pool.checkedout() == 2)
        with pytest.raises(RemoteError) as caught:
            await proxy.quick.with_options(timeout=0.5)()
        assert caught.value.exc_type == "PoolTimeout"
        assert re.search(
            r"no connection to busy:Base became free within 0\.[34]\d s .*all 2 are in use",
            caught.value.value,
        )
        Busy.may_end.set()
        for reply in holding:
            await reply
        assert await proxy.quick() == 1


async def test_a_silent_network_costs_the_deadline_and_no_more(
    server_url: str,
) -> None:
    loop = asyncio.get_running_loop()
    url = make_url(server_url)
    hole = Forwarder(url)
    async with hole.running() as port:
        through = url.set(port=port).render_as_string(hide_password=False)
        async with running(Busy, through, CLEANUP_TIMEOUT=1) as (proxy, container):
            assert await proxy.quick() == 1
            hole.open.clear()
            began = loop.time()
            with pytest.raises(RpcTimeout):
                await proxy.quick.with_options(timeout=0.3)()
            assert loop.time() - began < 1
            await all_returned(container)
            assert loop.time() - began < 6
            hole.open.set()
            assert await proxy.quick() == 1
