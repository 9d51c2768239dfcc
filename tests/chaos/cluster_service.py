"""
The service of the quorum scenarios, in its own process: `python -m tests.chaos.cluster_service`,
with its configuration in the environment. It logs to standard output.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiorpc import Retry, WorkerContext, event_handler, rpc, serve
from tests.chaos.service import TABLE, Chaos, Database

#: Items of a stream.
ITEMS = 5


class Ran(Database):
    """Tells whether the ledger has a row."""

    def value(self, worker_ctx: WorkerContext) -> Callable[[str], Awaitable[Any]]:
        def ran(call_id: str) -> Awaitable[Any]:
            return self.pool.fetchval(f"SELECT count(*) > 0 FROM {TABLE} WHERE call = $1", call_id)

        return ran


class Clustered(Chaos):
    """`Chaos` with a stream, and with events of which some need a delayed retry."""

    ran = Ran()

    @rpc
    async def items(self, call_id: str, hold: float) -> AsyncIterator[str]:
        await self.record(call_id)
        for number in range(ITEMS):
            yield f"{call_id}.{number}"
            await asyncio.sleep(hold)

    @event_handler(f"{Chaos.name}_source", "happened", retry=Retry(delays=[0.3]))
    async def handle(self, payload: dict[str, Any]) -> None:
        call_id = payload["call_id"]
        failed = f"{call_id} failed"
        if payload["fails"] and not await self.ran(failed):
            await self.record(failed)
            raise ConnectionError("the first attempt fails")
        await asyncio.sleep(payload["hold"])
        await self.record(call_id)


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s"
    )
    sys.exit(asyncio.run(serve(Clustered, config=json.loads(os.environ["CHAOS_CONFIG"]))))
