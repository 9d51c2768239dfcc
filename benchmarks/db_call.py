"""
What a database call costs: one SELECT by primary key, in CPU of this process.

    python benchmarks/db_call.py                        PostgreSQL of `make servers`, memory://
    python benchmarks/db_call.py --url sqlite://        a SQLite file of its own: needs no server
    python benchmarks/db_call.py --broker amqp://guest:guest@localhost/ --rounds 200

Five ways run the same query: the driver alone (asyncpg), a bare ``AsyncSession`` block, an aiorpc
method without a database, an aiorpc method with such a block, and an aiorpc method with
``DatabaseSession``. The ways take turns, and every second round runs in reverse order. Other load
on the machine only adds time, so rounds are short and many.

The output has the minimum and the median of each way's rounds. The cost that one way adds to
another is given as the difference of the minima, the difference of the medians, and the median of
the differences per round. The last column is that median as a share of the bare session. Client and
service run in this process and both count; the database server and the broker do not.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiorpc import ClusterRpcProxy, ServiceContainer, rpc
from aiorpc.sqlalchemy import DatabaseSession, DatabaseUrl, parse_database_url

Call = Callable[[], Awaitable[Any]]

DRIVER = "driver alone"
BARE = "bare AsyncSession"
NO_DATABASE = "call, no database"
BY_HAND = "call, AsyncSession by hand"
DEPENDENCY = "call, DatabaseSession"


@dataclass
class Options:
    url: str
    broker: str
    calls: int
    in_flight: int
    rounds: int


@dataclass
class Cost:
    """Microseconds of a call."""

    cpu: float
    wall: float


class Base(DeclarativeBase):
    pass


class Book(Base):
    __tablename__ = f"aiorpc_bench_book_{os.getpid()}"  # others may measure on the same server

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


async def title_of(session: AsyncSession, book_id: int) -> str | None:
    return await session.scalar(select(Book.title).where(Book.id == book_id))


def library(connections: int) -> type:
    class Library:
        name = "bench_library"
        db = DatabaseSession(Base, engine_options={"pool_size": connections})

        @rpc
        async def title(self, book_id: int) -> str | None:
            return await title_of(self.db, book_id)

    return Library


def library_by_hand(sessions: async_sessionmaker[AsyncSession]) -> type:
    """A service of its own: who declares no dependency does not pay for one."""

    class LibraryByHand:
        name = "bench_library_by_hand"

        @rpc
        async def nothing(self, book_id: int) -> str:
            return "Emma"

        @rpc
        async def title(self, book_id: int) -> str | None:
            async with sessions() as session:
                return await title_of(session, book_id)

    return LibraryByHand


# Measuring


async def measure(call: Call, calls: int, in_flight: int) -> Cost:
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            await call()

    gc.collect()  # nobody pays for what another left behind
    cpu, wall = time.process_time(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(caller())
    return Cost(
        (time.process_time() - cpu) / calls * 1e6,
        (time.perf_counter() - wall) / calls * 1e6,
    )


async def run(options: Options) -> dict[str, list[Cost]]:
    async with ways_to_call(options) as ways:
        found: dict[str, list[Cost]] = {way: [] for way in ways}
        for call in ways.values():
            await measure(call, options.calls, options.in_flight)
        for number in range(options.rounds):
            for way in list(ways)[:: -1 if number % 2 else 1]:
                found[way].append(await measure(ways[way], options.calls, options.in_flight))
        return found


@asynccontextmanager
async def ways_to_call(options: Options) -> AsyncIterator[dict[str, Call]]:
    url = parse_database_url(options.url)
    connections = options.in_flight
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        engine = await enter(engine_with_a_book(url, connections))
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        config = {"AMQP_URI": options.broker, "DB_URI": options.url}
        await enter(ServiceContainer(library(connections), config))
        await enter(ServiceContainer(library_by_hand(sessions), config))
        cluster = await enter(ClusterRpcProxy(config))

        async def bare() -> Any:
            async with sessions() as session:
                return await title_of(session, 1)

        ways: dict[str, Call] = {
            BARE: bare,
            NO_DATABASE: lambda: cluster.bench_library_by_hand.nothing(1),
            BY_HAND: lambda: cluster.bench_library_by_hand.title(1),
            DEPENDENCY: lambda: cluster.bench_library.title(1),
        }
        if url.driver == "asyncpg":
            ways = {DRIVER: await enter(by_asyncpg(options.url, connections)), **ways}
        yield ways


@asynccontextmanager
async def engine_with_a_book(url: DatabaseUrl, connections: int) -> AsyncIterator[AsyncEngine]:
    """As one makes it by hand: SQLAlchemy's own pool, which does not look at its connections."""
    engine = create_async_engine(
        url.url, pool_size=connections, connect_args=dict(url.connect_args)
    )
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            session.add(Book(id=1, title="Emma"))
            await session.commit()
        yield engine
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
    finally:
        await engine.dispose()


@asynccontextmanager
async def by_asyncpg(url: str, connections: int) -> AsyncIterator[Call]:
    import asyncpg

    query = f"SELECT title FROM {Book.__tablename__} WHERE id = $1"
    async with asyncpg.create_pool(url, min_size=connections, max_size=connections) as pool:
        yield lambda: pool.fetchval(query, 1)


# Reporting


def report(found: dict[str, list[Cost]], options: Options) -> None:
    least = {way: min(cost.cpu for cost in costs) for way, costs in found.items()}
    median = {way: statistics.median(cost.cpu for cost in costs) for way, costs in found.items()}
    wall = {way: min(cost.wall for cost in costs) for way, costs in found.items()}
    print(
        f"us of CPU a call; {options.rounds} rounds of {options.calls} calls, "
        f"{options.in_flight} in flight, {parse_database_url(options.url).driver}\n"
    )
    print(f"{'':<44}{'minimum':>9}{'median':>9}{'calls/s':>9}")
    for way in found:
        print(f"{way:<44}{least[way]:9.0f}{median[way]:9.0f}{1e6 / wall[way]:9.0f}")
    print(f"\n{'':<44}{'minimum':>9}{'median':>9}{'by round':>9}{'of a bare one':>15}")
    for what, way, against in (
        ("a call adds to a bare AsyncSession, in all", DEPENDENCY, BARE),
        ("  the call itself, with a block by hand", BY_HAND, BARE),
        ("  the dependency, against that block", DEPENDENCY, BY_HAND),
    ):
        more = least[way] - least[against], median[way] - median[against]
        by_round = statistics.median(
            one.cpu - other.cpu for one, other in zip(found[way], found[against], strict=True)
        )
        share = by_round / median[BARE] * 100
        print(f"{what:<44}{more[0]:+9.0f}{more[1]:+9.0f}{by_round:+9.0f}{share:+14.0f}%")


def default_url() -> str:
    from tests.servers import urls

    url = urls().postgresql
    if url is None:
        raise SystemExit("there is no PostgreSQL server: `make servers`, or --url sqlite://")
    return url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--url", help="of a database; default: PostgreSQL of `make servers`")
    parser.add_argument("--broker", default="memory://")
    parser.add_argument("--calls", type=int, default=100, help="in a round")
    parser.add_argument("--in-flight", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or default_url()
        if url == "sqlite://":  # one in memory has one connection, which calls would queue for
            url = f"sqlite:///{Path(folder) / 'bench.sqlite'}"
        options = Options(url, given.broker, given.calls, given.in_flight, given.rounds)
        report(asyncio.run(run(options)), options)


if __name__ == "__main__":
    main()
