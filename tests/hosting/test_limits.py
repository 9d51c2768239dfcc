"""``max_concurrency`` and ``max_waiting``: calls run, wait or are refused; over every transport."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from aiorpc import (
    ClusterRpcProxy,
    ConfigurationError,
    Context,
    Overloaded,
    RpcTimeout,
    ServiceContainer,
    consume,
    event_dispatcher,
    event_handler,
    rpc,
)
from aiorpc.call import Call
from aiorpc.calling.proxies import ClusterProxy
from aiorpc.config import resolve
from aiorpc.hosting import limits
from aiorpc.hosting.worker import Worker
from aiorpc.transports import open_transport
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Queue
from tests.support.waiting import eventually


@dataclass
class Stage:
    """A service with limited methods, which run until the test lets them go on."""

    config: dict[str, Any]
    name: str = field(default_factory=lambda: f"limited_{uuid.uuid4().hex[:8]}")
    running: list[Any] = field(default_factory=list)
    most: int = 0
    ran: list[Any] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    thread_goes_on: threading.Event = field(default_factory=threading.Event)
    cluster: ClusterProxy = field(init=False)

    async def run(self, value: Any) -> Any:
        self.running.append(value)
        self.most = max(self.most, len(self.running))
        try:
            await self.go_on.wait()
            self.ran.append(value)
        finally:
            self.running.remove(value)
        return value

    @property
    def service(self) -> type:
        class Service:
            name = self.name

            @rpc(max_concurrency=2)
            async def patient(service, value: int) -> int:
                return cast("int", await self.run(value))

            @rpc(max_concurrency=1, max_waiting=1)
            async def impatient(service, value: int) -> int:
                return cast("int", await self.run(value))

            @rpc(max_concurrency=1, max_waiting=0)
            def blocking(service, value: int) -> int:
                self.running.append(value)
                self.thread_goes_on.wait(10)
                self.running.remove(value)
                return value

            @rpc
            async def quick(service) -> str:
                return "quick"

            @event_handler(self.name, "happened", max_concurrency=1)
            async def handle(service, payload: int) -> None:
                await self.run(payload)

            @consume(Queue(f"{self.name}-queue"), max_concurrency=2)
            async def read(service, payload: int) -> None:
                await self.run(payload)

        return Service

    def container(self, **config: Any) -> ServiceContainer:
        return ServiceContainer(self.service, {**self.config, **config})


@pytest.fixture
async def stage(broker_config: dict[str, Any]) -> AsyncIterator[Stage]:
    stage = Stage(broker_config)
    async with ClusterRpcProxy(broker_config, timeout=10) as stage.cluster:
        yield stage
        stage.go_on.set()
        stage.thread_goes_on.set()
    name = stage.name
    async with open_transport(resolve(broker_config)) as janitor:
        for queue in (f"rpc-{name}", f"evt-{name}-happened--{name}.handle", f"{name}-queue"):
            await janitor.delete(queue)


async def test_calls_above_the_limit_wait_without_a_worker(stage: Stage) -> None:
    async with stage.container(max_workers=3, PREFETCH_COUNT=20):
        service = stage.cluster[stage.name]
        replies = [service.patient.call_async(number) for number in range(6)]
        await eventually(lambda: len(stage.running) == 2)
        assert await service.quick() == "quick"
        assert await service.quick() == "quick"
        stage.go_on.set()
        assert [await reply for reply in replies] == list(range(6))
    assert stage.most == 2
    assert stage.ran == list(range(6))


async def test_a_call_above_the_number_of_waiting_calls_is_refused(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage.container():
        service = stage.cluster[stage.name]
        runs, waits = (service.impatient.call_async(number) for number in range(2))
        await eventually(lambda: stage.running)
        await service.quick()  # the second call has arrived before
        with pytest.raises(Overloaded) as refused:
            await service.impatient(2)
        assert refused.value.retry_after == 2.0
        assert str(refused.value) == (
            f"1 call(s) of {stage.name}.impatient run in this process (max_concurrency), and "
            "1 wait (max_waiting). Try again in 2 s"
        )
        stage.go_on.set()
        assert [await runs, await waits] == [0, 1]
        assert await service.impatient(3) == 3
    (record,) = [each for each in caplog.records if each.name == "aiorpc.worker"]
    assert (record.levelname, record.exc_info) == ("WARNING", None)


async def test_a_service_that_refuses_calls_answers_other_methods(stage: Stage) -> None:
    async with stage.container(max_workers=2):  # so the prefetch is 3
        service = stage.cluster[stage.name]
        first = [service.impatient.call_async(number) for number in range(2)]
        await eventually(lambda: stage.running)
        assert await service.quick() == "quick"
        more = [service.impatient.call_async(number) for number in range(30)]
        assert await service.quick() == "quick"
        for reply in more:
            with pytest.raises(Overloaded):
                await reply
        stage.go_on.set()
        assert [await reply for reply in first] == [0, 1]


async def test_a_waiting_call_that_its_caller_cancels_leaves(stage: Stage) -> None:
    async with stage.container():
        service = stage.cluster[stage.name]
        runs, waits = (service.impatient.call_async(number) for number in range(2))
        await eventually(lambda: stage.running)
        await service.quick()
        waits.cancel()

        async def is_taken() -> bool:
            try:
                return await service.impatient.with_options(timeout=0.3)(2) == 2
            except Overloaded:
                return False
            except RpcTimeout:  # it waited
                return True

        await eventually(is_taken)
        stage.go_on.set()
        assert await runs == 0
    assert 1 not in stage.ran


async def test_waiting_calls_past_their_deadline_do_not_run_and_the_next_one_does(
    stage: Stage,
) -> None:
    async with stage.container():
        service = stage.cluster[stage.name]
        runs = [service.patient.call_async(number) for number in range(2)]
        await eventually(lambda: len(stage.running) == 2)
        hurried = service.patient.with_options(timeout=0.1)
        late = [hurried.call_async(number) for number in range(10, 13)]
        waits = service.patient.call_async(2)
        for reply in late:
            with pytest.raises(RpcTimeout):
                await reply
        stage.go_on.set()
        assert [await reply for reply in (*runs, waits)] == [0, 1, 2]
    assert stage.ran == [0, 1, 2]


async def test_waiting_calls_of_a_stopping_service_run_in_another_instance(stage: Stage) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(stage.container())
        service = stage.cluster[stage.name]
        replies = [service.patient.call_async(number) for number in range(4)]
        await eventually(lambda: len(stage.running) == 2)
        await service.quick()
        stopping = asyncio.ensure_future(first.stop())
        other = await stack.enter_async_context(stage.container())
        await eventually(lambda: len(stage.running) == 4)  # two here, two there
        stage.go_on.set()
        assert [await reply for reply in replies] == list(range(4))
        await stopping
        assert other.running == 0


async def test_a_thread_keeps_its_place_until_it_returns(stage: Stage) -> None:
    async with stage.container():
        service = stage.cluster[stage.name]
        with pytest.raises(RpcTimeout):
            await service.blocking.with_options(timeout=0.2)(1)
        assert stage.running == [1]
        with pytest.raises(Overloaded):
            await service.blocking(2)
        stage.thread_goes_on.set()

        async def is_free() -> bool:
            try:
                return await service.blocking(3) == 3
            except Overloaded:
                return False

        await eventually(is_free)


async def test_events_above_the_limit_wait_at_the_broker_for_any_instance(stage: Stage) -> None:
    async with (
        stage.container() as first,
        event_dispatcher(stage.config) as dispatch,
    ):
        for number in range(3):
            await dispatch(stage.name, "happened", number)
        await eventually(lambda: stage.running == [0])
        async with stage.container():
            await eventually(lambda: sorted(stage.running) == [0, 1])
            assert first.running == 1
            stage.go_on.set()
            await eventually(lambda: sorted(stage.ran) == [0, 1, 2])
    assert stage.most == 2


async def test_messages_run_up_to_the_limit(stage: Stage) -> None:
    async with stage.container() as container:
        for number in range(5):
            message = container.wire.payloads.encode(number, Context())
            queue = f"{stage.name}-queue"
            container.transport.send(Outgoing(exchange="", routing_key=queue, message=message))
        await eventually(lambda: len(stage.running) == 2)
        stage.go_on.set()
        await eventually(lambda: len(stage.ran) == 5)
    assert stage.most == 2


def test_retry_after_follows_the_duration_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(limits, "monotonic", lambda: now)
    limit = limits._Limit(2, 4)

    def worker() -> Worker:
        return cast("Worker", type("Fake", (), {"call": Call("shop", "report")})())

    for _ in range(50):
        run = worker()
        assert limit.enter(run)
        now += 6.0
        assert limit.leave(run) is None
    for _ in range(6):
        limit.enter(worker())
    with pytest.raises(Overloaded) as refused:
        limit.enter(worker())
    # Four wait, and this one: five runs of 6 s, two at a time.
    assert refused.value.retry_after == pytest.approx(15, abs=0.01)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            {"max_concurrency": 0},
            r"max_concurrency of Rpc must be a number of calls, 1 or more, .* got 0 \(int\)",
        ),
        ({"max_concurrency": True}, r"got True \(bool\)"),
        ({"max_concurrency": "5"}, r"got '5' \(str\)"),
        (
            {"max_concurrency": 5, "max_waiting": -1},
            r"max_waiting of Rpc must be a number of calls, 0 or more, .* got -1",
        ),
        ({"max_waiting": 5}, "max_waiting needs max_concurrency"),
    ],
)
def test_bad_limits_are_refused_when_the_class_is_made(options: Any, error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        rpc(**options)


def test_an_event_cannot_be_refused() -> None:
    with pytest.raises(ConfigurationError, match="events cannot be refused"):
        event_handler("shop", "sold", max_concurrency=1, max_waiting=0)
