"""Engines: their options, drivers and pools, and SQLite in memory."""

from __future__ import annotations

import asyncio
import importlib
import logging
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.pool import NullPool

from aiorpc import ConfigurationError, ServiceContainer, rpc
from aiorpc.sqlalchemy import (
    CallPool,
    Database,
    DatabaseSession,
    configured,
    open_engine,
)
from tests.support.databases import (
    Author,
    Base,
    FirstBase,
    engine_of,
    running,
    settings_for,
)


class Both:
    name = "both"
    first = DatabaseSession(FirstBase)
    second = Database(Base)


async def test_an_engine_has_a_call_pool_unless_an_option_names_another() -> None:
    async with open_engine(configured({"DB_URI": "sqlite:///x.db"}, "both", Base)) as engine:
        assert isinstance(engine.pool, CallPool)
    options = {"poolclass": NullPool, "pool_pre_ping": False}
    async with open_engine(configured({"DB_URI": "sqlite://"}, "both", Base, options)) as engine:
        assert isinstance(engine.pool, NullPool)


@pytest.mark.parametrize(
    ("url", "arguments", "name", "expected"),
    [
        ("postgres://h/db", {}, "timeout", 10),
        ("postgres://h/db?connect_timeout=3", {}, "timeout", 3),
        ("postgres://h/db?connect_timeout=3", {"timeout": 4}, "timeout", 4),
        ("mysql://h/db", {}, "connect_timeout", 10),
        ("mysql://h/db?connect_timeout=3", {}, "connect_timeout", 3),
        ("mysql://h/db", {"connect_timeout": None}, "connect_timeout", None),
    ],
)
async def test_connecting_is_bounded_by_10_s_unless_the_configuration_says_otherwise(
    url: str, arguments: dict[str, Any], name: str, expected: float | None
) -> None:
    seen: list[Any] = []

    async def connect(*_: Any, **given: Any) -> Any:
        seen.append(given[name])
        raise ConnectionRefusedError("nobody there")

    options = {"connect_args": {"async_creator_fn": connect, **arguments}}
    async with open_engine(configured({"DB_URI": url}, "both", Base, options)) as engine:
        with pytest.raises(ConnectionError):
            await engine.connect()
    assert seen == [expected]


async def test_connect_args_of_the_url_the_configuration_and_the_code_are_merged(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        """
DB_URI: postgresql://u:p@h/db?application_name=shop&search_path=x
DB_ENGINE_OPTIONS:
  connect_args:
    server_settings: {jit: off, work_mem: 64}
  "both:Base":
    connect_args:
      timeout: 3
      server_settings: {search_path: z}
"""
    )
    seen: dict[str, Any] = {}

    async def connect(*_: Any, **given: Any) -> Any:
        seen.update(given)
        raise ConnectionRefusedError("nobody there")

    in_code = {"async_creator_fn": connect, "server_settings": {"jit": "on", "role": "r"}}
    options = {"connect_args": in_code}
    async with open_engine(configured(path, "both", Base, options)) as engine:
        with pytest.raises(ConnectionError):
            await engine.connect()
    assert seen["timeout"] == 3
    assert seen["server_settings"] == {
        "application_name": "shop",
        "search_path": "z",
        "jit": "off",
        "work_mem": "64",
        "role": "r",
    }


async def test_the_error_for_a_wrong_option_names_the_database_and_the_option() -> None:
    config = {"DB_URI": "sqlite://", "DB_ENGINE_OPTIONS": {"pool_sizee": 3}}
    with pytest.raises(
        ConfigurationError, match=r"both:Base: SQLAlchemy cannot make an engine.*pool_sizee"
    ):
        async with open_engine(configured(config, "both", Base)):
            pass
    settings = settings_for(Both, "sqlite://", DB_SESSION_OPTIONS={"autoflushh": True})
    with pytest.raises(ConfigurationError, match=r"DB_SESSION_OPTIONS.*autoflushh"):
        await ServiceContainer(Both, settings).start()


async def test_the_error_for_a_missing_driver_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    importlib.import_module("sqlalchemy.dialects.postgresql.asyncpg")

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "asyncpg":
            raise ModuleNotFoundError("No module named 'asyncpg'", name="asyncpg")
        return real(name, *args, **kwargs)

    real = __import__
    monkeypatch.setattr("builtins.__import__", missing)
    with pytest.raises(ConfigurationError, match=r"aiorpc-amqp\[postgresql\]"):
        async with open_engine(configured({"DB_URI": "postgres://h/db"}, "both", Base)):
            pass


async def test_the_error_for_an_unknown_database_names_it() -> None:
    with pytest.raises(ConfigurationError, match=r"SQLAlchemy does not know foo\+bar://"):
        async with open_engine(configured({"DB_URI": "foo+bar://h/db"}, "both", Base)):
            pass


@pytest.mark.parametrize("name", ["NullPool", "sqlalchemy.pool.NullPool"])
async def test_the_configuration_may_name_a_pool(sqlite_url: str, name: str) -> None:
    config = {"DB_URI": sqlite_url, "DB_ENGINE_OPTIONS": {"poolclass": name}}
    async with open_engine(configured(config, "both", Base)) as engine:
        assert isinstance(engine.pool, NullPool)


async def test_the_name_of_an_unknown_pool_is_an_error(sqlite_url: str) -> None:
    config = {"DB_URI": sqlite_url, "DB_ENGINE_OPTIONS": {"poolclass": "NulPool"}}
    with pytest.raises(ConfigurationError, match=r"both:Base: poolclass must be .*'NulPool'"):
        async with open_engine(configured(config, "both", Base)):
            pass


async def test_no_log_shows_a_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = "postgresql://user:s3cret@127.0.0.1:1/db?password=s3cret"
    async with ServiceContainer(Both, settings_for(Both, url)) as container:
        with pytest.raises(ConnectionError) as caught:
            async with engine_of(container).connect():
                pass
    assert "s3cret" not in caplog.text
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert "cannot connect to both:firstbase" in str(caught.value)


async def test_a_savepoint_of_sqlite_is_rolled_back_with_its_transaction(
    sqlite_url: str,
) -> None:
    async with open_engine(configured({"DB_URI": sqlite_url}, "tests", Base)) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            async with session.begin_nested():
                session.add(Author(name="Austen"))
            await session.rollback()
            assert await session.scalar(select(func.count()).select_from(Author)) == 0


async def test_a_database_in_memory_outlives_a_cancelled_call(caplog: Any) -> None:
    class Memory:
        name = "memory"
        db = Database(Base)

        @rpc
        async def create(self) -> None:
            async with self.db.engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            async with self.db.get_session() as session:
                session.add(Author(name="Austen"))

        @rpc
        async def slow(self) -> None:
            await self.db.session.execute(
                text(
                    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE "
                    "x < 5000000) SELECT count(*) FROM c"
                )
            )

        @rpc
        async def count(self) -> int:
            return await self.db.session.scalar(select(func.count()).select_from(Author)) or 0

    async with running(Memory, "sqlite://") as (proxy, _):
        await proxy.create()
        with pytest.raises(TimeoutError):
            await proxy.slow.with_options(timeout=0.05)()
        counts = await asyncio.gather(*(proxy.count() for _ in range(10)))
        assert counts == [1] * 10
