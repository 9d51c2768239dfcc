"""aiorpc.testing as type checkers see it. Never runs: mypy and pyright check it."""

from __future__ import annotations

from typing import Any, assert_type

from aiorpc import ClusterProxy, RpcProxy, ServiceContainer, ServiceRunner, once, rpc
from aiorpc.testing import entrypoint_hook, entrypoint_waiter, faults, run_sync, worker_factory
from aiorpc.testing.plugin import ContainerFactory, RunnerFactory


class Service:
    name = "service"
    y = RpcProxy("service_y")

    @rpc
    async def method(self, value: str) -> int:
        return len(value)

    @rpc
    def in_a_thread(self, value: str) -> int:
        return len(value)

    def plain(self, value: str) -> int:
        return len(value)

    @once
    async def at_start(self) -> None: ...


async def a_unit_test() -> None:
    service = worker_factory(Service, y=object())
    assert_type(service, Service)
    assert_type(await service.method("x"), int)
    assert_type(await run_sync(service.in_a_thread, "x"), int)
    assert_type(await run_sync(service.plain, "x"), int)
    worker_factory(Service())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def a_test_with_fixtures(
    container_factory: ContainerFactory, runner_factory: RunnerFactory, cluster_rpc: ClusterProxy
) -> None:
    container = container_factory(Service, {"max_workers": 1})
    assert_type(container, ServiceContainer)
    assert_type(runner_factory(Service), ServiceRunner)
    async with container, entrypoint_hook(container, "method", {"language": "en"}) as method:
        assert_type(await method("x"), Any)
        async with entrypoint_waiter(container, "method", timeout=1) as result:
            await cluster_rpc.service.method("x")
        assert_type(result.get(), Any)
        with faults.lose_reply(container, "method", times=1) as fault:
            assert_type(fault.struck, int)
        with faults.drop_connection(cluster_rpc):
            pass
