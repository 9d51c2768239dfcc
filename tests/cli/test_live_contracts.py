"""What running services say of themselves: their contracts, and who calls them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from aiorpc import ClusterRpcProxy, ServiceContainer, ServiceUnavailable, rpc
from aiorpc.cli.live_contracts import callers_of, live_contract
from aiorpc.config import Settings, resolve
from aiorpc.contracts.describing import contract_of
from aiorpc.contracts.writing import text_of
from tests.support.contract_services import Customers, Legacy, Orders

WAIT = 0.3


@dataclass
class Line:
    """Another class with the name of a class of ``Orders``."""

    length: float


class Drawings:
    name = "contract_drawings"

    @rpc
    async def draw(self, line: Line) -> list[Line]: ...


@pytest.fixture
async def settings(request: pytest.FixtureRequest) -> AsyncIterator[Settings]:
    settings = resolve(f"memory://{request.node.name}")
    async with ServiceContainer(Orders, settings), ServiceContainer(Customers, settings):
        yield settings


async def test_running_services_have_the_contract_of_their_code(settings: Settings) -> None:
    found = await live_contract(settings, [], WAIT)
    assert text_of(found) == text_of(contract_of([Orders, Customers]))
    one = await live_contract(settings, [Orders.name], WAIT)
    assert one == contract_of([Orders])


async def test_equal_names_of_other_classes_do_not_mix(settings: Settings) -> None:
    async with ServiceContainer(Drawings, settings):
        found = await live_contract(settings, [], WAIT)
    lines = [name for name in found.schemas if name.endswith("Line")]
    assert len(lines) == 2
    (draw,) = found.services[Drawings.name].methods
    reference = draw.parameters[0].schema["$ref"].rpartition("/")[2]
    assert found.schemas[reference]["properties"] == {"length": {"type": "number"}}
    assert draw.result["items"] == draw.parameters[0].schema


async def test_a_service_that_does_not_answer_is_an_error(settings: Settings) -> None:
    with pytest.raises(ServiceUnavailable, match="contract_legacy sent no contract within"):
        await live_contract(settings, [Legacy.name, Orders.name], WAIT)


async def test_a_contract_that_is_too_large_is_an_error(settings: Settings) -> None:
    limited = resolve({"AMQP_URI": settings.amqp_uri, "MAX_MESSAGE_SIZE": 4096})
    async with ServiceContainer(Legacy, limited):
        with pytest.raises(ServiceUnavailable, match="is too large for one message"):
            await live_contract(settings, [Legacy.name], WAIT)


class Wide:
    """Has more methods than fit in one message as plain JSON."""

    name = "contract_wide"


for _number in range(300):

    async def _method(self: Wide, product: str, pieces: int = 1) -> dict[str, Any]: ...

    _method.__doc__ = f"Do what number {_number} does. {'It does it well. ' * 20}"
    _method.__name__ = f"method_{_number}"
    setattr(Wide, _method.__name__, rpc(_method))


async def test_a_service_with_300_methods_describes_itself(settings: Settings) -> None:
    async with ServiceContainer(Wide, settings):
        found = await live_contract(settings, [Wide.name], WAIT)
    assert found == contract_of([Wide])
    assert len(text_of(found)) > 256 * 1024


class Strange:
    name = "contract_strange"

    @rpc
    async def method(self) -> None: ...


async def test_a_service_that_cannot_describe_itself_goes_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(services: Any) -> None:
        raise ZeroDivisionError("of the user")

    async with ServiceContainer(Strange, settings), ClusterRpcProxy(settings) as cluster:
        monkeypatch.setattr("aiorpc.contracts.describing.contract_of", fails)
        with (
            caplog.at_level(logging.ERROR, "aiorpc.hosting"),
            pytest.raises(ServiceUnavailable, match="ZeroDivisionError: of the user"),
        ):
            await live_contract(settings, [Strange.name], WAIT)
        await cluster.contract_strange.method()
    assert "contract_strange cannot describe itself" in caplog.text


async def test_instances_with_different_contracts_are_noted(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    class Other(Orders):
        @rpc
        async def get(self, order_id: str) -> None: ...

    async with ServiceContainer(Other, settings):
        found = await live_contract(settings, [Orders.name], WAIT)
    assert found.services.keys() == {Orders.name}
    assert "the instances of contract_orders have different contracts" in capsys.readouterr().err


async def test_callers_are_summed_over_the_instances(settings: Settings) -> None:
    async with ServiceContainer(Orders, settings), ClusterRpcProxy(settings) as cluster:
        for number in range(5):
            await cluster.contract_orders.get(number)
        found = await callers_of(settings, [Orders.name], WAIT)
    callers = found["contract_orders.get"]
    assert {name: each.calls for name, each in callers.items()} == {"standalone_rpc_proxy.call": 5}
    assert "contract_customers.register" not in found
