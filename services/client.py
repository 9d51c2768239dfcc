"""
Calls service_x from an asyncio program::

    aiorpc run services.service_x services.service_y --config services/config.yaml
    python -m services.client amqp://guest:guest@localhost/
"""

import asyncio
import sys
import time
from collections.abc import Awaitable

from aiorpc import AioRpcError, ClusterProxy, ClusterRpcProxy


async def one_call(cluster: ClusterProxy) -> None:
    await show(
        'await cluster.service_x.remote_method("hello")',
        cluster.service_x.remote_method("hello"),
    )


async def two_calls_at_once(cluster: ClusterProxy) -> None:
    hello = cluster.service_x.remote_method.call_async("hello")
    world = cluster.service_x.remote_method.call_async("world")
    print('  hello = cluster.service_x.remote_method.call_async("hello")')
    print('  world = cluster.service_x.remote_method.call_async("world")')
    await show("await hello.result()", hello.result())
    await show("await world", world)


async def a_service_that_does_not_exist(cluster: ClusterProxy) -> None:
    await show("await cluster.service_z.method()", cluster.service_z.method())


async def show(code: str, call: Awaitable[object]) -> None:
    """Print *code* and its outcome."""
    start = time.perf_counter()
    try:
        outcome = repr(await call)
    except AioRpcError as error:
        outcome = f"{type(error).__name__}: {error}"
    print(f"  {code}\n    -> {outcome}   ({(time.perf_counter() - start) * 1000:.1f} ms)")


async def call_everything(cluster: ClusterProxy) -> None:
    print("\none call, which calls service_y:")
    await one_call(cluster)
    print("\ntwo calls at once:")
    await two_calls_at_once(cluster)
    print("\na service that does not exist:")
    await a_service_that_does_not_exist(cluster)


async def main(url: str) -> None:
    async with ClusterRpcProxy(url, timeout=3) as cluster:
        await call_everything(cluster)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "amqp://guest:guest@localhost/"))
