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
from contextlib import asynccontextmanager, suppress
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
#: Seconds to wait for a process to pass the point at which it dies.
REACHED_WITHIN = 5.0


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

    async def listed(self) -> list[str]:
        """Return the points of a run in which nobody dies."""
        process = await self._ready_for("")
        await self._ordered("")
        points: list[str] = await process.ask("list")
        return points

    async def die_at(self, point: str) -> bool:
        """Play one run; return whether the process died at *point*."""
        process = await self._ready_for(point)
        ordered = asyncio.ensure_future(self._ordered(point))
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(REACHED_WITHIN):
                    await process.died.wait()
            died = process.died.is_set()
            await self._keeper()
            await ordered
        finally:
            ordered.cancel()
        return died

    async def close(self) -> None:
        """Let the last process finish what it does, and end it."""
        if self._process is not None:
            await self._process.stop()

    async def _keeper(self) -> Shopkeeper:
        """Return a process that serves, a new one if the last has died."""
        if self._process is None or self._process.died.is_set():
            self._process = await self._forks.start(self._run, self._config, once=self._once)
        return self._process

    async def _ready_for(self, point: str) -> Shopkeeper:
        """Return a process that has served an order, so that its connections are open."""
        process = await self._keeper()
        await self._ordered("")
        assert await process.ask("arm", point) == "armed"
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
async def staged(servers: Urls, kind: str, *, once: bool = True) -> AsyncIterator[Stage]:
    """
    Make a database and names of our own, and delete all of it at the end.

    Args:
        once: whether the services have a store of keys, an outbox and an inbox.
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
            stage = Stage(forks, run, config, engine, cluster, once=once)
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
    servers: Urls, kind: str, *, every: int = 1, first: int = 0, at: str = "", once: bool = True
) -> Report:
    """
    Kill a process at each point, or at each *every*-th from the *first*, whose name contains *at*.

    Args:
        once: see :func:`staged`.
    """
    began = asyncio.get_running_loop().time()
    report = Report(kind)
    async with staged(servers, kind, once=once) as stage:
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
