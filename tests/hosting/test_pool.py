"""How a host makes calls and runs them in workers, seen through a container."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiorpc import Call, Context, Entrypoint, Handler, Host, ServiceContainer
from aiorpc.extensions import Ending, Outcome


class Fired(Entrypoint):
    """Fires only when a test submits a call."""

    @asynccontextmanager
    async def listen(self, host: Host) -> AsyncGenerator[None]:
        yield


class Service:
    name = "pooled"

    @Fired.decorator
    async def method(self, number: int = 0) -> int:
        return number


@pytest.fixture
def config() -> dict[str, Any]:
    return {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}


def recorder(calls: list[Call]) -> Any:
    async def record(call: Call, handler: Handler) -> Any:
        calls.append(call)
        return await handler(call)

    return record


async def test_a_call_of_the_host_has_its_call_id_before_it_runs(config: dict[str, Any]) -> None:
    ran: list[Call] = []
    async with ServiceContainer(Service, config, middleware=[recorder(ran)]) as container:
        (entrypoint,) = container.entrypoints
        call = container.new_call(entrypoint, (7,), {}, Context(("origin",)), "test")
        assert call.id.startswith("pooled.method.")
        assert call.context.call_id_stack == ("origin", call.id)
        assert await container.work(entrypoint, call) == 7
    assert ran == [call]


async def test_a_call_made_by_hand_gets_a_new_call_id_each_time_it_is_submitted(
    config: dict[str, Any],
) -> None:
    ran: list[Call] = []
    call = Call("pooled", "method", (7,), context=Context(("origin",)), kind="test")
    async with ServiceContainer(Service, config, middleware=[recorder(ran)]) as container:
        (entrypoint,) = container.entrypoints
        assert [await container.work(entrypoint, call) for _ in range(2)] == [7, 7]
    first, second = ran
    assert first.id != second.id
    for each in ran:
        assert each.context.call_id_stack == ("origin", each.id)
        assert (each.args, each.kind) == (call.args, call.kind)


async def test_a_call_that_is_submitted_to_a_stopped_container_is_abandoned(
    config: dict[str, Any],
) -> None:
    container = ServiceContainer(Service, config)
    async with container:
        (entrypoint,) = container.entrypoints
    outcomes: list[Outcome] = []
    container.submit(entrypoint, container.new_call(entrypoint), outcomes.append)
    assert [outcome.ending for outcome in outcomes] == [Ending.ABANDONED]


async def test_a_call_that_is_cancelled_while_it_waits_for_a_worker_does_not_run(
    config: dict[str, Any],
) -> None:
    ran: list[Call] = []
    outcomes: list[asyncio.Future[Outcome]] = []
    container = ServiceContainer(Service, {**config, "max_workers": 1}, middleware=[recorder(ran)])
    async with container:
        (entrypoint,) = container.entrypoints
        submitted = []
        for number in range(3):
            outcomes.append(asyncio.get_running_loop().create_future())
            call = container.new_call(entrypoint, (number,))
            submitted.append(container.submit(entrypoint, call, outcomes[-1].set_result))
        submitted[1].cancel()
        endings = [(await outcome).ending for outcome in outcomes]
    assert endings == [Ending.RETURNED, Ending.CANCELLED, Ending.RETURNED]
    assert [call.args for call in ran] == [(0,), (2,)]
