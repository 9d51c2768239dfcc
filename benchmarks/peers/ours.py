"""
aiorpc, by nothing but its public face: ``ServiceContainer`` and ``ClusterRpcProxy``, one annotated
argument, context data and a deadline on every call.

Beyond what all peers do: many services in one ``ServiceRunner`` (``--services``), a method that
computes (``--busy``), and everything in one process (``--local``, for memory://).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiorpc import ClusterProxy, ClusterRpcProxy, RpcProxy, ServiceContainer, ServiceRunner, rpc

from . import load

#: Seconds; what every call carries as its deadline.
TIMEOUT = 30


def config_of(options: load.Options) -> dict[str, Any]:
    return {
        "AMQP_URI": options.broker,
        "CALL_PROFILE": options.profile,
        "max_workers": options.max_workers,
        "MAX_MESSAGE_SIZE": options.max_message_size,
    }


def service_y(service_name: str) -> type:
    class ServiceY:
        name = service_name

        @rpc
        async def hello(self, value: str) -> str:
            return value + "-y"

        @rpc
        async def compute(self, value: str) -> str:
            end = time.thread_time() + 0.001
            while time.thread_time() < end:
                pass
            return value + "-y"

    return ServiceY


def service_x(service_name: str, callee: type) -> type:
    class ServiceX:
        name = service_name
        y = RpcProxy(callee)

        @rpc
        async def hello(self, value: str) -> str:
            answer: str = await self.y.hello(value + "-x")
            return answer

    return ServiceX


def services(options: load.Options) -> list[type]:
    """x and y; or as many of y as ``--services`` says."""
    name_x, name_y = load.service_names(options)
    if options.services:
        return [service_y(f"{name_y}{number}") for number in range(options.services)]
    y = service_y(name_y)
    return [y, service_x(name_x, y)]


@asynccontextmanager
async def serve(options: load.Options) -> AsyncGenerator[None]:
    config = config_of(options)
    async with AsyncExitStack() as stack:
        if options.services:
            await stack.enter_async_context(ServiceRunner(*services(options), config=config))
        else:
            for service in services(options):
                await stack.enter_async_context(ServiceContainer(service, config))
        yield


@asynccontextmanager
async def connect(options: load.Options) -> AsyncGenerator[load.Call]:
    cluster = ClusterRpcProxy(config_of(options), timeout=TIMEOUT, context_data={"user_id": "u1"})
    async with AsyncExitStack() as stack:
        if options.local:
            await stack.enter_async_context(serve(options))
        yield calling(await stack.enter_async_context(cluster), options)


def calling(cluster: ClusterProxy, options: load.Options) -> load.Call:
    """What calls x, or y, or each of many services in turn."""
    name_x, name_y = load.service_names(options)
    method = "compute" if options.busy else "hello"
    if not options.services:
        called = cluster[name_x if options.two_hops else name_y][method]

        async def call(value: str) -> str:
            answer: str = await called(value)
            return answer

        return call
    methods: list[Callable[[str], Awaitable[str]]] = [
        cluster[f"{name_y}{number}"][method] for number in range(options.services)
    ]
    turn = itertools.cycle(methods)

    async def call_next(value: str) -> str:
        return await next(turn)(value)

    return call_next


def parser() -> Any:
    arguments = load.parser()
    arguments.add_argument("--profile", choices=["durable", "fast"], default="durable")
    arguments.add_argument("--max-workers", type=int, default=100)
    arguments.add_argument("--max-message-size", type=int, help="bytes; default: that of aiorpc")
    arguments.add_argument("--services", type=int, default=0)
    arguments.add_argument("--busy", action="store_true", help="1 ms of computing per call")
    arguments.add_argument("--local", action="store_true", help="client: serve here, too")
    return arguments


if __name__ == "__main__":
    load.main(serve, connect, parser())
