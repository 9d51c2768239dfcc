"""
Processes of a service with an outbox are killed with SIGKILL in turns; the broker and the database
are restarted. A ledger, the table of orders, tells which events there must be: no other (a ghost),
all of them (no zombie), and those of a key in the order of their commits.

CHAOS_OUTBOX_KILLS is the number of kills. The tests print what they counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from aiorpc import AioRpcError, ClusterRpcProxy, ServiceContainer, event_handler
from aiorpc.sqlalchemy import configured, create_tables, open_engine
from tests.chaos.outbox_service import Base, Order, Orders
from tests.chaos.processes import Server
from tests.servers import Rabbit
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.state import State
from tests.support.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

KILLS = int(os.environ.get("CHAOS_OUTBOX_KILLS", "2"))
#: Calls that run at a time, and seconds of load before and after each blow.
AT_ONCE = 12
BETWEEN = float(os.environ.get("CHAOS_OUTBOX_BETWEEN", "0.5"))
#: Databases that are restarted: 2 is MariaDB too.
DATABASES = int(os.environ.get("CHAOS_OUTBOX_DATABASES", "1"))
#: Seconds until all events must be there on a busy machine.
PATIENCE = 60.0


class Ledger:
    """The events that a handler heard, in their order, with their message ids."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, str]] = []

    async def __call__(self, call: Any, handler: Any) -> Any:
        if call.side == "consumer":
            event = call.args[0]
            self.events.append((call.message.message_id, event["number"], event["key"]))
        return await handler(call)

    @property
    def first(self) -> list[tuple[int, str]]:
        """Number and key of the first copy of each message."""
        seen: dict[str, tuple[int, str]] = {}
        for id_, number, key in self.events:
            seen.setdefault(id_, (number, key))
        return list(seen.values())


class Stage:
    """A configuration, its processes, and the load on them."""

    def __init__(self, config: dict[str, Any], stack: AsyncExitStack) -> None:
        self.config = config
        self._stack = stack
        self.ledger = Ledger()
        self.servers: list[Server] = []
        self.numbers = 0
        self.loading = True

    async def start(self) -> None:
        environment = {"CHAOS_OUTBOX": Orders.name, "CHAOS_CONFIG": json.dumps(self.config)}
        command = (sys.executable, "-m", "tests.chaos.outbox_service")
        server = await Server.start(environment, command)
        self._stack.push_async_callback(server.kill)
        self.servers.append(server)
        await server.ready()

    async def load(self, orders: Any) -> None:
        while self.loading:
            self.numbers = number = self.numbers + 1
            key = ("", "a", "b", "c")[number % 4]
            with suppress(AioRpcError):
                await orders.order.with_options(timeout=10)(number, key, number % 10 == 0)

    async def ordered(self, engine: AsyncEngine) -> list[tuple[int, str]]:
        query = select(Order.number, Order.key).order_by(Order.id)
        async with engine.connect() as connection:
            return [(number, key) for number, key in await connection.execute(query)]

    async def check(self, engine: AsyncEngine) -> str:
        """Wait for the events; return what was counted."""
        orders = await self.ordered(engine)
        with suppress(TimeoutError):
            await eventually(lambda: {*self.ledger.first} >= {*orders}, PATIENCE)
        events = self.ledger.first
        counts = Counter(events)
        ghosts, zombies = {*events} - {*orders}, {*orders} - {*events}
        twice = [event for event, count in counts.items() if count > 1]
        by_key: dict[str, list[int]] = defaultdict(list)
        for number, key in events:
            by_key[key].append(number)
        wrong = [
            key
            for key in "abc"
            if by_key[key] != [number for number, its_key in orders if its_key == key]
        ]
        copies = len(self.ledger.events) - len(events)
        assert not ghosts | zombies, (ghosts, zombies)
        assert not twice, twice
        assert not wrong, wrong
        return (
            f"{self.numbers} calls, {len(orders)} committed, {len(events)} events, "
            f"{copies} further copies, ghost 0, zombie 0, order of 3 keys kept"
        )


