"""What a service class must be, so that workers can make instances of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import pytest

from aiorpc import (
    ClusterRpcProxy,
    Config,
    ConfigurationError,
    DependencyProvider,
    RemoteError,
    ServiceContainer,
    WorkerContext,
    rpc,
)


class Abstract(ABC):
    name = "abstract"

    @rpc
    @abstractmethod
    async def method(self) -> None: ...


class NeedsArguments:
    name = "needs_arguments"

    def __init__(self, url: str) -> None:
        self.url = url


class Slots:
    name = "slots"
    __slots__ = ("mine",)
    config = Config()


class ForgotParentheses:
    name = "forgot"
    config = Config


@pytest.mark.parametrize(
    ("service", "error"),
    [
        (Abstract, "Abstract is abstract: host a subclass that defines method"),
        (NeedsArguments, r"instance of NeedsArguments without .* 'url'\. Give .* defaults"),
        (Slots, "Slots has no __dict__ for its dependencies: remove __slots__"),
        (Slots(), "a service is a class, not a value of type Slots: give the class"),
        (math, "a service is a class, not a value of type module"),
        (ForgotParentheses, r"ForgotParentheses\.config is the class Config: make an instance"),
    ],
)
async def test_a_class_that_no_worker_could_use_is_refused_at_the_start(
    service: type, error: str
) -> None:
    with pytest.raises(ConfigurationError, match=error):
        async with ServiceContainer(service, "memory://"):
            pass


async def test_a_class_may_define_a_provider_and_have_an_init_with_defaults(
    broker_config: dict[str, Any],
) -> None:
    class Service:
        name = "defines_a_provider"

        class Answer(DependencyProvider[int]):
            def value(self, worker_ctx: WorkerContext) -> int:
                return 42

        answer = Answer()

        def __init__(self, *urls: str, more: int = 0) -> None:
            self.more = more

        @rpc
        async def ask(self) -> int:
            return self.answer + self.more

    async with (
        ServiceContainer(Service, broker_config),
        ClusterRpcProxy(broker_config, timeout=5) as cluster,
    ):
        assert await cluster.defines_a_provider.ask() == 42


async def test_a_sync_decorator_around_a_coroutine_is_named_as_the_cause() -> None:
    def plain(method: Any) -> Any:
        return lambda *args: method(*args)

    class Decorated:
        name = "decorated"

        @rpc
        @plain
        async def method(self) -> None: ...

    async with (
        ServiceContainer(Decorated, "memory://"),
        ClusterRpcProxy("memory://", timeout=5) as cluster,
    ):
        with pytest.raises(RemoteError, match="and the functions of its decorators too"):
            await cluster.decorated.method()
