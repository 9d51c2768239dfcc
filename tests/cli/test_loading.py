"""From ``MODULE[:Class]`` to service classes."""

from __future__ import annotations

import logging
import sys

import pytest

from aiorpc.cli.loading import load_services, look_in_current_directory
from tests.support.command_line import Project


def names_of(targets: list[str]) -> list[str]:
    look_in_current_directory()
    return [service.__name__ for service in load_services(targets)]


def write_module(project: Project) -> None:
    project.write(
        "shop.py",
        """
        from aiorpc import rpc

        class Base:
            @rpc
            async def ping(self): ...

        class Orders(Base):
            name = "orders"

        class Stock(Base):
            name = "stock"

        class NotAService:
            name = "not a service"

        orders = Orders()
        unhashable = [[]]
        """,
    )


def test_a_module_stands_for_all_services_in_it(here: Project) -> None:
    write_module(here)
    assert names_of(["shop"]) == ["Orders", "Stock"]


def test_a_target_with_a_class_is_that_class(here: Project) -> None:
    write_module(here)
    assert names_of(["shop:Stock"]) == ["Stock"]


def test_imported_services_count_and_each_counts_once(here: Project) -> None:
    write_module(here)
    here.write("front.py", "from shop import Orders\n")
    assert names_of(["front"]) == ["Orders"]
    assert names_of(["front", "shop:Orders", "shop"]) == ["Orders", "Stock"]


def write_shop(project: Project) -> None:
    project.write(
        "prices.py",
        """
        from aiorpc import rpc

        class Prices:
            name = "prices"
            @rpc
            async def price_of(self): ...

        class Rates(Prices):
            name = "rates"
        """,
    )
    project.write(
        "till.py",
        """
        from aiorpc import RpcProxy, rpc
        from prices import Prices, Rates

        class Till:
            name = "till"
            prices = RpcProxy(Prices)
            named = RpcProxy("rates")
            @rpc
            async def quote(self): ...
        """,
    )


def test_a_service_that_is_imported_to_call_it_does_not_run_and_a_line_says_so(
    here: Project, caplog: pytest.LogCaptureFixture
) -> None:
    write_shop(here)
    with caplog.at_level(logging.INFO, "aiorpc.cli"):
        assert names_of(["till"]) == ["Rates", "Till"]
    assert caplog.messages == [
        "Prices does not run, because Till only calls it: add prices:Prices to run it"
    ]


def test_a_called_service_runs_if_it_is_named(
    here: Project, caplog: pytest.LogCaptureFixture
) -> None:
    write_shop(here)
    with caplog.at_level(logging.INFO, "aiorpc.cli"):
        assert names_of(["till:Till", "till:Prices"]) == ["Till", "Prices"]
        assert names_of(["till", "prices:Prices"]) == ["Rates", "Till", "Prices"]
    assert caplog.messages == []


def test_a_typed_proxy_calls_its_interface(here: Project) -> None:
    write_shop(here)
    here.write(
        "typed.py",
        """
        from aiorpc import RpcProxy, rpc
        from prices import Prices

        class Typed:
            name = "typed"
            prices = RpcProxy[Prices]("prices")
            @rpc
            async def quote(self): ...
        """,
    )
    assert names_of(["typed"]) == ["Typed"]


def test_a_module_that_gathers_services_runs_all_of_them(here: Project) -> None:
    write_shop(here)
    here.write("gathered.py", "from prices import Prices\nfrom till import Till\n")
    assert names_of(["gathered"]) == ["Prices", "Till"]


def test_odd_classes_in_a_module_do_no_harm(here: Project) -> None:
    here.write(
        "odd.py",
        """
        from unittest import mock
        from typing import Any
        import enum

        from aiorpc import rpc

        class Raises(type):
            @property
            def trap(cls):
                raise RuntimeError("do not look")

        class Trapped(metaclass=Raises):
            pass

        class Mock(mock.MagicMock): ...

        class Service:
            name = "odd"
            @rpc
            async def ping(self): ...
        """,
    )
    assert names_of(["odd"]) == ["Service"]


def test_a_class_inside_a_class_is_found(here: Project) -> None:
    here.write(
        "nested.py",
        """
        from aiorpc import rpc

        class Outer:
            class Inner:
                name = "inner"
                @rpc
                async def ping(self): ...
        """,
    )
    assert names_of(["nested:Outer.Inner"]) == ["Inner"]


def test_the_current_directory_comes_first_and_once(here: Project) -> None:
    look_in_current_directory()
    look_in_current_directory()
    assert sys.path[0] == str(here.directory)
    assert sys.path.count(str(here.directory)) == 1


def test_a_gateway_stands_for_the_service_that_hosts_it(
    here: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="aiorpc.cli")
    write_module(here)
    here.write(
        "shop_api.py",
        """
        from aiorpc.http import Gateway
        from shop import Orders, Stock

        gateway = Gateway(services=[Orders, (Stock, ["ping"])], authenticate=None)
        """,
    )
    assert names_of(["shop_api:gateway"]) == ["Gateway"]
    assert names_of(["shop_api", "shop_api:gateway"]) == ["Gateway"]
    assert "Orders does not run, because Gateway only calls it: add shop:Orders" in caplog.text
    assert names_of(["shop_api", "shop:Stock"]) == ["Gateway", "Stock"]