@asynccontextmanager
async def stage(config: dict[str, Any]) -> AsyncIterator[Any]:
    class Listener:
        name = f"listener_{uuid.uuid4().hex[:8]}"

        @event_handler(Orders.name, "ordered")
        async def ordered(self, payload: Any) -> None:
            pass

    async with AsyncExitStack() as stack:
        it = Stage(config, stack)
        await create_tables(config, Orders, drop=True)
        engine = await stack.enter_async_context(open_engine(configured(config, Orders.name, Base)))
        one_by_one = {**config, "max_workers": 1}
        handler = ServiceContainer(Listener, one_by_one, middleware=[it.ledger])
        await stack.enter_async_context(handler)
        yield it, engine
        for server in it.servers:
            await server.kill()
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)


async def under_load(it: Stage, engine: AsyncEngine, blows: Callable[[], Awaitable[None]]) -> str:
    cluster: Any
    async with ClusterRpcProxy(it.config) as cluster:
        orders = cluster[Orders.name]
        tasks = [asyncio.create_task(it.load(orders)) for _ in range(AT_ONCE)]
        try:
            await asyncio.sleep(BETWEEN)  # of load
            await blows()
            await asyncio.sleep(BETWEEN)  # of load
        finally:
            it.loading = False
            await asyncio.gather(*tasks)
    return await it.check(engine)


@pytest.mark.rabbitmq
async def test_killed_processes_lose_no_event_and_send_none_of_their_own(
    rabbitmq_uri: str, server_url: str
) -> None:
    config = {"AMQP_URI": rabbitmq_uri, "DB_URI": server_url}
    async with stage(config) as (it, engine):
        await asyncio.gather(it.start(), it.start())

        async def kill() -> None:
            for _ in range(KILLS):
                await it.servers.pop(0).kill()
                await it.start()
                await asyncio.sleep(BETWEEN)  # of load

        print(f"\n{engine.dialect.name}, {KILLS} kills: {await under_load(it, engine, kill)}")


async def test_a_restart_of_the_broker_loses_no_event(node: Rabbit, sqlite_url: str) -> None:
    """1,000 rows wait while the broker is down, and more are written."""
    config = {"AMQP_URI": node.url, "DB_URI": sqlite_url, "HEARTBEAT": 5}
    async with stage(config) as (it, engine):
        container = ServiceContainer(Orders, config)
        async with container:
            method = container.entrypoints[0]
            await asyncio.to_thread(node.stop)

            async def order(number: int) -> None:
                call = container.new_call(method, (number, "abc"[number % 3], number % 10 == 0))
                with suppress(LookupError):
                    await container.work(method, call)

            for number in range(0, 1000, 50):
                await asyncio.gather(*map(order, range(number, number + 50)))
            it.numbers = 1000
            assert len(it.ledger.events) == 0
            await asyncio.to_thread(node.start)
            print(f"\nbroker restarted: {await it.check(engine)}")


@pytest.mark.rabbitmq
@pytest.mark.parametrize("kind", [PostgreSQL, MariaDB][:DATABASES], ids=lambda it: it.kind)
async def test_a_restart_of_the_database_loses_no_event(rabbitmq_uri: str, kind: Any) -> None:
    if kind.program() is None:
        pytest.skip(f"this test starts its own {kind.title}, and none is installed")
    server = await asyncio.to_thread(kind.create, State(), f"{kind.kind}-{uuid.uuid4().hex[:8]}")
    try:
        config = {"AMQP_URI": rabbitmq_uri, "DB_URI": server.url}
        async with stage(config) as (it, engine):
            await asyncio.gather(it.start(), it.start())

            async def restart() -> None:
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)

            print(f"\n{kind.title} restarted: {await under_load(it, engine, restart)}")
    finally:
        await asyncio.to_thread(server.remove)
