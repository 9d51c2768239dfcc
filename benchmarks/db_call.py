"""
What a database call costs: one SELECT by primary key on PostgreSQL, in CPU of this process.

    python benchmarks/db_call.py                    the server of `make servers`, memory://
    python benchmarks/db_call.py --broker amqp://guest:guest@localhost/ --calls 5000

Each way runs in every round, and the best rounds are compared, since what else runs on the machine
adds to the others: bare asyncpg, a bare ``AsyncSession`` in a block of its own, an aiorpc method
without and with a session. What the server and the broker spend is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiorpc import ClusterRpcProxy, ServiceContainer, rpc
from aiorpc.sqlalchemy import DatabaseSession

Call = Callable[[], Awaitable[Any]]


class Base(DeclarativeBase):
    pass


class Book(Base):
    __tablename__ = "aiorpc_bench_book"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


async def title_of(session: AsyncSession, book_id: int) -> str | None:
    return await session.scalar(select(Book.title).where(Book.id == book_id))


class Library:
    name = "bench_library"
    db = DatabaseSession(Base, engine_options={"pool_size": 20})

    @rpc
    async def nothing(self, book_id: int) -> str:
        return "Emma"

    @rpc
    async def title(self, book_id: int) -> str | None:
        return await title_of(self.db, book_id)


async def measure(call: Call, calls: int, in_flight: int) -> tuple[float, float]:
    """(CPU, wall) per call, in microseconds."""
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            await call()

    cpu, wall = time.process_time(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(caller())
    return (
        (time.process_time() - cpu) / calls * 1e6,
        (time.perf_counter() - wall) / calls * 1e6,
    )


async def main(url: str, broker: str, calls: int, in_flight: int, rounds: int) -> None:
    config = {"AMQP_URI": broker, "DB_URIS": {"bench_library:Base": url}}
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=in_flight
    )
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with (
        asyncpg.create_pool(url, min_size=in_flight, max_size=in_flight) as pool,
        ServiceContainer(Library, config),
        ClusterRpcProxy(config) as cluster,
    ):
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)
        async with sessions() as session:
            session.add(Book(id=1, title="Emma"))
            await session.commit()

        async def bare_session() -> Any:
            async with sessions() as session:
                return await title_of(session, 1)

        ways: dict[str, Call] = {
            "asyncpg": lambda: pool.fetchval(
                "SELECT title FROM aiorpc_bench_book WHERE id = $1", 1
            ),
            "AsyncSession": bare_session,
            "aiorpc, no database": lambda: cluster.bench_library.nothing(1),
            "aiorpc, DatabaseSession": lambda: cluster.bench_library.title(1),
        }
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for call in ways.values():
            await measure(call, calls // 5, in_flight)
        for _ in range(rounds):
            for way, call in ways.items():
                found[way].append(await measure(call, calls, in_flight))
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
    await engine.dispose()
    report(found)


def report(found: dict[str, list[tuple[float, float]]]) -> None:
    cpu = {way: min(one[0] for one in times) for way, times in found.items()}
    wall = {way: min(one[1] for one in times) for way, times in found.items()}
    for way in found:
        print(f"{way:<26} {cpu[way]:7.0f} us CPU a call   {1e6 / wall[way]:7.0f} calls/s")
    total = cpu["aiorpc, DatabaseSession"] - cpu["AsyncSession"]
    session = total - cpu["aiorpc, no database"]
    print(f"aiorpc adds to a bare AsyncSession: {total:.0f} us, the call and its answer included;")
    print(f"of these the session, against a block of its own: {session:+.0f} us")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--url", help="a PostgreSQL URL; default: that of `make servers`")
    parser.add_argument("--broker", default="memory://")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.url is None:
        from tests.servers import urls

        options.url = urls().postgresql
        if options.url is None:
            raise SystemExit("there is no PostgreSQL server: `make servers`, or --url")
    asyncio.run(main(options.url, options.broker, options.calls, options.in_flight, options.rounds))
