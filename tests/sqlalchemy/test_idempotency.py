"""
``SqlIdempotency``: one key, one effect, on all three databases. Two containers whose stores know
nothing of one another stand for two processes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, String, func, inspect, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiorpc import (
    BadArguments,
    ClusterRpcProxy,
    DependencyProvider,
    InProgress,
    RemoteError,
    RpcTimeout,
    ServiceContainer,
    WorkerContext,
    rpc,
)
from aiorpc.call import Call
from aiorpc.extensions import Submission
from aiorpc.hosting.pool import Submit
from aiorpc.sqlalchemy import (
    Database,
    DatabaseSession,
    SqlIdempotency,
    create_tables,
    idempotency,
    records,
    transaction_retry,
)
from tests.support.databases import drop_tables, engine_of, running, settings_for
from tests.support.waiting import eventually

RUN = f"aiorpc_{os.getpid()}"
KEYS = f"keys_{RUN}"


class Base(DeclarativeBase):
    pass


class Sale(Base):
    __tablename__ = f"sale_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50))


class SoldOut(Exception):
    pass


begun: list[tuple[type, str]] = []
GATES: dict[str, asyncio.Event] = {}
FAILS: set[str] = set()


@pytest.fixture(autouse=True)
def fresh() -> None:
    begun.clear()
    GATES.clear()
    FAILS.clear()


class Shop:
    name = f"shop_{RUN}"
    db = DatabaseSession(Base, commit=True)
    idempotency = SqlIdempotency(Base, table=KEYS)

    @rpc(idempotent=True)
    async def buy(self, title: str) -> dict[str, Any]:
        sale = Sale(title=title)
        self.db.add(sale)
        await self.db.flush()
        begun.append((type(self), title))
        if title in GATES:
            await GATES[title].wait()
        if title in FAILS:
            FAILS.discard(title)
            raise LookupError(title)
        return {"id": sale.id, "key": self.idempotency}

    @rpc(idempotent=True)
    @transaction_retry(total=3)
    async def buy_and_commit(self, title: str) -> int:
        self.db.add(Sale(title=title))
        await self.db.commit()
        self.db.add(Sale(title=title))
        return 2

    @rpc
    async def count(self) -> int:
        return await self.db.scalar(select(func.count()).select_from(Sale)) or 0


class OtherProcess(Shop):
    """The same service, as another process has it."""

    idempotency = SqlIdempotency(Base, table=KEYS)


class Keeping(Shop):
    """Keeps expected errors."""

    name = f"keeping_{RUN}"
    more = Database(Base)
    idempotency = SqlIdempotency(Base, table=KEYS, store_errors=True)

    @rpc(SoldOut, idempotent=True)
    async def fail(self, how: str) -> None:
        begun.append((type(self), how))
        self.db.add(Sale(title=how))
        if how == "rolls back":
            await self.db.rollback()
        elif how == "flushes nonsense":
            self.db.add(Sale(title=None))
            try:
                await self.db.flush()
            except Exception as error:
                raise SoldOut(how) from error
        else:
            await self.db.commit()
            async with self.more.get_session() as session:
                session.add(Sale(title=how))
        raise SoldOut(how)


@asynccontextmanager
async def two_processes(url: str) -> AsyncIterator[tuple[Any, list[ServiceContainer]]]:
    settings = settings_for(Shop, url, max_workers=40, DB_ENGINE_OPTIONS={"pool_size": 20})
    await create_tables(settings, Shop, drop=True)
    try:
        async with (
            ServiceContainer(Shop, settings) as one,
            ServiceContainer(OtherProcess, settings) as other,
            ClusterRpcProxy(settings, timeout=20) as cluster,
        ):
            yield cluster[Shop.name], [one, other]
    finally:
        await drop_tables(settings, Shop)


def by_key(shop: Any, key: str, **options: Any) -> Any:
    return shop.buy.with_options(idempotency_key=key, **options)


async def test_a_key_has_one_effect_and_one_answer(database_url: str) -> None:
    async with running(Shop, database_url) as (shop, container):
        first = await by_key(shop, "one")("Emma")
        assert first == {"id": 1, "key": "one"}
        assert await by_key(shop, "one")(title="Emma") == first
        with pytest.raises(BadArguments, match="'one' was used with other arguments"):
            await by_key(shop, "one")("Persuasion")
        FAILS.add("Emma")
        with pytest.raises(RemoteError, match="LookupError Emma"):
            await by_key(shop, "two")("Emma")
        assert (await by_key(shop, "two")("Emma"))["key"] == "two"
        commit = shop.buy_and_commit.with_options(idempotency_key="one")
        assert [await commit("Emma"), await commit("Emma")] == [2, 2]
        assert await shop.buy("Emma") != first
        assert await shop.count() == 5
        assert engine_of(container).pool.checkedout() == 0


async def test_fifty_callers_with_one_key_have_one_effect(database_url: str) -> None:
    async with two_processes(database_url) as (shop, _):
        one = by_key(shop, "one")
        answers = await asyncio.gather(*(one("Emma") for _ in range(50)))
        assert answers == [answers[0]] * 50
        assert await shop.count() == len(begun) == 1


async def test_another_caller_runs_after_the_first_rolled_back(database_url: str) -> None:
    async with two_processes(database_url) as (shop, _):
        for fate in ("fails", "cancelled"):
            begun.clear()
            gate = GATES["Emma"] = asyncio.Event()
            first = by_key(shop, fate).call_async("Emma")
            await eventually(lambda: len(begun) == 1)
            others = [by_key(shop, fate).call_async("Emma") for _ in range(30)]
            if fate == "fails":
                FAILS.add("Emma")
            else:
                first.cancel()
            gate.set()
            answers = [await reply for reply in others]
            assert answers == [answers[0]] * 30
            assert len(begun) == 2
        assert await shop.count() == 2


async def test_a_killed_process_leaves_the_call_to_another(database_url: str) -> None:
    GATES["Emma"] = asyncio.Event()
    async with two_processes(database_url) as (shop, containers):
        replies = [by_key(shop, "one").call_async("Emma") for _ in range(6)]
        await eventually(lambda: len(begun) == 1)
        await eventually(lambda: all(each.running for each in containers))
        owner = next(each for each in containers if each.service_cls is begun[0][0])
        await owner.kill()
        GATES["Emma"].set()
        answers = [await reply for reply in replies]
        assert answers == [answers[0]] * 6
        assert await shop.count() == 1
        assert len(begun) == 2


async def test_a_caller_whose_time_is_over_gets_in_progress(database_url: str) -> None:
    GATES["Emma"] = asyncio.Event()
    async with two_processes(database_url) as (shop, _):
        first = by_key(shop, "one").call_async("Emma")
        await eventually(lambda: len(begun) == 1)
        late = [by_key(shop, "one", timeout=1.0).call_async("Emma") for _ in range(10)]
        raised = await asyncio.gather(*late, return_exceptions=True)
        errors = {type(error) for error in raised}
        # The driver of SQLite cannot always end its wait for the lock in time.
        assert errors == {InProgress} or (
            "sqlite" in database_url and errors <= {InProgress, RpcTimeout}
        )
        # A call of the other process waits for the database, which may be slow as well.
        said = {str(error) for error in raised if isinstance(error, InProgress)}
        assert all("still runs" in text or "did not say in time" in text for text in said)
        GATES["Emma"].set()
        answer = await first
        assert await by_key(shop, "one")("Emma") == answer
        assert await shop.count() == 1


async def test_an_expected_error_is_kept_without_its_changes(database_url: str) -> None:
    async with running(Keeping, database_url) as (keeping, _):
        for how in ("commits", "rolls back", "flushes nonsense"):
            begun.clear()
            fail = keeping.fail.with_options(idempotency_key=how)
            values = []
            for _ in range(2):
                with pytest.raises(RemoteError) as caught:
                    await fail(how)
                values.append((caught.value.exc_type, caught.value.exc_args))
            assert values == [("SoldOut", (how,))] * 2
            assert [each for _, each in begun] == [how]
        assert await keeping.count() == 0
        assert (await by_key(keeping, "one")("Emma"))["key"] == "one"
        assert await keeping.count() == 1


async def test_a_forgotten_key_may_be_used_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = 0.0
    now = records.now
    monkeypatch.setattr("aiorpc.sqlalchemy.idempotency.now", lambda: now() + later)
    async with running(Shop, database_url) as (shop, container):
        first = await by_key(shop, "one")("Emma")
        later = 86_401
        assert await by_key(shop, "one")("Persuasion") != first  # the row is there, but it is old
        await by_key(shop, "two")("Emma")
        store = container.providers[-1]
        assert isinstance(store, SqlIdempotency)
        assert await store.delete_batch(store.old()) == 0
        later += 86_401
        assert await store.delete_batch(store.old()) == 2
        await by_key(shop, "one")("Emma")
        assert await shop.count() == 4


async def test_the_table_comes_with_the_tables_of_the_base(sqlite_url: str) -> None:
    async with running(Shop, sqlite_url) as (_, container):

        def look(connection: Connection) -> tuple[set[str], set[str]]:
            found = inspect(connection)
            indexes = {str(each["name"]) for each in found.get_indexes(KEYS)}
            return {each["name"] for each in found.get_columns(KEYS)}, indexes

        async with engine_of(container).connect() as connection:
            columns, indexes = await connection.run_sync(look)
        assert columns == set(Base.metadata.tables[KEYS].columns.keys())
        assert f"ix_{KEYS}_expires_at" in indexes


async def test_a_request_that_is_delivered_again_keeps_its_key(sqlite_url: str) -> None:
    """The process died between the commit and the ack: here, its answer is lost."""
    async with running(Shop, sqlite_url) as (shop, container):
        lost: list[Call] = []

        def losing(submit: Submit) -> Submit:
            def once(entrypoint: Any, call: Call, settle: Any, encode: Any) -> Submission:
                if call.method != "buy" or lost:
                    return submit(entrypoint, call, settle, encode)
                lost.append(call)
                again = partial(submit, entrypoint, call, settle, encode)
                return submit(entrypoint, call, lambda outcome: again(), encode)

            return once

        container.intercept(losing)
        assert await by_key(shop, "one")("Emma") == {"id": 1, "key": "one"}
        assert (len(lost), len(begun), await shop.count()) == (1, 1, 1)


class Audits(DependencyProvider[None]):
    """Writes in the session of the call before the method runs."""

    declarative_base = Base

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[None]:
        worker_ctx.service.db.add(Sale(title="audit"))
        await worker_ctx.service.db.flush()
        yield


async def test_what_a_dependency_wrote_is_not_lost_when_the_key_cannot_be_written(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Audited(Shop):
        name = f"audited_{RUN}"
        audits = Audits()

    failing = [OperationalError("", {}, Exception("database is locked"))]

    def insert(*args: Any) -> bool:
        if failing:
            raise failing.pop()
        return records.insert_unless_there(*args)

    monkeypatch.setattr(idempotency, "insert_unless_there", insert)
    async with running(Audited, sqlite_url) as (shop, container):
        with pytest.raises(RemoteError, match="database is locked"):
            await by_key(shop, "one")("Emma")
        await by_key(shop, "one")("Emma")
        async with engine_of(container).connect() as connection:
            titles = await connection.scalars(select(Sale.title))
            assert sorted(titles) == ["Emma", "audit"]
    assert begun == [(Audited, "Emma")]
