"""
The service under test, in its own process: `python -m tests.chaos.service`, with its configuration
in the environment. It logs to standard output.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from aiorpc import Config, DependencyProvider, RpcProxy, WorkerContext, rpc, serve
from aiorpc.extensions import Host
from tests.chaos.ledger import APPLICATION

TABLE = os.environ.get("CHAOS_TABLE", "")


class Database(DependencyProvider[Any]):
    """A connection pool with the lifetime of the container."""

    pool: asyncpg.Pool

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        settings = {"application_name": f"{APPLICATION}-{TABLE}"}
        async with asyncpg.create_pool(
            os.environ["CHAOS_LEDGER"], min_size=1, max_size=8, server_settings=settings
        ) as self.pool:
            yield

    def value(self, worker_ctx: WorkerContext) -> Any:
        return self.pool


class Record(Database):
    """Writes a row for this run and commits it at once."""

    def value(self, worker_ctx: WorkerContext) -> Callable[[str], Awaitable[Any]]:
        def record(call_id: str) -> Awaitable[Any]:
            return self.pool.execute(INSERT, call_id, os.getpid())

        return record


class Transaction(Database):
    """
    A transaction with the lifetime of the worker: committed at its end, rolled back by an error.
    """

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[Any]:
        async with self.pool.acquire() as connection, connection.transaction():
            yield connection


INSERT = f"INSERT INTO {TABLE} (call, process) VALUES ($1, $2)"


class Chaos:
    name = os.environ.get("CHAOS_SERVICE", "chaos")
    record = Record()
    itself = RpcProxy(name)
    config = Config()

    @rpc
    async def work(self, call_id: str, hold: float) -> str:
        await self.record(call_id)
        await asyncio.sleep(hold)
        return f"done {call_id}"

    @rpc(delivery="at_most_once")
    async def work_once(self, call_id: str, hold: float) -> str:
        return await Chaos.work(self, call_id, hold)

    @rpc
    async def relay(self, call_id: str, hold: float) -> str:
        """Call `work` over a second hop."""
        return await self.itself.work(call_id, hold)

    @rpc
    async def relay_booking(self, call_id: str, hold: float) -> str:
        result: str = await self.booking.book(call_id, hold)
        return result

    booking = RpcProxy(f"{name}_booking")


class Booking:
    """Write rows by the call's transaction: the ledger has them only if that was committed."""

    name = f"{Chaos.name}_booking"
    transaction = Transaction()

    @rpc
    async def book(self, call_id: str, hold: float) -> str:
        await self.transaction.execute(INSERT, call_id, os.getpid())
        await asyncio.sleep(hold)
        return f"done {call_id}"


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s"
    )
    services = [Chaos, Booking] if os.environ.get("CHAOS_BOOKING") else [Chaos]
    sys.exit(asyncio.run(serve(*services, config=json.loads(os.environ["CHAOS_CONFIG"]))))
