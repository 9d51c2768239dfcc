"""The database, and the options, of a service and a base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, declarative_base

from aiorpc import ConfigurationError, ServiceContainer
from aiorpc.sqlalchemy import (
    Database,
    DatabaseSession,
    configured,
    create_tables,
)
from tests.support.databases import Base, FirstBase, engine_of, settings_for


class Both:
    name = "both"
    first = DatabaseSession(FirstBase)
    second = Database(Base)


def test_a_base_has_the_name_of_its_class_or_the_name_given_to_it(tmp_path: Path) -> None:
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


def test_a_missing_key_is_an_error_with_the_keys_that_exist() -> None:
    config = {"DB_URIS": {"both:base": "sqlite://", "other:Base": "sqlite://"}}
    with pytest.raises(ConfigurationError) as caught:
        configured(config, "both", Base)
    text = str(caught.value)
    assert 'has no "both:Base"' in text
    assert "it has both:base, other:Base" in text
    assert "Did you mean both:base?" in text


def test_no_database_at_all_is_an_error_with_the_line_to_add() -> None:
    with pytest.raises(ConfigurationError, match='has no database for "both:Base"; add  DB_URIS'):
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
def test_one_url_may_serve_all_bases_and_have_placeholders(
    config: dict[str, Any], database: str
) -> None:
    assert configured(config, "both", Base).url.url.database == database


def test_options_of_the_configuration_replace_those_in_code() -> None:
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


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("sqlite://", {"pool_size": "20"}, r"DB_ENGINE_OPTIONS.pool_size must be int >= 0, got"),
        ("sqlite://", {"pool_timeout": "soon"}, "pool_timeout must be number >= 0"),
        ("sqlite://", {"pool_pre_ping": "no"}, "pool_pre_ping must be true or false"),
        ("sqlite://", {"connect_args": [1]}, "connect_args must be mapping, got list"),
        ("mysql://h/db", {"connect_args": {"connect_timeout": "3"}}, r"connect_args.connect_time"),
        ("postgres://h/db", {"connect_args": {"server_settings": "jit"}}, "must be mapping to str"),
        ("postgres://h/db", {"connect_args": {"server_settings": {"jit": []}}}, r"\['jit'\] must"),
    ],
)
def test_an_engine_option_of_the_wrong_type_is_an_error(
    url: str, options: dict[str, Any], words: str
) -> None:
    for config, code in ({"DB_ENGINE_OPTIONS": options}, None), ({}, options):
        with pytest.raises(ConfigurationError, match=f"^both:Base: .*{words}"):
            configured({"DB_URI": url, **config}, "both", Base, code)


def test_a_session_option_of_the_wrong_type_is_an_error() -> None:
    config = {"DB_URI": "sqlite://", "DB_SESSION_OPTIONS": {"autoflush": "no"}}
    with pytest.raises(ConfigurationError, match=r"DB_SESSION_OPTIONS.autoflush must be true or"):
        configured(config, "both", Base)


def test_options_of_one_database_that_are_no_mapping_are_an_error() -> None:
    config = {"DB_URI": "sqlite://", "DB_ENGINE_OPTIONS": {"both:Base": 3}}
    with pytest.raises(ConfigurationError, match=r'\["both:Base"\] must be a mapping.*got int'):
        configured(config, "both", Base)


@pytest.mark.parametrize("base", [object, "Base", Base.metadata])
def test_a_class_that_is_no_base_is_an_error(base: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a declarative base: write"):
        configured({"DB_URI": "sqlite://"}, "both", base)


async def test_a_base_may_be_a_class_or_be_made_by_a_function(sqlite_url: str) -> None:
    class OwnBase(DeclarativeBase):
        pass

    for base, name in ((OwnBase, "OwnBase"), (declarative_base(), "Base")):
        service = type("Service", (), {"name": "service", "db": DatabaseSession(base)})
        settings = settings_for(service, {name: sqlite_url})
        await create_tables(settings, service)
        async with ServiceContainer(service, settings) as container:
            assert str(engine_of(container).url.database).endswith("database.sqlite")
