"""Where the sensitive arguments of a method are in the body of a message."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from aiorpc import event_handler, rpc
from aiorpc.entrypoints.sensitive import paths_in_call, paths_in_payload
from aiorpc.extensions import entrypoints_of


def renamed(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def taking_anything(*args: Any, **kwargs: Any) -> Any:
        return await method(*args, **kwargs)

    return taking_anything


class Service:
    name = "service"

    @rpc(sensitive_arguments=("card", "user.password", "items[0]"))
    async def pay(self, user: dict[str, str], card: str, *, items: list[int]) -> None: ...

    @staticmethod
    @rpc(sensitive_arguments="card")
    async def static(card: str) -> None: ...

    @rpc(sensitive_arguments="card")
    @renamed
    async def decorated(self, user: str, card: str) -> None: ...

    @rpc(sensitive_arguments="card")
    async def open(self, **options: str) -> None: ...

    @event_handler("a", "b", sensitive_arguments=("payload.card", "payload.list[1].x"))
    async def parts(self, payload: Any) -> None: ...

    @event_handler("a", "c", sensitive_arguments="payload")
    async def whole(self, payload: Any) -> None: ...

    @event_handler("a", "d")
    async def nothing(self, payload: Any) -> None: ...


HOST: Any = SimpleNamespace(service_cls=Service)
ENTRYPOINTS = {each.method_name: each for each in entrypoints_of(Service)}


@pytest.mark.parametrize(
    ("method", "paths"),
    [
        (
            "pay",
            (
                ("kwargs", "card"),
                ("args", "1"),
                ("kwargs", "user", "password"),
                ("args", "0", "password"),
                ("kwargs", "items", "0"),
            ),
        ),
        ("static", (("kwargs", "card"), ("args", "0"))),
        ("decorated", (("kwargs", "card"), ("args", "1"))),
        ("open", (("args",), ("kwargs",))),
    ],
)
def test_an_argument_of_a_call_is_found_by_position_and_by_name(
    method: str, paths: tuple[tuple[str, ...], ...]
) -> None:
    assert paths_in_call(ENTRYPOINTS[method], HOST) == paths


@pytest.mark.parametrize(
    ("method", "paths"),
    [("parts", (("card",), ("list", "1", "x"))), ("whole", ((),)), ("nothing", ())],
)
def test_the_payload_is_the_whole_body(method: str, paths: tuple[tuple[str, ...], ...]) -> None:
    assert paths_in_payload(ENTRYPOINTS[method], HOST) == paths
