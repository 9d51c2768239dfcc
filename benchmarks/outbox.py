"""
What an outbox costs: events through an outbox beside events that are dispatched directly.

    python benchmarks/outbox.py                         10,000 events, servers of `make servers`
    python benchmarks/outbox.py --events 2000 --database sqlite:///events.db --broker memory://

A service dispatches the events in calls, 50 at a time, each in a transaction that also inserts a
row: by an EventDispatcher after its commit, by an Outbox, and by an Outbox with 100 keys. The ways
take turns. Events per second are from the first call to the last confirm; the events are confirmed
if the broker has them all. The delay of an event is from its commit to its confirm: for direct
events the time of `dispatch`, for an outbox until the relay has the confirm. CPU is that of this
process, which has the callers and the service; the servers do not count.

Needs RabbitMQ and PostgreSQL, unless you name others.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

from contest import Broker, describe_machine
from sqlalchemy import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiorpc import EventDispatcher, Exchange, Queue, ServiceContainer, rpc
from aiorpc.sqlalchemy import Database, Outbox, configured, create_tables, open_engine
from aiorpc.sqlalchemy.outbox import sending

RUN = os.getpid()
AT_A_TIME = 50
KEYS = 100


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = f"aiorpc_bench_order_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


NAME = f"aiorpc_bench_shop_{RUN}"
#: Takes the events; the broker deletes it a minute later.
EVENTS = Queue(f"{NAME}_events", Exchange(f"{NAME}.events", "topic"), "ordered", expires=60)


class Shop:
    name = NAME
    db = Database(Base, engine_options={"pool_size": 20})
    direct = EventDispatcher()
    outbox = Outbox(Base, table=f"aiorpc_bench_outbox_{RUN}", declare=[EVENTS])

    @rpc
    async def directly(self, number: int) -> None:
        async with self.db.get_session() as session:
            await session.execute(insert(Order).values(number=number))
        committed = time.perf_counter()
        await self.direct("ordered", {"number": number})
        DELAYS.append(time.perf_counter() - committed)

    @rpc
    async def with_outbox(self, number: int) -> None:
        await self._write(number, None)

    @rpc
    async def with_keys(self, number: int) -> None:
        await self._write(number, f"k{number % KEYS}")

    async def _write(self, number: int, key: str | None) -> None:
        message_id = str(number)
        async with self.db.get_session() as session:
            await session.execute(insert(Order).values(number=number))
            payload = {"number": number}
            await self.outbox.dispatch("ordered", payload, key=key, message_id=message_id)
        COMMITTED.setdefault(message_id, time.perf_counter())


#: The delays of one run, and when each event of an outbox was committed.
DELAYS: list[float] = []
COMMITTED: dict[str, float] = {}
#: Set at each confirm.
CONFIRMED = asyncio.Event()


def note_confirms() -> None:
    """Note when the relay has the confirm of each message."""
    settled = sending.Sending._settled

    def noting(self: Any, chain: Any, row: Any, error: Any) -> None:
        now = time.perf_counter()
        DELAYS.append(max(0.0, now - COMMITTED.setdefault(row.message.message_id, now)))
        CONFIRMED.set()
        settled(self, chain, row, error)

    sending.Sending._settled = noting  # type: ignore[method-assign]


@dataclass
class Run:
    """Events per second, CPU in µs per event, and the delays in ms."""

    rate: float
    cpu: float
    p50: float
    p99: float


async def measure(container: ServiceContainer, method: str, events: int) -> Run:
    entrypoint = next(each for each in container.entrypoints if each.method_name == method)
    DELAYS.clear()
    COMMITTED.clear()
    numbers = iter(range(events))

    async def caller() -> None:
        for number in numbers:
            await container.work(entrypoint, container.new_call(entrypoint, (number,)))

    began, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_A_TIME):
            group.create_task(caller())
    CONFIRMED.clear()
    while len(DELAYS) < events:
        await CONFIRMED.wait()
        CONFIRMED.clear()
    seconds = time.perf_counter() - began
    delays = statistics.quantiles(DELAYS, n=100)
    return Run(
        events / seconds,
        (time.process_time() - cpu) / events * 1e6,
        delays[49] * 1000,
        delays[98] * 1000,
    )


WAYS = {
    "direct, after the commit": "directly",
    "outbox": "with_outbox",
    f"outbox, {KEYS} keys": "with_keys",
}


async def main(options: argparse.Namespace) -> None:
    config = {
        "AMQP_URI": options.broker or Broker.find().url,
        "DB_URI": options.database,
        "max_workers": AT_A_TIME,
    }
    note_confirms()
    await create_tables(config, Shop)
    found: dict[str, list[Run]] = {way: [] for way in WAYS}
    try:
        async with ServiceContainer(Shop, config) as container:
            for method in WAYS.values():
                await measure(container, method, min(500, options.events))  # warm up
            for number in range(options.rounds):
                for way in list(WAYS)[:: -1 if number % 2 else 1]:
                    found[way].append(await measure(container, WAYS[way], options.events))
    finally:
        async with (
            open_engine(configured(config, Shop.name, Base)) as engine,
            engine.begin() as connection,
        ):
            await connection.run_sync(Base.metadata.drop_all)
    print(f"{options.events:,} events, {options.rounds} rounds, {describe_machine()}")
    print("| way | events/s | of direct | CPU, µs/event | commit to confirm, p50 | p99 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    direct = statistics.median(run.rate for run in found["direct, after the commit"])
    for way, runs in found.items():
        rate, cpu, p50, p99 = (
            statistics.median(getattr(run, name) for run in runs)
            for name in ("rate", "cpu", "p50", "p99")
        )
        cells = f"{rate:,.0f} | {rate / direct:.0%} | {cpu:,.0f} | {p50:.1f} ms | {p99:.1f} ms"
        print(f"| {way} | {cells} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--broker")
    parser.add_argument("--database", default=os.environ.get("AIORPC_TEST_POSTGRESQL_URI"))
    options = parser.parse_args()
    if options.database is None:
        from tests.servers import urls  # of `make servers`

        options.database = urls().postgresql
    if options.database is None:
        parser.error("there is no PostgreSQL: `make servers`, or --database URL")
    return options


if __name__ == "__main__":
    asyncio.run(main(_options()))
