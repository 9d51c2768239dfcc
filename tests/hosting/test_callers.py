"""Who calls a method: what containers keep of it, and tell in STATS."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aiorpc import (
    ClusterRpc,
    ClusterRpcProxy,
    EventDispatcher,
    IncorrectSignature,
    ServiceContainer,
    event_handler,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.hosting.callers import EVERY, KEPT, MOST, OTHERS, UNKNOWN, Callers, Stack
from aiorpc.hosting.discovery.asking import asking
from aiorpc.hosting.discovery.shapes import Caller, Question, Stats
from aiorpc.transports import open_transport


class Prices:
    name = "called_prices"
    heard = asyncio.Event()

    @rpc
    async def quote(self, title: str) -> str:
        return "9.90"

    @event_handler("called_shop", "sold")
    async def hears(self, payload: Any) -> None:
        self.heard.set()


class Shop:
    name = "called_shop"
    services = ClusterRpc()
    dispatch = EventDispatcher()

    @rpc
    async def sell(self, title: str) -> str:
        await self.dispatch("sold", title)
        price: str = await self.services.called_prices.quote(title)
        return price


@pytest.fixture
def config() -> dict[str, Any]:
    Prices.heard = asyncio.Event()
    return {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}


def of(container: ServiceContainer, method: str) -> dict[str, int]:
    (found,) = [each for each in container.activity() if each.entrypoint.method_name == method]
    return {name: caller.calls for name, caller in found.callers.items()}


async def test_stats_tell_which_methods_and_programs_called(config: dict[str, Any]) -> None:
    settings = resolve(config)
    async with (
        open_transport(settings) as transport,
        ServiceContainer(Prices, settings),
        ServiceContainer(Shop, settings),
        ClusterRpcProxy(settings) as cluster,
        asking(transport) as asker,
    ):
        for _ in range(3):
            await cluster.called_shop.sell("Emma")
        await cluster.called_prices.quote("Emma")
        with pytest.raises(IncorrectSignature):
            await cluster.called_prices.quote()
        await Prices.heard.wait()
        (stats,) = await asker.ask(Question.STATS, 0.1, Prices.name)
    assert isinstance(stats, Stats)
    callers = {each.name: each.data.callers for each in stats.endpoints}
    assert {name: each.calls for name, each in callers["quote"].items()} == {
        "called_shop.sell": 3,
        "standalone_rpc_proxy.call": 2,
    }
    assert callers["hears"].keys() == {"called_shop.sell"}
    assert 0 <= callers["quote"]["called_shop.sell"].ago < 60


async def test_counting_from_zero_forgets_the_callers(config: dict[str, Any]) -> None:
    async with ServiceContainer(Prices, config) as container, ClusterRpcProxy(config) as cluster:
        await cluster.called_prices.quote("Emma")
        container.reset_counts()
        assert of(container, "quote") == {}
        await cluster.called_prices.quote("Emma")
        assert of(container, "quote") == {"standalone_rpc_proxy.call": 1}


async def test_nothing_is_kept_where_nobody_can_ask(config: dict[str, Any]) -> None:
    config["DISCOVERY"] = False
    async with ServiceContainer(Prices, config) as container, ClusterRpcProxy(config) as cluster:
        await cluster.called_prices.quote("Emma")
        assert of(container, "quote") == {}


class Method:
    """A method and its event loop. Only the ends of its calls matter; timers fire by hand."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.ended = 0
        self.saw: Callable[[Stack], object] = lambda stack: None
        self.callers = Callers(cast("Any", self), lambda: self.ended, self._set_saw)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Any:
        self.timers.append((delay, callback))
        return SimpleNamespace(cancel=lambda: None)

    def _set_saw(self, saw: Callable[[Stack], object]) -> None:
        self.saw = saw

    def calls(self, caller: str, number: int = 1) -> None:
        for _ in range(number):
            self.ended += 1
            self.saw((f"{caller}.{uuid.uuid4()}", "own"))


@pytest.fixture
def method() -> Method:
    return Method()


def test_each_call_of_a_quiet_method_counts(method: Method) -> None:
    for _ in range(3):
        method.calls("a.one", KEPT - 2)
        method.calls("b.two", 2)
        delay, sum_up = method.timers.pop()
        assert delay == EVERY
        sum_up()
    found = {name: each.calls for name, each in method.callers.found().items()}
    assert found == {"a.one": 3 * (KEPT - 2), "b.two": 6}
    assert method.timers == []  # nothing runs while nobody calls


def test_the_calls_of_a_busy_method_are_estimated(method: Method) -> None:
    for _ in range(KEPT):
        method.calls("a.one", 1)
        method.calls("b.two", 2)
    found = {name: each.calls for name, each in method.callers.found().items()}
    assert sum(found.values()) == method.ended
    assert found["b.two"] / found["a.one"] == pytest.approx(2, rel=0.1)


def test_many_callers_take_no_memory_without_limit(method: Method) -> None:
    for number in range(MOST + 10):
        method.calls(f"service_{number:03}.method")
    found = method.callers.found()
    assert len(found) == MOST + 1
    assert found[OTHERS] == Caller(10, found[OTHERS].ago)


@pytest.mark.parametrize("stack", [("own",), (), ("", "own"), ("\x1b[31m.x", "own"), (7, "own")])
def test_odd_call_ids_are_no_names(method: Method, stack: Any) -> None:
    method.ended += 1
    method.saw(stack)
    (name,) = method.callers.found()
    assert name.isprintable()
    assert name == UNKNOWN or stack[0]


def test_a_closed_one_keeps_what_it_found_and_no_more(method: Method) -> None:
    method.calls("a.one")
    method.callers.close()
    method.calls("a.one")
    assert {name: each.calls for name, each in method.callers.found().items()} == {"a.one": 1}
