"""Creating the tables of services."""

from __future__ import annotations

import pytest
from sqlalchemy import inspect

from aiorpc import ConfigurationError
from aiorpc.sqlalchemy import (
    Database,
    DatabaseSession,
    configured,
    create_tables,
    open_engine,
)
from tests.support.databases import Author, Base, FirstBase, settings_for


class Both:
    name = "both"
    first = DatabaseSession(FirstBase)
    second = Database(Base)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
async def test_tables_are_not_created_in_a_database_in_memory(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"both:\w+ is a SQLite database in memory"):
        await create_tables({"DB_URI": url}, Both)


async def test_tables_are_created_and_dropped(sqlite_url: str) -> None:
    settings = settings_for(Both, sqlite_url)
    for drop in (False, False, True):
        await create_tables(settings, Both, drop=drop)
    async with open_engine(configured(settings, "both", Base)) as engine:
        async with engine.connect() as connection:
            names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        assert Author.__tablename__ in names
