"""``retries``: which calls are made again, when, and how often."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import pytest

from aiorpc import (
    Call,
    CircuitOpen,
    ClusterRpcProxy,
    ConfigurationError,
    ConnectionLost,
    Context,
    Handler,
    InMemoryIdempotency,
    InProgress,
    Overloaded,
    RemoteError,
    RpcTimeout,
    ServiceContainer,
    ServiceUnavailable,
    rpc,
)
from aiorpc.calling.client import Client
from aiorpc.calling.options import CallOptions
from aiorpc.config import resolve
from aiorpc.middleware import retries as module
from aiorpc.middleware.retries import retries
from aiorpc.wire.protocol import Wire
from tests.support.breakable import breakable
from tests.support.waiting import eventually


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The longest pauses, of which the random ones are a part; none is waited for."""
    drawn: list[float] = []
    sleep = asyncio.sleep

    def uniform(least: float, most: float) -> float:
        assert least == 0
        drawn.append(most)
        return most

    monkeypatch.setattr(module.random, "uniform", uniform)
    monkeypatch.setattr(module.asyncio, "sleep", lambda seconds: sleep(0))
    return drawn


class Failing:
    """A handler that raises *errors*, one each time, and then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.left = list(errors)
        self.calls = 0

    async def __call__(self, call: Call) -> str:
        self.calls += 1
        if self.left:
            raise self.left.pop(0)
        return "ok"


LOST = ConnectionLost("lost")


PASSING = [LOST, Overloaded("full"), ServiceUnavailable("none"), InProgress("it runs")]


@pytest.mark.parametrize("error", PASSING)
async def test_a_listed_method_is_called_again(error: Exception, pauses: list[float]) -> None:
    handler = Failing(error)
    assert await retries(methods=["shop.*"])(Call("shop", "quote"), handler) == "ok"
    assert handler.calls == 2
    assert pauses == [0.1]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (Call("shop", "sell"), LOST),
        (Call("shop", "quote"), RpcTimeout("late")),
        (Call("shop", "quote"), RemoteError("ValueError", "boom")),
        (Call("shop", "quote"), CircuitOpen("open")),
        (Call("shop", "quote", id="shop.quote.1"), LOST),  # at the service
        (Call("shop", "quote", kind="event"), LOST),
    ],
)
async def test_other_methods_errors_and_sides_are_not(
    call: Call, error: Exception, pauses: list[float]
) -> None:
    handler = Failing(error)
    with pytest.raises(type(error)) as caught:
        await retries(methods=["shop.quote"])(call, handler)
    assert caught.value is error
    assert handler.calls == 1


@pytest.mark.parametrize("name", ["OperationalError", "sqlalchemy.exc.OperationalError"])
async def test_errors_of_methods_are_listed_by_name(name: str, pauses: list[float]) -> None:
    error = RemoteError("OperationalError", "gone", (), "sqlalchemy.exc.OperationalError")
    retrying = retries(methods=["shop.quote"], errors=[name])
    assert await retrying(Call("shop", "quote"), Failing(error)) == "ok"


async def test_pauses_grow_and_the_last_error_is_raised_with_a_note(pauses: list[float]) -> None:
    handler = Failing(*(ConnectionLost(str(number)) for number in range(9)))
    retrying = retries(methods=["shop.quote"], attempts=5, first_pause=1, longest_pause=3)
    with pytest.raises(ConnectionLost, match="4") as caught:
        await retrying(Call("shop", "quote"), handler)
    assert pauses == [1, 2, 3, 3]
    assert caught.value.__notes__ == ["shop.quote was called 5 times, by retries"]


async def test_a_pause_past_the_deadline_is_not_begun(pauses: list[float]) -> None:
    call = Call("shop", "quote", context=Context().within(1))
    handler = Failing(Overloaded("full", retry_after=2))
    with pytest.raises(Overloaded):
        await retries(methods=["shop.quote"])(call, handler)
    assert handler.calls == 1


async def test_retries_end_with_the_budget_which_successful_calls_fill_again(
    pauses: list[float],
) -> None:
    retrying = retries(methods=["*.*"], attempts=2, budget=2, earned=0.5)

    async def calls(service: str, *errors: Exception) -> int:
        handler = Failing(*errors)
        with suppress(ConnectionLost):
            await retrying(Call(service, "quote"), handler)
        return handler.calls

    assert [await calls("shop", LOST, ConnectionLost("again")) for _ in range(4)] == [2, 2, 1, 1]
    assert await calls("other", LOST) == 2  # each service has its own
    assert [await calls("shop") for _ in range(2)] == [1, 1]
    assert [await calls("shop", LOST) for _ in range(2)] == [2, 1]


async def test_a_stream_is_called_again_before_its_first_item_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[str] = []

    class Service:
        name = "service"

        @rpc
        async def items(self, how: str) -> AsyncGenerator[int]:
            runs.append(how)
            if how == "late" or len(runs) == 1:
                if how == "late":
                    yield 1
                raise OSError("boom")
            yield 2

    config = f"memory://{uuid.uuid4().hex}"
    middleware = [retries(methods=["service.items"], first_pause=0.001, errors=["OSError"])]
    async with (
        ServiceContainer(Service, config),
        ClusterRpcProxy(config, middleware=middleware) as cluster,
    ):
        assert [item async for item in cluster.service.items.stream("early")] == [2]
        assert runs == ["early", "early"]
        items = cluster.service.items.stream("late")
        assert await anext(items) == 1
        with pytest.raises(RemoteError, match="boom"):
            await anext(items)
    assert runs == ["early", "early", "late"]


async def test_a_cancelled_caller_ends_the_pause() -> None:
    failed = asyncio.Event()

    async def fails(call: Call) -> None:
        failed.set()
        raise LOST

    retrying = retries(methods=["shop.quote"], first_pause=60, longest_pause=60)
    task = asyncio.create_task(retrying(Call("shop", "quote"), fails))
    await failed.wait()
    await eventually(lambda: True)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": "shop.quote"}, "methods of retries() must be a list of service.method"),
        (
            {"methods": ["quote"]},
            "methods of retries() must be a list of service.method, such as [shop.quote, "
            "library.get_*], got ['quote'] (list)",
        ),
        ({"methods": [], "attempts": 0}, "attempts of retries() must be a whole number"),
        ({"methods": [], "earned": 2}, "earned of retries() must be a number from 0 to 1"),
    ],
)
def test_an_option_with_a_wrong_value_is_an_error(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        retries(**options)
    assert str(caught.value).startswith(said)


@pytest.mark.slow
async def test_a_service_that_is_overloaded_for_a_moment_answers_in_the_end(
    broker_config: dict[str, Any],
) -> None:
    release, begun = asyncio.Event(), asyncio.Event()

    class Busy:
        name = f"busy_{uuid.uuid4().hex[:8]}"

        @rpc(max_concurrency=1, max_waiting=0)
        async def work(self, number: int) -> int:
            begun.set()
            await release.wait()
            return number

    async def releases(call: Call, handler: Handler) -> Any:
        try:
            return await handler(call)
        except Overloaded:
            release.set()
            raise

    options = {"methods": [f"{Busy.name}.work"], "first_pause": 0.01}
    config = {
        **broker_config,
        "MIDDLEWARE": [{"aiorpc.middleware.retries:retries": options}],
    }
    async with (
        ServiceContainer(Busy, broker_config),
        ClusterRpcProxy(config, middleware=[releases]) as cluster,
    ):
        first = cluster[Busy.name].work.call_async(1)
        await asyncio.wait_for(begun.wait(), 5)
        assert await cluster[Busy.name].work(2) == 2
        assert await first == 1


async def test_a_call_whose_connection_was_lost_is_made_again(
    broker_config: dict[str, Any],
) -> None:
    runs: list[int] = []

    class Reading:
        name = f"reading_{uuid.uuid4().hex[:8]}"

        @rpc
        async def read(self) -> int:
            runs.append(len(runs))
            if len(runs) == 1:
                await link.break_connection()  # before the confirm of the request
            return runs[-1]

    settings = resolve(broker_config)
    middleware = [retries(methods=[f"{Reading.name}.read"], first_pause=0.001)]
    async with (
        ServiceContainer(Reading, broker_config),
        breakable(broker_config) as link,
    ):
        await link.transport.start(5)
        client = Client(
            link.transport, Wire.of(settings), settings, owner="a_test", middleware=middleware
        )
        await client.open()
        route = client.route(Reading.name, "read", CallOptions(resend=False))
        link.mute()
        assert await client.handler(route)(client.new_call(route, (), {})) == 1
        await client.close()
    assert runs == [0, 1]


class Shop:
    name = "shop"
    idempotency = InMemoryIdempotency()
    sold: list[str]

    @rpc(idempotent=True)
    async def sell(self, title: str) -> int:
        self.sold.append(title)
        return len(self.sold)


async def test_each_attempt_sends_the_same_idempotency_key(pauses: list[float]) -> None:
    Shop.sold = []
    lost = [ConnectionLost("one"), ConnectionLost("two")]

    async def losing(call: Call, handler: Handler) -> Any:
        answer = await handler(call)
        if lost:
            raise lost.pop()
        return answer

    config = {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}
    middleware = [retries(methods=["shop.sell"]), losing]
    async with (
        ServiceContainer(Shop, config),
        ClusterRpcProxy(config, middleware=middleware) as cluster,
    ):
        assert await cluster.shop.sell.with_options(idempotency_key="one")("Emma") == 1
    assert Shop.sold == ["Emma"]
    assert len(pauses) == 2
