"""Which database belongs to which service and base, with which options."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, declarative_base
from sqlalchemy.pool import NullPool

from aiorpc import ConfigurationError, ServiceContainer
from aiorpc.sqlalchemy import (
    CallPool,
    Database,
    DatabaseSession,
    configured,
    create_tables,
    open_engine,
)
from tests.sqlalchemy.library import Base, FirstBase, engine_of, settings_for


class Both:
    name = "both"
    first = DatabaseSession(FirstBase)
    second = Database(Base)


def test_a_base_is_called_by_the_name_that_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        """
DB_URIS:
  "both:firstbase": "mysql://user:pass@host:3306/firstbase?charset=utf8"
  "both:Base": postgres://user:pass@host/second
"""
    )
    first = configured(path, "both", FirstBase)
    assert first.url.url.drivername == "mysql+aiomysql"
    assert first.url.url.database == "firstbase"
    assert configured(path, "both", Base).url.url.drivername == "postgresql+asyncpg"


def test_a_missing_key_says_which_there_are() -> None:
    config = {"DB_URIS": {"both:base": "sqlite://", "other:Base": "sqlite://"}}
    with pytest.raises(ConfigurationError) as caught:
        configured(config, "both", Base)
    text = str(caught.value)
    assert 'has no "both:Base"' in text
    assert "it has both:base, other:Base" in text
    assert "Did you mean both:base?" in text


def test_no_database_at_all_says_what_to_write() -> None:
    with pytest.raises(ConfigurationError, match='names no database for "both:Base"; add  DB_URIS'):
        configured({}, "both", Base)


@pytest.mark.parametrize(
    ("config", "database"),
    [
        ({"DB_URI": "sqlite:///one.db"}, "one.db"),
        ({"DB_URI": {"both:Base": "sqlite:///two.db"}}, "two.db"),
        (
            {"DB_URI": "sqlite:///one.db", "DB_URIS": {"both:Base": "sqlite:///three.db"}},
            "three.db",
        ),
        ({"DB_URI": "sqlite:///{service_name}-{declarative_base_name}.db"}, "both-Base.db"),
        (
            {"DB_URI": "sqlite:///{0[service_name]}-{0[declarative_base_name]}.db"},
            "both-Base.db",
        ),
        ({"DB_URI": "sqlite:///{{x}}.db"}, "{x}.db"),
    ],
)
def test_one_url_for_all_and_templates(config: dict[str, Any], database: str) -> None:
    assert configured(config, "both", Base).url.url.database == database


def test_the_configuration_lays_options_over_those_in_code() -> None:
    config = {
        "DB_URI": "sqlite://",
        "DB_ENGINE_OPTIONS": {
            "echo": False,
            "pool_size": 20,
            "both:Base": {"pool_size": 3},
            "other:Base": {"pool_size": 4},
        },
        "DB_SESSION_OPTIONS": {"autoflush": False},
    }
    database = configured(config, "both", Base, {"pool_size": 1, "max_overflow": 2}, {"info": {}})
    assert database.engine_options == {"pool_size": 3, "max_overflow": 2, "echo": False}
    assert database.session_options == {"info": {}, "autoflush": False}


def test_options_of_one_database_are_a_mapping() -> None:
    config = {"DB_URI": "sqlite://", "DB_ENGINE_OPTIONS": {"both:Base": 3}}
    with pytest.raises(ConfigurationError, match=r'\["both:Base"\] must be a mapping.*got int'):
        configured(config, "both", Base)


@pytest.mark.parametrize("base", [object, "Base", Base.metadata])
def test_what_is_no_base_is_refused(base: Any) -> None:
    with pytest.raises(ConfigurationError, match="no declarative base: make one by"):
        configured({"DB_URI": "sqlite://"}, "both", base)


async def test_an_engine_pings_and_queues_by_deadlines_unless_told_otherwise() -> None:
    async with open_engine(configured({"DB_URI": "sqlite:///x.db"}, "both", Base)) as engine:
        assert isinstance(engine.pool, CallPool)
        assert engine.pool._pre_ping
    options = {"poolclass": NullPool, "pool_pre_ping": False}
    async with open_engine(configured({"DB_URI": "sqlite://"}, "both", Base, options)) as engine:
        assert isinstance(engine.pool, NullPool)


async def test_a_wrong_option_names_the_database_and_the_option() -> None:
    config = {"DB_URI": "sqlite://", "DB_ENGINE_OPTIONS": {"pool_sizee": 3}}
    with pytest.raises(
        ConfigurationError, match=r"both:Base: the engine cannot be made.*pool_sizee"
    ):
        async with open_engine(configured(config, "both", Base)):
            pass
    settings = settings_for(Both, "sqlite://", DB_SESSION_OPTIONS={"autoflushh": True})
    with pytest.raises(ConfigurationError, match=r"DB_SESSION_OPTIONS.*autoflushh"):
        await ServiceContainer(Both, settings).start()


async def test_a_driver_that_is_not_installed_names_the_extra(
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


async def test_an_unknown_database_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"SQLAlchemy knows no foo\+bar://"):
        async with open_engine(configured({"DB_URI": "foo+bar://h/db"}, "both", Base)):
            pass


@pytest.mark.parametrize("name", ["NullPool", "sqlalchemy.pool.NullPool"])
async def test_a_pool_may_be_named_in_yaml(sqlite_url: str, name: str) -> None:
    config = {"DB_URI": sqlite_url, "DB_ENGINE_OPTIONS": {"poolclass": name}}
    async with open_engine(configured(config, "both", Base)) as engine:
        assert isinstance(engine.pool, NullPool)


async def test_a_pool_that_there_is_not_is_an_error(sqlite_url: str) -> None:
    config = {"DB_URI": sqlite_url, "DB_ENGINE_OPTIONS": {"poolclass": "NulPool"}}
    with pytest.raises(ConfigurationError, match=r"both:Base: poolclass must be .*'NulPool'"):
        async with open_engine(configured(config, "both", Base)):
            pass


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
async def test_no_tables_are_made_where_nobody_would_see_them(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"both:\w+ is a SQLite database in memory"):
        await create_tables({"DB_URI": url}, Both)


async def test_providers_of_one_database_share_an_engine(sqlite_url: str) -> None:
    class Sharing:
        name = "sharing"
        session = DatabaseSession(Base)
        database = Database(Base)
        other = DatabaseSession(Base, engine_options={"pool_size": 2})
        first = DatabaseSession(FirstBase)

    async with ServiceContainer(Sharing, settings_for(Sharing, sqlite_url)) as container:
        session, database, other, first = (engine_of(container, index) for index in range(4))
        assert session is database
        assert len({session, other, first}) == 3
        assert other.pool.size() == 2


async def test_a_base_of_either_kind_serves(sqlite_url: str) -> None:
    class OwnBase(DeclarativeBase):
        pass

    for base, name in ((OwnBase, "OwnBase"), (declarative_base(), "Base")):
        service = type("Service", (), {"name": "service", "db": DatabaseSession(base)})
        settings = settings_for(service, {name: sqlite_url})
        await create_tables(settings, service)
        async with ServiceContainer(service, settings) as container:
            assert str(engine_of(container).url.database).endswith("database.sqlite")


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
