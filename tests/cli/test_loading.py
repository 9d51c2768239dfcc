"""From ``MODULE[:Class]`` to service classes."""

from __future__ import annotations

import sys

from aiorpc.cli.loading import load_services, look_in_current_directory

from .conftest import Project


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


def test_a_module_is_all_services_in_it(here: Project) -> None:
    write_module(here)
    assert names_of(["shop"]) == ["Orders", "Stock"]


def test_a_class_is_itself(here: Project) -> None:
    write_module(here)
    assert names_of(["shop:Stock"]) == ["Stock"]


def test_imported_services_count_and_each_counts_once(here: Project) -> None:
    write_module(here)
    here.write("front.py", "from shop import Orders\n")
    assert names_of(["front"]) == ["Orders"]
    assert names_of(["front", "shop:Orders", "shop"]) == ["Orders", "Stock"]


def test_classes_of_libraries_do_no_harm(here: Project) -> None:
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


def test_a_class_inside_a_class(here: Project) -> None:
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
