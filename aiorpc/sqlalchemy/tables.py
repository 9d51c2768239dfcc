"""
Creates the tables of services, for demos and tests. Awaits the database.

In production, use migrations (Alembic). ``open_engine(configured(...))`` opens an engine for
migrations, with all the arguments of the configured URL.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..config import Settings
from ..exceptions import ConfigurationError
from ..extensions import providers_of, service_name_of
from .engine.configuration import configured
from .engine.opening import open_engine
from .providers import Database, DatabaseSession

__all__ = ["create_tables"]


async def create_tables(
    config: str | os.PathLike[str] | Mapping[str, Any] | Settings | None,
    *services: type,
    drop: bool = False,
) -> None:
    """
    Create the missing tables in the databases of *services*.

    Args:
        drop: drop the tables first, with all their rows.

    Raises:
        ConfigurationError: a database is not configured, or it is a SQLite database in memory,
            which SQLite deletes before a service can use it.
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
                    f"{database.key} is a SQLite database in memory, and each container has its "
                    "own: name a file (sqlite:///library.db), or create the tables in a method, "
                    "with self.db.engine of a Database"
                )
            async with open_engine(database) as engine, engine.begin() as connection:
                if drop:
                    await connection.run_sync(base.metadata.drop_all)
                await connection.run_sync(base.metadata.create_all)
