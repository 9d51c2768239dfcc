"""
Hooks, waiters, restrictions and replacements. ``memory://`` suffices, because they stand between
a container and its workers, and use no transport.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from aiorpc import (
    AioRpcError,
    ClusterRpcProxy,
    ConfigurationError,
    ContextData,
    DependencyProvider,
    EventDispatcher,
    MethodNotFound,
    RpcProxy,
    ServiceContainer,
    WorkerContext,
    event_handler,
    rpc,
    timer,
)
from aiorpc.testing import (
    dummy,
    entrypoint_hook,
    entrypoint_waiter,
    once,
    replace_dependencies,
    restrict_entrypoints,
)


class Log(DependencyProvider[list[str]]):
    """Records when workers open and close."""

    lines: ClassVar[list[str]] = []

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[list[str]]:
        self.lines.append("open")
        try:
            yield self.lines
        except BaseException as exc:
            self.lines.append(type(exc).__name__)
            raise
        await asyncio.sleep(0)
        self.lines.append("close")


def service_class() -> Any:
    """Make a service with a name that no other test uses."""
    service_name = f"tested_{uuid.uuid4().hex[:8]}"

    class Tested:
        name = service_name
        y = RpcProxy(f"{service_name}_y")
        log = Log()
        dispatch = EventDispatcher()
        language = ContextData("language")

        @rpc
        async def echo(self, value: Any) -> Any:
            self.log.append("method")
            return value

        @rpc
        async def fail(self) -> None:
            raise ValueError("boom")

        @rpc
        async def cancel(self) -> None:
            raise asyncio.CancelledError("by itself")

        @rpc
        async def slow(self) -> None:
            await asyncio.sleep(60)

        @rpc
        async def what_language(self) -> Any:
            return self.language

        @rpc
        async def call_y(self) -> Any:
            return await self.y.method()

        @rpc
        async def happen(self, number: int) -> None:
            await self.dispatch("happened", number)

        @event_handler(service_name, "happened")
        async def on_happened(self, number: int) -> int:
            if number < 0:
                raise ValueError(number)
            return number * 10

        @dummy
        async def never(self) -> str:
            return "by hand"

    return Tested


@pytest.fixture
def broker_config(amqp_uri: str) -> dict[str, str]:
    return {"AMQP_URI": amqp_uri}


@pytest.fixture(autouse=True)
def lines() -> list[str]:
    Log.lines = []
    return Log.lines


@pytest.fixture
def container(broker_config: Any) -> ServiceContainer:
    return ServiceContainer(service_class(), broker_config)


@pytest.fixture
async def running(container: ServiceContainer) -> AsyncIterator[ServiceContainer]:
    async with container:
        yield container


@pytest.fixture
async def service(running: ServiceContainer, broker_config: Any) -> AsyncIterator[Any]:
    async with ClusterRpcProxy(broker_config, timeout=5) as cluster:
        yield cluster[running.service_name]


# entrypoint_hook


async def test_a_hook_runs_the_method_within_its_dependencies(
    running: ServiceContainer, lines: list[str]
) -> None:
    value = object()  # nothing is sent, so the value need not be serializable
    async with entrypoint_hook(running, "echo") as echo:
        assert await echo(value) is value
        assert lines == ["open", "method", "close"]
        assert await echo(value=value) is value


async def test_a_hook_can_be_awaited(running: ServiceContainer) -> None:
    never = await entrypoint_hook(running, "never")
    assert await never() == "by hand"


async def test_a_hook_raises_what_the_method_raised(
    running: ServiceContainer, lines: list[str]
) -> None:
    async with entrypoint_hook(running, "fail") as fail:
        with pytest.raises(ValueError, match="boom"):
            await fail()
    assert lines == ["open", "ValueError"]


async def test_a_method_that_raises_a_cancelled_error_cancels_no_test(
    running: ServiceContainer,
) -> None:
    async def use() -> None:
        async with entrypoint_waiter(running, "cancel") as result:
            with pytest.raises(AioRpcError, match=r"cancel raised CancelledError\(by itself\)"):
                await entrypoint_hook(running, "cancel")()
        result.get()

    task = asyncio.create_task(use())
    await asyncio.wait((task,))
    assert not task.cancelled()
    error = task.exception()
    assert isinstance(error, AioRpcError)
    assert isinstance(error.__cause__, asyncio.CancelledError)


async def test_a_hook_carries_context_data(running: ServiceContainer) -> None:
    async with entrypoint_hook(running, "what_language", {"language": "en"}) as what_language:
        assert await what_language() == "en"


async def test_a_hook_cancels_a_call_at_its_timeout(
    running: ServiceContainer, lines: list[str]
) -> None:
    async with entrypoint_hook(running, "slow", timeout=0.01) as slow:
        late = pytest.raises(
            entrypoint_waiter.Timeout, match=r"slow did not end within 0.01 s.*cancelled"
        )
        with late:
            await slow()
    assert lines == ["open", "CancelledError"]


async def test_a_hook_needs_an_entrypoint_and_a_started_container(
    container: ServiceContainer,
) -> None:
    with pytest.raises(
        ConfigurationError, match=r"no entrypoint 'ecco'; it has: call_y, cancel, echo,"
    ):
        entrypoint_hook(container, "ecco")
    async with entrypoint_hook(container, "echo") as echo:
        with pytest.raises(RuntimeError, match="async with container:"):
            await echo(1)


async def test_a_hook_raises_when_the_container_has_stopped(running: ServiceContainer) -> None:
    async with entrypoint_hook(running, "echo") as echo:
        await running.stop()
        with pytest.raises(AioRpcError, match="did not run to its end: abandoned"):
            await echo(1)


# entrypoint_waiter


async def test_a_waiter_waits_until_the_dependencies_have_closed(
    running: ServiceContainer, service: Any, lines: list[str]
) -> None:
    async with entrypoint_waiter(running, "on_happened", timeout=5) as result:
        with pytest.raises(RuntimeError, match="has not run yet"):
            result.get()
        await service.happen(4)
    assert result.get() == 40
    assert lines[-1] == "close"


async def test_a_waiters_result_raises_what_the_method_raised(
    running: ServiceContainer, service: Any
) -> None:
    async with entrypoint_waiter(running, "on_happened", timeout=5) as result:
        await service.happen(-1)
    with pytest.raises(ValueError, match="-1"):
        result.get()


async def test_a_waiter_sees_what_was_returned_not_what_was_sent(
    running: ServiceContainer, service: Any
) -> None:
    async with entrypoint_waiter(running, "echo", timeout=5) as result:
        assert await service.echo((1, 2)) == [1, 2]
    assert result.get() == [1, 2]


async def test_a_callback_chooses_the_call(running: ServiceContainer, service: Any) -> None:
    seen: list[Any] = []

    def third(worker_ctx: WorkerContext, result: Any, exc_info: Any) -> bool:
        seen.append((worker_ctx.call.args, result, exc_info and exc_info[0]))
        return len(seen) == 3

    async with entrypoint_waiter(running, "on_happened", timeout=5, callback=third) as result:
        for number in (1, -2, 3, 4):
            async with entrypoint_waiter(running, "on_happened", timeout=5):
                await service.happen(number)
    assert result.get() == 30
    assert seen == [((1,), 10, None), ((-2,), None, ValueError), ((3,), 30, None)]


async def test_an_error_in_the_callback_is_raised(running: ServiceContainer, service: Any) -> None:
    def wrong(*_: Any) -> bool:
        raise KeyError("callback")

    with pytest.raises(KeyError, match="callback"):
        async with entrypoint_waiter(running, "echo", timeout=5, callback=wrong):
            assert await service.echo(1) == 1


async def test_a_waiter_times_out_and_counts_the_other_calls(running: ServiceContainer) -> None:
    waiter = entrypoint_waiter(running, "echo", timeout=0.05, callback=lambda *_: False)
    with pytest.raises(entrypoint_waiter.Timeout, match=r"within 0.05 s; 1 other call"):
        async with waiter, entrypoint_hook(running, "echo") as echo:
            await echo(1)


async def test_an_error_in_the_block_is_raised_without_waiting(running: ServiceContainer) -> None:
    with pytest.raises(KeyError):
        async with entrypoint_waiter(running, "echo", timeout=60):
            raise KeyError


async def test_a_waiter_needs_an_entrypoint(container: ServiceContainer) -> None:
    with pytest.raises(ConfigurationError, match="no entrypoint 'ecco'"):
        entrypoint_waiter(container, "ecco")


async def test_a_waiter_ends_with_the_container(container: ServiceContainer) -> None:
    with pytest.raises(RuntimeError, match="was not started"):
        async with entrypoint_waiter(container, "echo"):
            pass
    await container.start()
    with pytest.raises(AioRpcError, match=r"did not run before .* stopped"):
        async with entrypoint_waiter(container, "echo"):
            await container.stop()


async def test_a_waiter_raises_what_made_the_container_fail(broker_config: Any) -> None:
    class Failing:
        name = f"failing_{uuid.uuid4().hex[:8]}"

        @rpc
        async def method(self) -> None: ...

    container = ServiceContainer(Failing, broker_config)
    await container.start()

    async def fail() -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        async with entrypoint_waiter(container, "method", timeout=60):
            container.spawn(fail(), "failing")


async def test_a_waiter_can_begin_before_the_container(broker_config: Any) -> None:
    class Eager:
        name = f"eager_{uuid.uuid4().hex[:8]}"

        @once("with", some="arguments")
        async def at_start(self, *args: Any, **kwargs: Any) -> Any:
            return args, kwargs

    container = ServiceContainer(Eager, broker_config)
    async with entrypoint_waiter(container, "at_start", timeout=5) as result:
        await container.start()
    await container.stop()
    assert result.get() == (("with",), {"some": "arguments"})


async def test_waiters_leave_nothing_behind(running: ServiceContainer, service: Any) -> None:
    async with entrypoint_waiter(running, "echo"), entrypoint_waiter(running, "echo"):
        assert len(running.interceptors) == 2
        await service.echo(1)
    assert running.interceptors == []


# restrict_entrypoints


async def test_a_restricted_container_fires_only_the_given_methods(
    container: ServiceContainer, broker_config: Any
) -> None:
    restrict_entrypoints(container, "echo")
    async with container, ClusterRpcProxy(broker_config, timeout=5) as cluster:
        assert await cluster[container.service_name].echo(1) == 1
        with pytest.raises(MethodNotFound, match="happen"):
            await cluster[container.service_name].happen(1)


async def test_a_container_restricted_to_nothing_fires_nothing(broker_config: Any) -> None:
    class Ticking:
        name = f"ticking_{uuid.uuid4().hex[:8]}"

        @timer(60, eager=True)
        async def tick(self) -> None:
            raise AssertionError("it was restricted")

    container = ServiceContainer(Ticking, broker_config)
    restrict_entrypoints(container)
    async with container:
        assert container.entrypoints == []


async def test_restricting_refuses_a_started_container_and_an_unknown_method(
    running: ServiceContainer, broker_config: Any
) -> None:
    with pytest.raises(RuntimeError, match="before it starts"):
        restrict_entrypoints(running, "echo")
    with pytest.raises(ConfigurationError, match="no entrypoint 'ecco'"):
        restrict_entrypoints(ServiceContainer(service_class(), broker_config), "ecco")


# replace_dependencies


async def test_a_replaced_dependency_is_a_mock_in_every_worker(
    container: ServiceContainer, lines: list[str]
) -> None:
    y = replace_dependencies(container, "y")
    y.method.side_effect = [1, 2]
    async with container, entrypoint_hook(container, "call_y") as call_y:
        assert [await call_y(), await call_y()] == [1, 2]
    assert y.method.await_count == 2


async def test_several_dependencies_are_replaced_at_once(
    container: ServiceContainer, lines: list[str]
) -> None:
    y, dispatch = replace_dependencies(container, "y", "dispatch", log=["given"])
    y.method.return_value = 1
    async with container:
        assert await (await entrypoint_hook(container, "call_y"))() == 1
        await (await entrypoint_hook(container, "happen"))(5)
        await (await entrypoint_hook(container, "echo"))(5)
    dispatch.assert_awaited_once_with("happened", 5)
    assert lines == []  # the replaced one was not opened


async def test_a_replaced_dependency_is_not_opened(broker_config: Any) -> None:
    class Unreachable(DependencyProvider[Any]):
        @asynccontextmanager
        async def lifespan(self, host: Any) -> AsyncGenerator[None]:
            raise OSError("no such server")
            yield

    class Service:
        name = f"unreachable_{uuid.uuid4().hex[:8]}"
        server = Unreachable()

        @rpc
        async def method(self) -> Any:
            return self.server

    container = ServiceContainer(Service, broker_config)
    assert replace_dependencies(container, server="a stand-in") == ()
    async with container, entrypoint_hook(container, "method") as method:
        assert await method() == "a stand-in"


async def test_replacing_refuses_a_started_container_an_unknown_name_and_a_name_given_twice(
    running: ServiceContainer, broker_config: Any
) -> None:
    with pytest.raises(RuntimeError, match="before it starts"):
        replace_dependencies(running, "y")
    other = ServiceContainer(service_class(), broker_config)
    with pytest.raises(ConfigurationError, match=r"no dependency 'z'; it has: dispatch, language"):
        replace_dependencies(other, "z")
    with pytest.raises(RuntimeError, match="twice: y"):
        replace_dependencies(other, "y", y=1)
