"""Faults strike the calls that they are given for, on every transport."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiorpc import (
    ClusterRpcProxy,
    ConfigurationError,
    DeliveryUncertain,
    DependencyProvider,
    EventDispatcher,
    RpcTimeout,
    ServiceContainer,
    ServiceRunner,
    WorkerContext,
    event_handler,
    rpc,
)
from aiorpc.testing import entrypoint_waiter, faults, once, restrict_entrypoints
from aiorpc.transports.base import State
from tests.support.breakable import reaches
from tests.support.waiting import eventually


class Journal(DependencyProvider[list[Any]]):
    """Records what workers commit; a worker whose method raises commits nothing."""

    def __init__(self) -> None:
        self.committed: list[Any] = []

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[list[Any]]:
        lines: list[Any] = []
        yield lines
        self.committed += lines


class Faulty:
    """A service with a unique name, its container, and the events that its methods set."""

    def __init__(self, config: Any) -> None:
        self.config = config
        service_name = f"faulty_{uuid.uuid4().hex[:8]}"
        journal = self.journal = Journal()
        gate = self.gate = asyncio.Event()
        gate.set()
        began: list[int] = []
        self.began = began

        class Service:
            name = service_name
            lines = journal
            dispatch = EventDispatcher()

            @rpc
            async def add(self, number: int) -> int:
                began.append(number)
                await gate.wait()
                self.lines.append(number)
                return number

            @rpc(delivery="at_most_once")
            async def add_once(self, number: int) -> int:
                self.lines.append(number)
                return number

            @rpc
            async def fail(self) -> None:
                raise ValueError("boom")

            @rpc
            async def happen(self, number: int) -> None:
                await self.dispatch("happened", number)

            @event_handler(service_name, "happened")
            async def on_happened(self, number: int) -> None:
                self.lines.append(number)

            @once
            async def at_start(self) -> None: ...

        self.service_cls = Service
        self.container = ServiceContainer(Service, config)

    @property
    def committed(self) -> list[Any]:
        # bound copies share this list
        return self.journal.committed


@pytest.fixture
async def faulty(broker_config: Any) -> AsyncIterator[Faulty]:
    faulty = Faulty(broker_config)
    async with faulty.container:
        yield faulty


@pytest.fixture
async def service(faulty: Faulty) -> AsyncIterator[Any]:
    async with ClusterRpcProxy(faulty.config, timeout=5) as cluster:
        yield cluster[faulty.container.service_name]


# lose_reply


async def test_a_lost_reply_is_a_timeout_after_the_commit(faulty: Faulty, service: Any) -> None:
    with faults.lose_reply(faulty.container, "add", times=1) as fault:
        with pytest.raises(RpcTimeout):
            await service.add.with_options(timeout=0.1)(1)
        assert await service.add(2) == 2
    assert fault.struck == 1
    assert faulty.committed == [1, 2]


async def test_a_waiter_sees_the_true_result_of_a_call_whose_reply_is_lost(
    faulty: Faulty, service: Any
) -> None:
    with faults.lose_reply(faulty.container), faults.lose_reply(faulty.container):
        async with entrypoint_waiter(faulty.container, "add", timeout=5) as added:
            service.add.with_options(timeout=0.5).call_async(1)
        async with entrypoint_waiter(faulty.container, "fail", timeout=5) as failed:
            service.fail.with_options(timeout=0.5).call_async()
    assert added.get() == 1
    with pytest.raises(ValueError, match="boom"):
        failed.get()


async def test_an_error_is_lost_as_a_reply_is(faulty: Faulty, service: Any) -> None:
    with faults.lose_reply(faulty.container), pytest.raises(RpcTimeout):
        await service.fail.with_options(timeout=0.1)()


async def test_a_fault_spares_other_methods(faulty: Faulty, service: Any) -> None:
    with faults.lose_reply(faulty.container, "fail") as fault:
        assert await service.add(1) == 1
    assert fault.struck == 0


async def test_an_event_has_no_reply_to_lose(faulty: Faulty, service: Any) -> None:
    with faults.lose_reply(faulty.container) as fault:
        async with entrypoint_waiter(faulty.container, "on_happened", timeout=5):
            with pytest.raises(RpcTimeout):
                await service.happen.with_options(timeout=0.2)(1)
    assert fault.struck == 1


@pytest.mark.parametrize(
    ("fault", "method", "why"),
    [
        (faults.lose_reply, "on_happened", "fired by EventHandler, which sends no reply"),
        (faults.lose_reply, "at_start", "fired by Once, which sends no reply"),
        (faults.duplicate, "at_start", "fired by Once, which no message starts"),
    ],
)
def test_a_fault_that_cannot_strike_is_refused(fault: Any, method: str, why: str) -> None:
    faulty = Faulty({"AMQP_URI": "memory://"})
    wrong = fault(faulty.container, method)
    with pytest.raises(ConfigurationError, match=rf"{method} is {why}.*: pass a"):
        wrong.__enter__()


def test_a_fault_is_refused_for_a_container_that_fires_nothing_it_strikes() -> None:
    container = Faulty({"AMQP_URI": "memory://"}).container
    restrict_entrypoints(container, "on_happened")
    wrong = faults.lose_reply(container)
    with pytest.raises(ConfigurationError, match="is fired by EventHandler, which sends no reply"):
        wrong.__enter__()


# delay


async def test_a_delayed_call_arrives_later(faulty: Faulty, service: Any) -> None:
    started = time.monotonic()
    with faults.delay(faulty.container, "add", seconds=0.1) as fault:
        assert await service.add(1) == 1
    assert time.monotonic() - started >= 0.1
    assert fault.struck == 1


async def test_a_call_delayed_past_its_deadline_does_not_run(faulty: Faulty, service: Any) -> None:
    with faults.delay(faulty.container, "add", seconds=0.2):
        with pytest.raises(RpcTimeout):
            await service.add.with_options(timeout=0.05)(1)
        await asyncio.sleep(0.01)  # the wire rounds the deadline of a request up to 1 ms
    assert await service.add(2) == 2
    assert faulty.committed == [2]


async def test_delayed_calls_arrive_when_the_block_ends(faulty: Faulty, service: Any) -> None:
    with faults.delay(faulty.container, "add", seconds=60) as fault:
        reply = service.add.call_async(1)
        await eventually(lambda: fault.struck)
        assert not reply.done()
    assert await reply == 1


async def test_a_delayed_call_can_be_cancelled(faulty: Faulty, service: Any) -> None:
    with faults.delay(faulty.container, "add", seconds=60, times=1) as fault:
        reply = service.add.call_async(1)
        await eventually(lambda: fault.struck)
        async with entrypoint_waiter(faulty.container, "add", timeout=5) as result:
            reply.cancel()
            await service.add(2)
        assert result.get() == 2
    await service.add(3)
    assert faulty.committed == [2, 3]


async def test_an_event_can_be_delayed(faulty: Faulty, service: Any) -> None:
    with faults.delay(faulty.container, "on_happened", seconds=0.05) as fault:
        async with entrypoint_waiter(faulty.container, "on_happened", timeout=5):
            await service.happen(1)
    assert fault.struck == 1
    assert faulty.committed == [1]


async def test_a_container_stops_while_calls_are_on_their_slow_way(broker_config: Any) -> None:
    faulty = Faulty(broker_config)
    async with ClusterRpcProxy(broker_config, timeout=5) as cluster:
        async with faulty.container:
            with faults.delay(faulty.container, "add", seconds=60) as fault:
                reply = cluster[faulty.container.service_name].add.call_async(1)
                await eventually(lambda: fault.struck)
                await faulty.container.stop()
        async with ServiceContainer(faulty.service_cls, broker_config):
            assert await reply == 1  # the broker kept it
    assert faulty.committed == [1]


# duplicate


async def test_a_duplicated_call_runs_twice_and_is_answered_once(
    faulty: Faulty, service: Any
) -> None:
    with faults.duplicate(faulty.container, "add") as fault:
        assert await service.add(1) == 1
        assert await service.add(2) == 2
    assert fault.struck == 2
    assert faulty.committed == [1, 1, 2, 2]


async def test_the_second_run_can_begin_while_the_first_runs(faulty: Faulty, service: Any) -> None:
    faulty.gate.clear()
    with faults.duplicate(faulty.container, "add", times=1, concurrently=True) as fault:
        async with entrypoint_waiter(faulty.container, "add", timeout=5):
            reply = service.add.call_async(1)
            await eventually(lambda: faulty.began == [1, 1])
            faulty.gate.set()
        assert await reply == 1
    assert fault.struck == 1
    await eventually(lambda: faulty.committed == [1, 1])


async def test_an_at_most_once_method_refuses_its_duplicate(faulty: Faulty, service: Any) -> None:
    with faults.duplicate(faulty.container, "add_once"), pytest.raises(DeliveryUncertain):
        await service.add_once(1)
    assert faulty.committed == [1]


async def test_an_event_can_be_duplicated(faulty: Faulty, service: Any) -> None:
    def second(worker_ctx: WorkerContext, *_: Any) -> bool:
        return worker_ctx.call.redelivered

    with faults.duplicate(faulty.container, "on_happened"):
        async with entrypoint_waiter(faulty.container, "on_happened", 5, second):
            await service.happen(1)
    assert faulty.committed == [1, 1]


async def test_a_method_that_no_message_fires_is_not_duplicated(broker_config: Any) -> None:
    faulty = Faulty(broker_config)
    with faults.duplicate(faulty.container) as fault:
        async with entrypoint_waiter(faulty.container, "at_start", timeout=5):
            await faulty.container.start()
        await faulty.container.stop()
    assert fault.struck == 0


# several, and none


async def test_several_faults_can_strike_together(faulty: Faulty, service: Any) -> None:
    with (
        faults.delay(faulty.container, "add", seconds=0.01) as delay,
        faults.duplicate(faulty.container, "add") as duplicate,
        faults.lose_reply(faulty.container, "add", times=1) as lost,
        pytest.raises(RpcTimeout),
    ):
        await service.add.with_options(timeout=0.2)(1)
    assert (delay.struck, duplicate.struck, lost.struck) == (2, 1, 1)
    assert faulty.committed == [1, 1]


async def test_faults_leave_nothing_behind(faulty: Faulty, service: Any) -> None:
    container = faulty.container
    with faults.lose_reply(container) as lost, faults.duplicate(container) as duplicated:
        pass
    assert container.interceptors == []
    assert await service.add(1) == 1
    assert (lost.struck, duplicated.struck) == (0, 0)


async def test_a_fault_names_a_misspelt_method(faulty: Faulty) -> None:
    for fault in (faults.lose_reply, faults.duplicate):
        wrong = fault(faulty.container, "ad")
        with pytest.raises(ConfigurationError, match="no entrypoint 'ad'; it has: add, add_once"):
            wrong.__enter__()


# drop_connection


async def test_a_call_waits_out_its_services_lost_connection(faulty: Faulty, service: Any) -> None:
    assert await service.add(1) == 1
    with faults.drop_connection(faulty.container):
        reply = service.add.call_async(2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reply.result(), 0.1)
    assert await reply == 2


async def test_a_call_waits_out_its_callers_lost_connection(faulty: Faulty, service: Any) -> None:
    assert await service.add(1) == 1
    with faults.drop_connection(service):
        reply = service.add.call_async(2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reply.result(), 0.1)
    assert await reply == 2


async def test_a_call_that_runs_while_the_connection_drops_is_answered_once(
    faulty: Faulty, service: Any
) -> None:
    faulty.gate.clear()
    reply = service.add.call_async(1)
    await eventually(lambda: faulty.began)
    with faults.drop_connection(faulty.container):
        await reaches(faulty.container.transport, State.CONNECTING)
    # The broker redelivers the request to the process that still runs it, which runs it once.
    await reaches(faulty.container.transport, State.CONNECTED)
    faulty.gate.set()
    assert await reply == 1


async def test_the_connection_of_a_runner_or_a_cluster_can_be_dropped(broker_config: Any) -> None:
    faulty = Faulty(broker_config)
    proxy = ClusterRpcProxy(broker_config, timeout=5)
    async with ServiceRunner(faulty.service_cls, config=broker_config) as runner, proxy as cluster:
        service = cluster[faulty.container.service_name]
        for connected in (runner, runner.containers[0], proxy, cluster, service):
            with faults.drop_connection(connected):
                reply = service.add.call_async(1)
            assert await reply == 1


async def test_dropping_a_connection_that_does_not_exist_is_refused(faulty: Faulty) -> None:
    other = ServiceContainer(faulty.service_cls, faulty.config)
    runner = ServiceRunner(faulty.service_cls, config=faulty.config)
    stopped = ServiceContainer(faulty.service_cls, faulty.config)
    async with stopped, ClusterRpcProxy(faulty.config) as closed:
        pass
    for connected in (
        *(other, ClusterRpcProxy(faulty.config), "amqp://localhost/"),
        *(runner, stopped, closed),
    ):
        wrong = faults.drop_connection(connected)
        with pytest.raises(ConfigurationError, match="has no connection to drop"):
            wrong.__enter__()
