"""A database of our own on each server, so that no other relay or test sees its rows."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory

from sqlalchemy import text

from aiorpc.sqlalchemy import configured, open_engine
from tests.once.service import Base

#: The databases that services use.
KINDS = ("postgresql", "mysql", "sqlite")


@asynccontextmanager
async def own_database(kind: str, server: str | None) -> AsyncIterator[str]:
    """Create an empty database on *server*, give its URL, and drop it at the end."""
    if kind == "sqlite":
        with TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/once.sqlite"
        return
    assert server is not None
    name = f"once_{secrets.token_hex(4)}"
    options = {"isolation_level": "AUTOCOMMIT"}
    database = configured({"DB_URI": server}, "once", Base, options)
    async with open_engine(database) as engine, engine.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield f"{server.rpartition('/')[0]}/{name}"
        finally:
            force = " WITH (FORCE)" if kind == "postgresql" else ""
            await connection.execute(text(f"DROP DATABASE {name}{force}"))
