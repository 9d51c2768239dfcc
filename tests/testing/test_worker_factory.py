"""Services without a container, with a suitable mock for each dependency."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from inspect import Signature, signature
from typing import Any, Generic, ParamSpec, Protocol, TypeVar
from unittest.mock import AsyncMock, MagicMock, NonCallableMagicMock

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase

from aiorpc import (
    ClusterRpc,
    Config,
    ConfigurationError,
    ConnectionLost,
    ContextData,
    DependencyProvider,
    EventDispatcher,
    Exchange,
    InMemoryIdempotency,
    Publisher,
    RpcProxy,
    ServiceContainer,
    event_handler,
    from_thread,
    rpc,
    timer,
)
from aiorpc.calling.options import UNSET
from aiorpc.sqlalchemy import Database, DatabaseSession, Inbox
from aiorpc.testing import dummy, entrypoint_hook, replace_dependencies, run_sync, worker_factory

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K")


class Storage:
    async def get(self, key: str) -> bytes: ...

    def close(self) -> None: ...


class Send(Protocol):
    async def __call__(self, text: str) -> None: ...


class StorageProvider(DependencyProvider[Storage]): ...


class SendProvider(DependencyProvider[Send]): ...


class Translations(DependencyProvider[Mapping[str, str]]): ...


class Untyped(DependencyProvider): ...


class YProtocol(Protocol):
    async def append_identifier(self, value: str) -> str: ...


class ServiceY:
    name = "service_y"

    @rpc
    async def append_identifier(self, value: str) -> str:
        return f"{value}-y"

    @rpc
    def in_a_thread(self, value: str, *, times: int = 1) -> str:
        return value * times

    @event_handler("service_x", "something_happened")
    async def on_something(self, payload: Any) -> None: ...

    @timer(60)
    async def tick(self) -> None: ...

    async def not_remote(self) -> None: ...


class ServiceX:
    name = "service_x"
    y = RpcProxy(ServiceY)
    by_protocol = RpcProxy[YProtocol]("service_y")
    by_name = RpcProxy("service_y")
    cluster = ClusterRpc()
    dispatch = EventDispatcher()
    publish = Publisher(Exchange("things"))
    config = Config()
    language = ContextData("language")
    context_data = ContextData()
    storage = StorageProvider()
    send = SendProvider()
    translations = Translations()
    untyped = Untyped()

    @rpc
    async def remote_method(self, value: str) -> str:
        return await self.y.append_identifier(f"{value}-x")


@pytest.fixture
def service() -> Any:
    return worker_factory(ServiceX)


async def test_a_mock_of_a_proxy_is_configured_and_awaited(service: Any) -> None:
    service.y.append_identifier.return_value = "from y"
    assert await service.remote_method("hello") == "from y"
    service.y.append_identifier.assert_awaited_once_with("hello-x")


async def test_a_mock_of_a_proxy_raises_its_side_effect(service: Any) -> None:
    service.y.append_identifier.side_effect = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        await service.remote_method("hello")


async def test_every_way_to_call_is_the_same_method(service: Any) -> None:
    method = service.y.append_identifier
    method.return_value = "from y"
    assert await method.with_options(timeout=1)("a") == "from y"
    reply = method.call_async("b")
    assert await reply.result() == await reply == "from y"
    assert await service.y["append_identifier"]("c") == "from y"
    assert [call.args[0] for call in method.await_args_list] == ["a", "b", "c"]
    method.with_options.assert_called_once_with(timeout=1)


async def test_an_async_call_that_fails_raises_where_it_is_awaited(service: Any) -> None:
    service.by_name.method.side_effect = ValueError("no")
    reply = service.by_name.method.call_async()
    await asyncio.sleep(0)  # no await: the call runs all the same
    with pytest.raises(ValueError, match="no"):
        await reply


@pytest.mark.parametrize("proxy", ["y", "by_protocol"])
async def test_a_mock_of_a_typed_proxy_has_only_the_services_methods(
    service: Any, proxy: str
) -> None:
    mock = getattr(service, proxy)
    with pytest.raises(TypeError, match="missing a required argument: 'value'"):
        await mock.append_identifier()
    with pytest.raises(TypeError, match="'nope'"):
        await mock.append_identifier("a", nope=1)
    with pytest.raises(AttributeError, match=r"no remote method 'appendidentifier'.*append_id"):
        _ = mock.appendidentifier


@pytest.mark.parametrize("name", ["not_remote", "on_something", "tick"])
async def test_a_mock_of_a_proxy_lacks_methods_that_are_not_remote(service: Any, name: str) -> None:
    with pytest.raises(AttributeError, match=r"it has: append_identifier, in_a_thread$"):
        getattr(service.y, name)


@pytest.mark.parametrize("proxy", ["y", "by_protocol", "by_name"])
async def test_a_mock_of_a_method_refuses_what_the_real_method_refuses(
    service: Any, proxy: str
) -> None:
    method = getattr(service, proxy).append_identifier
    with pytest.raises(TypeError, match="'timout'"):
        method.with_options(timout=3)
    with pytest.raises(ConfigurationError, match="a number of seconds"):
        method.with_options(timeout="3")
    with pytest.raises(AttributeError):
        method.call_asinc("a")
    assert method.with_options(timeout=UNSET, fail_fast=True) is method


async def test_a_mock_of_a_dispatcher_takes_the_real_arguments_only(service: Any) -> None:
    await service.dispatch("something_happened")
    for args, kwargs in ((("a", {}, "surplus"), {}), (("a",), {"nonsense": 1}), ((), {})):
        with pytest.raises(TypeError):
            await service.dispatch(*args, **kwargs)
    await service.dispatch("something_happened", {}, priority=3)
    service.dispatch.assert_awaited_with("something_happened", {}, priority=3)


async def test_a_mock_of_a_publisher_takes_the_real_arguments_only(service: Any) -> None:
    await service.publish({}, routing_key="a", expiration=1.5, priority=3)
    service.publish.assert_awaited_once_with({}, routing_key="a", expiration=1.5, priority=3)
    with pytest.raises(TypeError, match="'routing_keyy'"):
        await service.publish({}, routing_keyy="a")
    with pytest.raises(TypeError):
        await service.publish({}, "a")
    service.publish.side_effect = ConnectionLost("gone")
    with pytest.raises(ConnectionLost):
        await service.publish({})


async def test_a_mocked_dispatcher_has_the_signature_of_the_real_one(service: Any) -> None:
    """The mock repeats the signature, because the real one is made inside its provider."""

    class Dispatching:
        name = "dispatching"
        dispatch = EventDispatcher()

        @dummy
        async def signature(self) -> Signature:
            return signature(self.dispatch)

    async with ServiceContainer(Dispatching, "memory://") as container:
        real = await (await entrypoint_hook(container, "signature"))()
    assert list(signature(service.dispatch).parameters.values()) == list(real.parameters.values())


async def test_a_sync_method_is_awaited_by_its_callers(service: Any) -> None:
    service.y.in_a_thread.return_value = "yy"
    assert await service.y.in_a_thread("y", times=2) == "yy"


async def test_a_mock_of_a_proxy_by_name_has_any_method(service: Any) -> None:
    service.by_name.anything.return_value = 1
    assert await service.by_name.anything(1, a=2) == 1
    assert service.by_name.anything is service.by_name["anything"]
    with pytest.raises(AttributeError):
        _ = service.by_name._private


async def test_a_cluster_mock_has_any_service(service: Any) -> None:
    service.cluster.service_z.method.return_value = 1
    assert await service.cluster["service_z"].method() == 1
    service.cluster.typed(ServiceY).append_identifier.return_value = "from y"
    assert await service.cluster.service_y.append_identifier("a") == "from y"
    assert service.cluster.typed(YProtocol, "service_y") is service.cluster.service_y
    with pytest.raises(AttributeError, match="no remote method 'nope'"):
        _ = service.cluster.typed(ServiceY).nope


async def test_mocks_of_awaited_dependencies_can_be_awaited(service: Any) -> None:
    await service.dispatch("something_happened", {"id": 1})
    service.dispatch.assert_awaited_once_with("something_happened", {"id": 1})
    await service.send("hello")
    service.send.assert_awaited_once_with("hello")


async def test_a_mock_of_a_class_has_its_methods(service: Any) -> None:
    service.storage.get.return_value = b"x"
    assert await service.storage.get("key") == b"x"
    assert isinstance(service.storage, NonCallableMagicMock)
    assert isinstance(service.storage.get, AsyncMock)
    assert not isinstance(service.storage.close, AsyncMock)
    with pytest.raises(AttributeError):
        _ = service.storage.nope


def test_a_mapping_is_mocked_as_an_empty_dict_and_the_unknown_as_a_magic_mock(service: Any) -> None:
    assert (service.config, service.translations, service.context_data) == ({}, {}, {})
    assert service.language is None
    assert isinstance(service.untyped, MagicMock)


class Base(DeclarativeBase): ...


class WithDatabases:
    name = "with_databases"
    db = DatabaseSession(Base)
    blocks = Database(Base)


async def test_a_database_session_is_mocked_as_an_async_session() -> None:
    container = ServiceContainer(WithDatabases, "memory://")
    for session in (worker_factory(WithDatabases).db, replace_dependencies(container, "db")):
        await session.commit()
        session.add(1)
        assert isinstance(session, AsyncSession)
        assert not isinstance(session.add, AsyncMock)
        with pytest.raises(AttributeError):
            _ = session.no_such_method


async def test_commits_of_a_database_session_are_rolled_back_after_the_test() -> None:
    database: Any = worker_factory(WithDatabases).blocks
    async with database.get_session() as session:
        await session.flush()
    await database.session.commit()
    assert isinstance(session, AsyncSession)
    assert isinstance(database.session, AsyncSession)
    assert isinstance(database.engine, AsyncEngine)
    with pytest.raises(AttributeError):
        _ = database.no_such_attribute


class Pooled(DependencyProvider[T]): ...


class Keyed(Generic[K, T], Pooled[T]): ...


class Logged: ...


class Calling(DependencyProvider[Callable[P, Coroutine[Any, Any, T]]]): ...


class CallingInt(Calling[[int], str]): ...


class StorageBetween(Logged, Keyed[str, Storage]): ...


class OptionalBetween(Pooled[T | None]): ...


class Pool:
    @property
    def storage(self) -> Storage: ...

    @property
    def size(self) -> int: ...

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Storage]:
        yield Storage()

    def unknown(self) -> "OnlyForCheckers": ...  # noqa: F821, UP037


class WithGenerics:
    name = "with_generics"
    between = StorageBetween()
    declared_where_used = Keyed[str, Storage]()
    optional = Pooled[Storage | None]()
    optional_between = OptionalBetween[Storage]()
    one_of_two = Pooled[Storage | Pool | None]()
    unsaid = Keyed()
    pool = Pooled[Pool]()
    calling = Calling()
    calling_int = CallingInt()


@pytest.mark.parametrize("name", ["between", "declared_where_used", "optional", "optional_between"])
async def test_the_provided_class_is_found_through_generic_classes(name: str) -> None:
    storage: Any = getattr(worker_factory(WithGenerics), name)
    assert isinstance(storage, Storage)
    await storage.get("key")


def test_a_dependency_of_unknown_type_is_mocked_as_a_magic_mock() -> None:
    service: Any = worker_factory(WithGenerics)
    for mock in (service.one_of_two, service.unsaid):
        assert isinstance(mock, MagicMock)
        assert isinstance(mock.anything, MagicMock)


@pytest.mark.parametrize("name", ["calling", "calling_int"])
async def test_a_generic_awaited_callable_is_mocked_as_an_async_mock(name: str) -> None:
    call: Any = getattr(worker_factory(WithGenerics), name)
    await call(1)
    call.assert_awaited_once_with(1)


async def test_properties_and_context_managers_of_a_class_are_mocked_by_type() -> None:
    pool: Any = worker_factory(WithGenerics).pool
    await pool.storage.get("key")
    async with pool.acquire() as storage:
        await storage.get("key")
    assert isinstance(storage, Storage)
    assert isinstance(pool.unknown(), MagicMock)


def test_a_given_dependency_is_used_unchanged() -> None:
    storage = Storage()
    service = worker_factory(ServiceX, storage=storage, language="en")
    assert service.storage is storage
    assert service.language == "en"


def test_an_unknown_dependency_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError) as info:
        worker_factory(ServiceY, yy=1)
    assert str(info.value) == "ServiceY has no dependency 'yy'; it has: none"
    with pytest.raises(
        ConfigurationError, match=r"no dependency 'a', 'b'; it has: by_name, by_pro"
    ):
        worker_factory(ServiceX, b=1, a=2)


def test_two_workers_share_no_mock() -> None:
    assert worker_factory(ServiceX).y is not worker_factory(ServiceX).y


class Sync:
    name = "sync"
    y = RpcProxy(ServiceY)
    language = ContextData("language")

    @rpc
    def ask(self, value: str, *, times: int = 1) -> str:
        return times * from_thread.run(self.y.append_identifier, value)

    @rpc
    def fail(self, error: BaseException) -> None:
        raise error


async def test_a_sync_method_awaits_mocks() -> None:
    service: Any = worker_factory(Sync)
    service.y.append_identifier.return_value = "y"
    assert await run_sync(service.ask, "a", times=2) == "yy"
    service.y.append_identifier.assert_awaited_once_with("a")


@pytest.mark.parametrize(
    ("raised", "seen"), [(ValueError, ValueError), (StopIteration, RuntimeError)]
)
async def test_run_sync_raises_what_the_method_raises(raised: Any, seen: Any) -> None:
    with pytest.raises(seen):
        await run_sync(worker_factory(Sync).fail, raised())


async def test_cancelling_run_sync_cancels_what_the_method_awaits() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def for_long(value: str) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    service: Any = worker_factory(Sync)
    service.y.append_identifier.side_effect = for_long
    task = asyncio.create_task(run_sync(service.ask, "a"))
    await begun.wait()
    task.cancel()
    await asyncio.wait_for(ended.wait(), 5)


async def test_a_coroutine_needs_no_thread() -> None:
    with pytest.raises(TypeError, match=r"remote_method is a coroutine function: await it"):
        await run_sync(worker_factory(ServiceX).remote_method, "a")


def test_a_sync_method_outside_run_sync_names_the_remedy() -> None:
    with pytest.raises(RuntimeError, match=r"aiorpc.testing.run_sync\(\)"):
        worker_factory(Sync).ask("a")


class Printer:
    name = "printer"
    idempotency = InMemoryIdempotency()

    @rpc(idempotent=True)
    async def label(self) -> str:
        return "none" if self.idempotency is None else f"label {self.idempotency}"


class Inbound:
    name = "inbound"
    inbox = Inbox(Base)


async def test_the_mock_of_a_store_of_keys_is_a_call_without_a_key() -> None:
    service: Any = worker_factory(Printer)
    assert service.idempotency is None
    assert await service.label() == "none"
    assert await worker_factory(Printer, idempotency="7").label() == "label 7"
    inbound: Any = worker_factory(Inbound)
    assert inbound.inbox is None
