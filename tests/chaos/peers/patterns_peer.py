"""
aio-pika's `patterns.RPC` on its robust connection, under the same faults. It has the commands and
lines of `nameko_peer.py`. Callers use `asyncio.timeout`, because `patterns.RPC` has no timeout.
"""

from __future__ import annotations

import asyncio
import os
import sys

import aio_pika
from aio_pika.patterns import RPC

MODE, URI, SERVICE = sys.argv[1:4]
#: Characters of a result and of an error that a broker with a limit of 1 MB refuses.
LARGE, LARGE_ERROR = 2_000_000, 900_000


async def connect() -> RPC:
    connection = await aio_pika.connect_robust(URI, heartbeat=2)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=100)
    return await RPC.create(channel)


async def serve() -> None:
    ledger = os.open(sys.argv[4], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def work(*, call_id: str, hold: float) -> str:
        os.write(ledger, f"{call_id} {os.getpid()}\n".encode())
        await asyncio.sleep(hold)
        return f"done {call_id}"

    async def give(*, call_id: str, hold: float) -> str:
        return (await work(call_id=call_id, hold=hold)).ljust(LARGE)

    async def take(*, call_id: str, hold: float, data: str) -> str:
        return await work(call_id=call_id, hold=hold)

    async def fail(*, call_id: str, hold: float) -> str:
        await work(call_id=call_id, hold=hold)
        raise ValueError("x" * LARGE_ERROR)

    rpc = await connect()
    for name, method in {"work": work, "give": give, "fail": fail, "take": take}.items():
        await rpc.register(f"{SERVICE}.{name}", method, durable=True)
    print("peer ready: it consumes", flush=True)
    await asyncio.Event().wait()


async def make(rpc: RPC, call_id: str, timeout: float, hold: float, method: str) -> None:
    arguments: dict[str, str | float] = {"call_id": call_id, "hold": hold}
    if method == "take":
        arguments["data"] = "x" * LARGE
    try:
        async with asyncio.timeout(timeout):
            answer = await rpc.call(f"{SERVICE}.{method}", arguments, expiration=int(timeout))
        kind = "right" if answer.rstrip() == f"done {call_id}" else "wrong"
    except (Exception, asyncio.CancelledError) as error:
        kind = type(error).__name__
    print(call_id, kind, flush=True)


async def call() -> None:
    rpc = await connect()
    print("peer ready: it calls", flush=True)
    calls = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        call_id, timeout, hold, method = line.split()
        task = asyncio.create_task(make(rpc, call_id, float(timeout), float(hold), method))
        calls.add(task)
        task.add_done_callback(calls.discard)


asyncio.run(serve() if MODE == "serve" else call())
