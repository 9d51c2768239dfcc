"""
Plays the runs on one database. In each, the process of the shop dies at one point, another process
takes over, and the caller makes its call again until it has an answer. Awaits the broker and the
database.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from aiorpc import ClusterRpcProxy, ConnectionLost, InProgress, RpcTimeout
from aiorpc.config import resolve
from aiorpc.sqlalchemy import configured, create_tables, open_engine
from aiorpc.transports import open_transport
from tests.once.databases import own_database
from tests.once.processes import Forks, Shopkeeper, forking
from tests.once.report import Report
from tests.once.service import Base, Effect, Order, queues, services
from tests.servers import Urls
from tests.support.waiting import eventually

#: Seconds of one attempt of the caller, of all its attempts, and of an event to its effect.
ATTEMPT, PATIENCE = 5.0, 25.0
#: Seconds for a process to pass the point at which it dies, after the order has its effect.
REACHED_WITHIN = 0.5
#: Attempts to let the process that dies get the order, and not the one beside it.
ATTEMPTS = 6


class Stage:
    """
    A shop on one database, and its caller.

    Attributes:
        points: the point at which a process died while it worked on an order, by the key of the
            order; empty if none died.
        answers: the answers to each key.
        again: how often the caller made a call again.
    """

    def __init__(
        self,
        forks: Forks,
        run: str,
        config: Mapping[str, Any],
        engine: AsyncEngine,
        cluster: Any,
        *,
        once: bool,
        beside: bool,
    ) -> None:
        self.points: dict[str, str] = {}
        self.answers: dict[str, list[str]] = {}
        self.again = 0
        self._forks = forks
        self._run = run
        self._config = config
        self._engine = engine
        self._order = cluster[f"shop_{run}"].order
        self._once = once
        self._process: Shopkeeper | None = None
        self._beside = beside
        #: The process beside it, which takes over at once.
        self._second: Shopkeeper | None = None

    async def listed(self) -> list[str]:
        """Return the points of a run in which nobody dies."""
        self._process = process = await self._start()
        await self._ordered("")
        await process.ask("arm", "")
        await self._ordered("")
        points: list[str] = await process.ask("list")
        return points

    async def die_at(self, point: str) -> bool:
        """Play one run; return whether the process died at *point*."""
        for attempt in range(ATTEMPTS if self._beside else 1):
            # RabbitMQ gives messages to the processes in turn.
            process = await self._armed(point, orders=1 + attempt % 2)
            ordered = asyncio.create_task(self._ordered(point))
            dying = asyncio.create_task(process.died.wait())
            try:
                await asyncio.wait((ordered, dying), return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait((dying,), timeout=REACHED_WITHIN)
                await self._keeper()
                await ordered
            finally:
                ordered.cancel()
                dying.cancel()
            if process.died.is_set():
                return True
        return False

    async def close(self) -> None:
        """Let the last processes finish what they do, and end them."""
        for process in (self._process, self._second):
            if process is not None:
                await process.stop()

    async def _keeper(self) -> Shopkeeper:
        """Return a process that serves, another one if the last has died."""
        if self._process is None or self._process.died.is_set():
            self._process = self._second or await self._start()
            self._second = None
        if self._beside and self._second is None:
            self._second = await self._start()
        return self._process

    async def _start(self) -> Shopkeeper:
        return await self._forks.start(self._run, self._config, once=self._once)

    async def _armed(self, point: str, orders: int) -> Shopkeeper:
        """Return a process that dies at *point*, after some *orders* that open its connections."""
        while True:
            process = await self._keeper()
            # The attempt before may have left a point, at which the process dies meanwhile.
            if await process.ask("arm", "") is not None:
                for _ in range(orders):
                    await self._ordered("")
                await process.ask("arm", point)
                return process

    async def _ordered(self, point: str) -> None:
        """Make an order with a new key, and ask for its answer again. Wait for its effect."""
        key = secrets.token_hex(8)
        self.points[key] = point
        self.answers[key] = [await self._called(key)]
        await eventually(partial(self._has_its_effect, key), PATIENCE)
        if point:
            self.answers[key].append(await self._called(key))

    async def _has_its_effect(self, key: str) -> bool:
        """Return whether the effect of an order is there, and no event is left in the outbox."""
        if self._once:
            outbox = Base.metadata.tables["aiorpc_outbox"]
            async with self._engine.connect() as connection:
                if await connection.scalar(select(func.count()).select_from(outbox)):
                    return False
        return bool(await self.rows(Effect, key))

    async def _called(self, key: str) -> str:
        end = asyncio.get_running_loop().time() + PATIENCE
        while True:
            try:
                answer: str = await self._call(key)
            except (RpcTimeout, ConnectionLost, InProgress):
                if asyncio.get_running_loop().time() > end:
                    raise
                self.again += 1
            else:
                return answer

    async def _call(self, key: str) -> str:
        method = self._order.with_options(idempotency_key=key) if self._once else self._order
        answer: str = await method(key)
        return answer

    async def rows(self, cls: Any, key: str | None = None) -> Counter[str]:
        """Return the number of rows of each key, or of *key*."""
        query = select(cls.key, func.count()).group_by(cls.key)
        if key is not None:
            query = query.where(cls.key == key)
        async with self._engine.connect() as connection:
            return Counter(dict(list(await connection.execute(query))))


@asynccontextmanager
async def staged(
    servers: Urls, kind: str, *, once: bool = True, beside: bool = False
) -> AsyncIterator[Stage]:
    """
    Make a database and names of our own, and delete all of it at the end.

    Args:
        once: whether the services have a store of keys, an outbox and an inbox.
        beside: whether a second process works beside the one that dies. Otherwise a new process
            starts when it has died.
    """
    run = secrets.token_hex(4)
    async with own_database(kind, getattr(servers, kind, None)) as database:
        config = {
            "AMQP_URI": servers.rabbitmq,
            "DB_URI": database,
            "DISCOVERY": False,
            "RPC_TIMEOUT": ATTEMPT,
        }
        for service in services(run, once=once):
            await create_tables(config, service)
        async with (
            open_engine(configured(config, "once", Base)) as engine,
            forking() as forks,
            ClusterRpcProxy(config) as cluster,
            open_transport(resolve(config), name="once") as transport,
        ):
            stage = Stage(forks, run, config, engine, cluster, once=once, beside=beside)
            try:
                yield stage
            finally:
                await stage.close()
                for queue in queues(run):
                    await transport.delete(queue)


async def listed(servers: Urls, kind: str) -> list[str]:
    """Return the points of a run on a database of *kind* in which nobody dies."""
    async with staged(servers, kind) as stage:
        return await stage.listed()


async def play(
    servers: Urls,
    kind: str,
    *,
    every: int = 1,
    first: int = 0,
    at: str = "",
    once: bool = True,
    beside: bool = False,
) -> Report:
    """
    Kill a process at each point, or at each *every*-th from the *first*, whose name contains *at*.

    Args:
        once, beside: see :func:`staged`.
    """
    began = asyncio.get_running_loop().time()
    report = Report(kind, "runs beside it" if beside else "starts then")
    async with staged(servers, kind, once=once, beside=beside) as stage:
        report.points = await stage.listed()
        for point in [each for each in report.points if at in each][first::every]:
            (report.killed if await stage.die_at(point) else report.missed).append(point)
        await stage.close()  # which finishes all events
        await judge(stage, report)
    report.seconds = asyncio.get_running_loop().time() - began
    return report


async def judge(stage: Stage, report: Report) -> None:
    """Write into *report* what is not once."""
    orders, effects = await stage.rows(Order), await stage.rows(Effect)
    report.orders = len(stage.points)
    report.again = stage.again
    for key, point in stage.points.items():
        for what, rows in (("orders", orders), ("effects", effects)):
            if rows[key] != 1:
                wrong = report.twice if rows[key] else report.lost
                wrong.append(f"{rows[key]} {what} of {key}, killed {point or 'nowhere'}")
        if len(set(stage.answers[key])) != 1:
            report.other.append(f"two answers to {key}, killed {point}")
