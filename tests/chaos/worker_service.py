"""
The service of `test_workers`: `aiorpc run tests.chaos.worker_service --workers N`. The ledger is a
file, in which each run adds a line with one write; so a killed process loses none of them.
"""

from __future__ import annotations

import asyncio
import os

from aiorpc import rpc
from aiorpc.http import http

_LEDGER = os.open(os.environ["WORKERS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


async def run(call_id: str) -> str:
    os.write(_LEDGER, f"{call_id}\n".encode())
    await asyncio.sleep(0.1)  # so that calls run when the process is killed
    return f"done {call_id}"


class Worked:
    name = os.environ["WORKERS_SERVICE"]

    @rpc
    async def work(self, call_id: str) -> str:
        return await run(call_id)

    @rpc(delivery="at_most_once")
    async def work_once(self, call_id: str) -> str:
        return await run(call_id)

    @http("GET", "/calls/<call_id>")
    async def over_http(self, call_id: str) -> str:
        return await run(call_id)
