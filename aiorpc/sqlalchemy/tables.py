"""
The tables of services, for demos, tests and first steps. What is in production is changed by
migrations (Alembic); ``open_engine(configured(...))`` is the engine that they need, with all that
its URL says to the driver.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..config import Settings
from ..exceptions import ConfigurationError
from ..extensions import providers_of, service_name_of
from .engine.opening import configured, open_engine
from .providers import Database, DatabaseSession

__all__ = ["create_tables"]


async def create_tables(
    config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None,
    *services: type,
    drop: bool = False,
) -> None:
    """
    Create the tables that are missing in the databases of *services*.

    Args:
        drop: drop them first, with all that is in them.

    Raises:
        ConfigurationError: a database is not configured, or lives in memory only and would be
            gone before a service could use it.
    """
    for service in services:
        name = service_name_of(service)
        bases = {
            provider.declarative_base
            for provider in providers_of(service)
            if isinstance(provider, Database | DatabaseSession)
        }
        for base in bases:
            database = configured(config, name, base)
            if database.url.in_memory:
                raise ConfigurationError(
                    f"{database.key} is a SQLite database in memory, and each container has one of "
                    "its own: name a file (sqlite:///library.db), or make the tables in a method, "
                    "by self.db.engine of a Database"
                )
            async with (
                open_engine(database) as engine,
                engine.begin() as connection,
            ):
                if drop:
                    await connection.run_sync(base.metadata.drop_all)
                await connection.run_sync(base.metadata.create_all)
