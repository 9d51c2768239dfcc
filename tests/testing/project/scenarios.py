"""
The tests of this project. The test modules beside this file run them with pytest-asyncio, in both
modes, and with anyio's plugin.
"""

from __future__ import annotations

import asyncio

import pytest
from greetings import ServiceX, ServiceY

from aiorpc import RpcTimeout, UnknownService
from aiorpc.testing import (
    entrypoint_hook,
    entrypoint_waiter,
    faults,
    replace_dependencies,
    worker_factory,
)


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def test_a_unit():
    service = worker_factory(ServiceX)
    service.y.append_identifier.return_value = "from y"
    assert await service.remote_method("hello") == "from y"
    service.y.append_identifier.assert_awaited_once_with("hello-x")


async def test_services_together(runner_factory, cluster_rpc):
    async with runner_factory(ServiceX, ServiceY):
        assert await cluster_rpc.project_service_x.remote_method("hello") == "hello-x-y"


async def test_one_service_alone(container_factory, cluster_rpc):
    container = container_factory(ServiceX)
    y = replace_dependencies(container, "y")
    y.append_identifier.return_value = "from y"
    await container.start()  # the fixture stops it
    assert await cluster_rpc.project_service_x.remote_method("hello") == "from y"
    async with entrypoint_hook(container, "what_language", {"language": "en"}) as what_language:
        assert await what_language() == "en"
    async with entrypoint_waiter(container, "on_greeted", timeout=5) as result:
        await cluster_rpc.project_service_x.greet("Ada")
    assert result.get() == "hello Ada"


async def test_a_message_in_a_queue(container_factory, get_message_from_queue):
    container = container_factory(ServiceX)
    replace_dependencies(container, "y", "dispatch")
    async with container, entrypoint_hook(container, "greet") as greet:
        await greet("Ada")
        assert (await get_message_from_queue("project_letters")).payload == "Dear Ada"


async def test_a_lost_reply(container_factory, cluster_rpc):
    async with container_factory(ServiceY) as container:
        append = cluster_rpc.project_service_y.append_identifier
        with faults.lose_reply(container), pytest.raises(RpcTimeout):
            await append.with_options(timeout=0.1)("hello")
        assert await append("hello") == "hello-y"


async def test_nothing_is_left_of_the_tests_before(cluster_rpc):
    with pytest.raises(UnknownService):
        await cluster_rpc.project_service_y.append_identifier("hello")


async def test_fixtures_run_on_the_loop_of_the_test(cluster_rpc):
    assert cluster_rpc._client._loop is asyncio.get_running_loop()
