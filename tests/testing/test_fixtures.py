"""
The fixtures, in the process of this test run, whose pytest has the plugin. test_plugin.py tests
them with other plugins than pytest-asyncio in auto mode.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiorpc import (
    AioRpcError,
    ClusterProxy,
    Config,
    ConfigurationError,
    ConnectionLost,
    DependencyProvider,
    ServiceContainer,
    ServiceRunner,
    WorkerContext,
    rpc,
)
from aiorpc.config import load, resolve
from aiorpc.extensions import Host
from aiorpc.sqlalchemy import Database
from aiorpc.sqlalchemy.providers import CallDatabase
from aiorpc.testing import entrypoint_hook, entrypoint_waiter, worker_factory
from aiorpc.testing.containers import Containers
from aiorpc.testing.databases import SessionDatabase
from aiorpc.testing.plugin import ContainerFactory, RunnerFactory
from aiorpc.transports import open_transport
from aiorpc.transports.base import State


class Service:
    name = "service"
    config = Config()

    @rpc
    async def read(self, key: str) -> Any:
        return self.config[key]


@pytest.fixture
async def aiorpc_config(amqp_uri: str) -> dict[str, Any]:
    """Overrides the fixture by an asynchronous one."""
    return {"AMQP_URI": amqp_uri, "ONE": 1, "TWO": 1}


async def test_a_mapping_overrides_keys_of_the_fixtures_configuration(
    container_factory: ContainerFactory, cluster_rpc: ClusterProxy
) -> None:
    async with container_factory(Service, {"TWO": 2}):
        assert await cluster_rpc.service.read("ONE") == 1
        assert await cluster_rpc.service.read("TWO") == 2


@pytest.mark.parametrize("read", [str, Path, load])
async def test_a_configuration_file_does_not_choose_the_broker(
    read: Any, container_factory: ContainerFactory, cluster_rpc: ClusterProxy, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("AMQP_URI: amqps://broker.invalid/\nAMQP_SSL: true\nTWO: 3\nTHREE: 3\n")
    async with container_factory(Service, read(file)) as container:
        assert not container.settings.amqp_ssl
        assert await cluster_rpc.service.read("THREE") == 3
        assert await cluster_rpc.service.read("TWO") == 1


def test_a_broker_that_the_test_names_is_used(container_factory: ContainerFactory) -> None:
    for config in ("amqp://there/", {"AMQP_URI": "amqp://there/"}):
        settings = container_factory(Service, config).settings
        assert (settings.amqp_uri, settings.raw["ONE"]) == ("amqp://there/", 1)


def test_a_configuration_where_nameko_takes_it_raises_an_error_that_names_config(
    runner_factory: RunnerFactory, aiorpc_config: Any
) -> None:
    with pytest.raises(ConfigurationError, match=r"takes service classes, got dict; .* config="):
        runner_factory(aiorpc_config, Service)


async def test_queues_are_deleted_only_on_the_broker_for_tests(rabbitmq_uri: str) -> None:
    class Guest(Service):
        name = f"guest_{uuid.uuid4().hex[:8]}"

    async with open_transport(resolve(rabbitmq_uri), name="test") as transport:
        for amqp_uri, left in (("memory://tests", True), (rabbitmq_uri, False)):
            containers = Containers({}, amqp_uri)
            await containers.container(Guest, rabbitmq_uri).start()
            await containers.stop()
            state = await transport.inspect(f"rpc-{Guest.name}", timeout=5)
            assert state is not None
            assert state.exists is left


@pytest.mark.parametrize("kind", ["container", "runner"])
async def test_a_broker_that_cannot_be_reached_is_one_error_that_names_the_option(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for made in (ServiceContainer, ServiceRunner):
        for cls in made.__subclasses__():
            monkeypatch.setattr(cls, "_connect_timeout", 0.05)
    url = "amqp://guest:guest@127.0.0.1:1/"  # nothing listens there
    containers = Containers({"AMQP_URI": url}, url)
    host = getattr(containers, kind)(Service)
    named = r"no connection to amqp://guest:\*\*\*@127.0.0.1:1/ within 0.05 s: .*--aiorpc-amqp-uri"
    with pytest.raises(ConnectionLost, match=named):
        await host.start()
    await containers.stop()  # raises nothing more, and connects no second time


_left: list[ServiceContainer | ServiceRunner] = []


async def test_something_is_left_running(
    container_factory: ContainerFactory, runner_factory: RunnerFactory
) -> None:
    container_factory(Service)  # never started
    _left[:] = [container_factory(Service), runner_factory(Service)]
    for host in _left:
        await host.start()


def test_what_was_left_running_was_stopped() -> None:
    container, runner = _left
    assert isinstance(container, ServiceContainer)
    assert isinstance(runner, ServiceRunner)
    for each in (container, *runner.containers):
        assert each.transport.state is State.CLOSED


class Broken(DependencyProvider[None]):
    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        yield
        raise OSError(f"{host.service_name} did not close")

    def value(self, worker_ctx: WorkerContext) -> None: ...


class First(Service):
    name = "first"
    broken = Broken()


class Second(Service):
    name = "second"
    broken = Broken()


class TestFailures:
    @pytest.fixture
    def containers(self, amqp_uri: str) -> Containers:
        return Containers({"AMQP_URI": amqp_uri}, amqp_uri)

    async def test_an_error_that_the_test_has_not_seen_is_raised(
        self, containers: Containers
    ) -> None:
        await containers.container(First).start()
        with pytest.raises(OSError, match="first did not close"):
            await containers.stop()

    async def test_several_errors_are_raised_together_when_all_have_stopped(
        self, containers: Containers
    ) -> None:
        sound = containers.container(Service)
        for host in (sound, containers.container(First), containers.runner(Second)):
            await host.start()
        with pytest.raises(ExceptionGroup) as info:
            await containers.stop()
        texts = [str(error) for error in info.value.exceptions]
        assert texts == ["first did not close", "second did not close"]
        with pytest.raises(AioRpcError, match="abandoned"):
            await entrypoint_hook(sound, "read")("ONE")

    async def test_an_error_that_the_test_has_seen_is_not_raised_again(
        self, containers: Containers
    ) -> None:
        for host in (containers.container(First), containers.runner(Second)):
            with pytest.raises(OSError, match="did not close"):
                async with host:
                    pass
        third = containers.container(Second)
        await third.start()
        waiter = entrypoint_waiter(third, "read")
        with pytest.raises(OSError, match="did not close"):
            async with waiter:
                await third.stop()
        await containers.stop()


class Base(DeclarativeBase): ...


class Book(Base):
    __tablename__ = "aiorpc_testing_books"
    id: Mapped[int] = mapped_column(primary_key=True)


class TestDatabases:
    @pytest.fixture
    def model_base(self) -> Any:
        return Base

    @pytest.fixture(
        params=[
            "sqlite",
            pytest.param("postgresql", marks=pytest.mark.postgresql),
            pytest.param("mysql", marks=pytest.mark.mysql),
        ]
    )
    def db_url(self, request: pytest.FixtureRequest) -> str:
        if request.param == "sqlite":
            return "sqlite://"
        url: str = request.getfixturevalue(f"{request.param}_uri")
        return url

    @pytest.mark.parametrize("turn", [1, 2])
    async def test_the_next_test_finds_no_data_of_this_one(
        self, db_session: AsyncSession, database: SessionDatabase, turn: int
    ) -> None:
        assert (await db_session.scalars(select(Book.id))).all() == []
        db_session.add(Book(id=1))
        await db_session.commit()
        db_session.add(Book(id=2))
        await db_session.flush()
        await db_session.rollback()
        async with database.get_session() as session:
            session.add(Book(id=3))
        with pytest.raises(IntegrityError):
            async with database.get_session() as session:
                session.add_all([Book(id=4), Book(id=1)])
        assert (await db_session.scalars(select(Book.id).order_by(Book.id))).all() == [1, 3]

    async def test_a_failing_inner_block_rolls_back_its_own_changes_only(
        self, db_session: AsyncSession, database: SessionDatabase
    ) -> None:
        async with database.get_session() as outer:
            outer.add(Book(id=1))
            await outer.flush()
            with pytest.raises(IntegrityError):
                async with database.get_session() as inner:
                    inner.add_all([Book(id=3), Book(id=1)])
            with suppress(KeyError):
                async with database.get_session() as inner:
                    inner.add(Book(id=4))
                    await inner.flush()
                    raise KeyError
            async with database.get_session() as inner:
                inner.add(Book(id=2))
            outer.add(Book(id=5))
        await db_session.rollback()
        assert (await db_session.scalars(select(Book.id).order_by(Book.id))).all() == [1, 2, 5]

    async def test_a_block_may_end_its_transaction_itself(
        self, db_session: AsyncSession, database: SessionDatabase
    ) -> None:
        async with database.get_session() as session:
            session.add(Book(id=1))
            await session.commit()
            session.add(Book(id=2))
            await session.rollback()
            session.add(Book(id=3))
        with suppress(KeyError):
            async with database.get_session() as session:
                session.add(Book(id=4))
                await session.commit()
                session.add(Book(id=5))
                raise KeyError
        assert (await db_session.scalars(select(Book.id).order_by(Book.id))).all() == [1, 3, 4]

    async def test_the_database_fixture_stands_in_for_a_declared_database(
        self, db_session: AsyncSession, database: SessionDatabase, db_url: str
    ) -> None:
        class Books:
            name = "books"
            db = Database(Base)

            @rpc
            async def add(self) -> str:
                async with self.db.get_session() as session:
                    session.add(Book(id=1))
                assert (await self.db.session.scalars(select(Book.id))).all() == [1]
                return self.db.engine.dialect.name

        assert isinstance(database, CallDatabase)  # transaction_retry asks
        assert await worker_factory(Books, db=database).add() == db_url.partition(":")[0]


def test_a_session_without_models_names_the_remedy(request: pytest.FixtureRequest) -> None:
    with pytest.raises(pytest.fail.Exception, match="define a fixture `model_base`"):
        request.getfixturevalue("db_session")
