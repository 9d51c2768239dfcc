"""What a runner waits for at its start, and what ends it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiorpc import (
    ClusterRpcProxy,
    ConfigurationError,
    ConnectionLost,
    DependencyProvider,
    Queue,
    ServiceContainer,
    ServiceRunner,
    consume,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.hosting import runner as runner_module
from aiorpc.transports import open_transport
from aiorpc.transports.base import Transport
from tests.support.waiting import eventually


@pytest.fixture
async def operator(broker_config: dict[str, Any]) -> AsyncGenerator[Transport]:
    """The connection of somebody else, who deletes the queues of the test at its end."""
    async with open_transport(resolve(broker_config), name="operator") as transport:
        yield transport


def service_with(*queues: Queue) -> Any:
    """A service that consumes *queues*, and has an ``@rpc`` method."""

    async def hear(self: Any, payload: Any) -> None: ...

    async def ping(self: Any) -> str:
        return "pong"

    methods = {f"hear_{n}": consume(queue)(_copy(hear)) for n, queue in enumerate(queues)}
    name = f"patience_{uuid.uuid4().hex[:8]}"
    return type("Patient", (), {"name": name, "ping": rpc(ping), **methods})


def _copy(method: Any) -> Any:
    async def copy(self: Any, payload: Any) -> None:
        await method(self, payload)

    return copy


@asynccontextmanager
async def starting(*services: type, config: dict[str, Any]) -> AsyncIterator[ServiceRunner]:
    """A runner that starts; the end of the block stops it."""
    runner = ServiceRunner(*services, config=config)
    start = asyncio.create_task(runner.start())
    try:
        yield runner
    finally:
        if not start.done():
            start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        await runner.stop()


async def refused(runner: ServiceRunner) -> str:
    """Wait until the broker refuses something, and return why the runner is not healthy."""
    await eventually(lambda: runner.containers[0].patience.trouble)
    return " ".join(runner.health().problems)


async def test_a_queue_that_others_declare_later_is_waited_for(
    broker_config: dict[str, Any], operator: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(f"patience_{uuid.uuid4().hex[:8]}", passive=True)
    service = service_with(queue)
    async with starting(service, config=broker_config) as runner:
        reason = await refused(runner)
        assert f"{service.name} is not ready yet" in reason
        assert queue.name in reason
        await asyncio.sleep(0.3)  # for some more attempts
        (line,) = [each for each in caplog.messages if "trying again" in each]
        assert line.startswith(f"{service.name} is not ready: ")
        assert "404" in line
        await operator.declare(queues=[Queue(queue.name)])
        await eventually(lambda: runner.health().ok)
        async with ClusterRpcProxy(broker_config) as cluster:
            assert await cluster[service.name].ping() == "pong"
    for name in (queue.name, f"rpc-{service.name}"):
        await operator.delete(name)


async def test_a_queue_of_another_connection_is_waited_for(
    broker_config: dict[str, Any], operator: Transport
) -> None:
    queue = Queue(f"patience_{uuid.uuid4().hex[:8]}", durable=False, exclusive=True)
    service = service_with(queue)
    async with open_transport(resolve(broker_config), name="holder") as holder:
        await holder.declare(queues=[queue])
        async with starting(service, config=broker_config) as runner:
            assert "it is exclusive to another" in await refused(runner) or (
                "is exclusive to another connection" in await refused(runner)
            )
            await holder.aclose()
            await eventually(lambda: runner.health().ok)
    await operator.delete(f"rpc-{service.name}")


async def test_a_queue_that_is_waited_for_takes_no_consumer_from_another(
    broker_config: dict[str, Any], operator: Transport
) -> None:
    there = Queue(f"patience_{uuid.uuid4().hex[:8]}", auto_delete=True)
    service = service_with(there, Queue(f"patience_{uuid.uuid4().hex[:8]}", passive=True))
    async with starting(service, config=broker_config) as runner:
        await refused(runner)
        (before,) = consumers_of(there, runner)
        await asyncio.sleep(0.3)  # for some more attempts
        assert consumers_of(there, runner) == [before]
        assert before.consuming
    await operator.delete(f"rpc-{service.name}")


def consumers_of(queue: Queue, runner: ServiceRunner) -> list[Any]:
    subscriptions = runner.containers[0].transport.subscriptions
    return [each for each in subscriptions if each.queue.name == queue.name]


class Flaky(DependencyProvider[None]):
    """Shares an object, and is refused some times after that."""

    def __init__(self, refusals: int, *, may_pass: bool = True) -> None:
        self._refusals = refusals
        self._may_pass = may_pass
        self.story: list[str] = []

    @asynccontextmanager
    async def lifespan(self, host: Any) -> AsyncGenerator[None]:
        await host.share("key", self._shared)
        if self.story.count("opened") <= self._refusals:
            raise ConfigurationError("no permission yet", may_pass=self._may_pass)
        yield
        self.story.append("ended")

    @asynccontextmanager
    async def _shared(self) -> AsyncGenerator[None]:
        self.story.append("opened")
        try:
            yield
        finally:
            self.story.append("closed")

    def bound_to(self, attr_name: str) -> Flaky:
        return self

    def value(self, worker_ctx: Any) -> None:
        return None


def service_of(flaky: Flaky) -> type:
    class Shop:
        name = "shop"
        dependency = flaky

        @rpc
        async def ping(self) -> str:
            return "pong"

    return Shop


async def test_what_a_refused_dependency_shared_is_closed_before_the_next_attempt() -> None:
    flaky = Flaky(refusals=2)
    async with ServiceRunner(service_of(flaky), config="memory://flaky"):
        assert flaky.story == ["opened", "closed", "opened", "closed", "opened"]
    assert flaky.story[5:] == ["ended", "closed"]


async def test_a_refusal_that_cannot_pass_by_itself_ends_the_start() -> None:
    flaky = Flaky(refusals=1, may_pass=False)
    with pytest.raises(ConfigurationError, match="no permission yet"):
        await ServiceRunner(service_of(flaky), config="memory://flaky").start()
    assert flaky.story == ["opened", "closed"]


@pytest.mark.parametrize("kind", ["runner", "container"])
async def test_without_patience_the_first_refusal_ends_the_start(kind: str) -> None:
    flaky = Flaky(refusals=1)
    service = service_of(flaky)
    host = (
        ServiceRunner(service, config="memory://flaky", fail_fast=True)
        if kind == "runner"
        else ServiceContainer(service, config="memory://flaky")
    )
    with pytest.raises(ConfigurationError, match="no permission yet"):
        await host.start()
    assert flaky.story == ["opened", "closed"]


async def test_with_fail_fast_a_broker_that_does_not_answer_ends_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_module, "FAIL_WITHIN", 0.2)
    service = service_of(Flaky(0))
    runner = ServiceRunner(service, config="amqp://guest:guest@127.0.0.1:1/", fail_fast=True)
    with pytest.raises(
        ConnectionLost,
        match=r"no connection to .* within 0\.2 s: the connection was refused: start ",
    ):
        await runner.start()


async def test_a_start_that_waits_can_be_stopped() -> None:
    flaky = Flaky(refusals=10**6)
    async with starting(service_of(flaky), config={"AMQP_URI": "memory://flaky"}) as runner:
        await refused(runner)
    assert not runner.health().ok
    assert runner.containers[0].patience.trouble == ""


async def test_a_service_that_fails_while_another_waits_ends_the_start() -> None:
    class Feed(DependencyProvider[None]):
        @asynccontextmanager
        async def lifespan(self, host: Any) -> AsyncGenerator[None]:
            host.spawn(self._follow(), "feed")
            yield

        async def _follow(self) -> None:
            await eventually(lambda: runner.containers[0].patience.trouble)
            raise OSError("feed lost")

        def value(self, worker_ctx: Any) -> None:
            return None

    class News:
        name = "news"
        feed = Feed()

        @rpc
        async def read(self) -> None: ...

    runner = ServiceRunner(service_of(Flaky(refusals=10**6)), News, config="memory://flaky")
    with pytest.raises(OSError, match="feed lost"):
        await runner.start()
