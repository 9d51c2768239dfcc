"""
The service of the refusals, in its own process: `python -m tests.chaos.refused_service`, with its
configuration in the environment. It logs to standard output.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from typing import Any

from aiorpc import event_handler, rpc, serve
from tests.chaos.service import Chaos

#: Characters of a result that a broker with a limit of 1 MB refuses, and of such an error.
LARGE, LARGE_ERROR = 2_000_000, 900_000
#: Whether event handlers do not take the time that their event asks for.
HURRY = bool(os.environ.get("CHAOS_HURRY"))


class Refused(Chaos):
    """`Chaos` with methods whose messages are refused, and with events."""

    @rpc
    async def give(self, call_id: str, hold: float) -> str:
        """Return more than the broker takes."""
        return (await Chaos.work(self, call_id, hold)).ljust(LARGE)

    @rpc
    async def fail(self, call_id: str, hold: float) -> str:
        """Raise an error that is larger than the broker takes: its text travels twice."""
        await Chaos.work(self, call_id, hold)
        raise ValueError("x" * LARGE_ERROR)

    @rpc
    async def take(self, call_id: str, hold: float, data: str) -> str:
        return await Chaos.work(self, call_id, hold)

    @rpc
    async def spread(self, call_id: str, hold: float) -> str:
        """Call with context data that RabbitMQ cannot read."""
        method = self.itself.work.with_options(context_data={"ratio": float("nan")})
        return str(await method(call_id, hold))

    @event_handler(f"{Chaos.name}_source", "happened")
    async def handle(self, payload: dict[str, Any]) -> None:
        if payload["call_id"] == "poison":
            await self.record(payload["call_id"])
            os._exit(9)
        await asyncio.sleep(0 if HURRY else payload["hold"])
        await self.record(payload["call_id"])


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s"
    )
    sys.exit(asyncio.run(serve(Refused, config=json.loads(os.environ["CHAOS_CONFIG"]))))
