"""Methods as people write them: each spelling of ``@rpc`` on a class is called."""

from __future__ import annotations

import functools
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from aiorpc import ClusterRpcProxy, ServiceContainer, event_handler, rpc, timer


def logged(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await method(*args, **kwargs)

    return wrapper


class Mixin:
    label = "mixin"

    @rpc
    async def of_a_mixin(self, x: int) -> list[Any]:
        return [self.label, x]


class Base(ABC):
    @rpc
    async def overridden(self, x: int) -> int:
        return x

    @rpc
    async def hidden(self, x: int) -> int:
        return x

    @rpc
    @abstractmethod
    async def abstract(self, x: int) -> int: ...


class Spelled(Mixin, Base):
    name = f"spelled_{uuid.uuid4().hex}"
    label = "spelled"

    @staticmethod
    @rpc
    async def static(x: int) -> int:
        return x

    @classmethod
    @rpc
    async def of_the_class(cls, x: int) -> list[Any]:
        return [cls.label, x]

    @rpc
    async def overridden(self, x: int) -> int:
        return 10 * await super().overridden(x)

    @rpc
    async def abstract(self, x: int) -> int:
        return x

    hidden = None

    @rpc
    @logged
    async def over_a_decorator(self, x: int) -> int:
        return x

    @logged
    @rpc
    async def below_a_decorator(self, x: int) -> int:
        return x

    @rpc
    @timer(interval=1000)
    @event_handler("source", "type", reliable_delivery=False)
    async def several(self, x: int = 0) -> int:
        return x

    of_a_lambda = rpc(lambda self, x: [self.label, x])
    alias = over_a_decorator

    @rpc(ValueError)
    def in_a_thread(self, x: int) -> int:
        return x


CALLS = {
    "of_a_mixin": ["spelled", 1],
    "static": 1,
    "of_the_class": ["spelled", 1],
    "overridden": 10,
    "abstract": 1,
    "over_a_decorator": 1,
    "below_a_decorator": 1,
    "several": 1,
    "of_a_lambda": ["spelled", 1],
    "alias": 1,
    "in_a_thread": 1,
}


async def test_each_spelling_of_rpc_is_called(broker_config: dict[str, Any]) -> None:
    async with (
        ServiceContainer(Spelled, broker_config) as container,
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        methods = {each.method_name for each in container.entrypoints}
        service = cluster[Spelled.name]
        assert {method: await service[method](1) for method in CALLS} == CALLS
    assert methods == set(CALLS)
