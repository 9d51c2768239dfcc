"""
Writes datetimes with a zone as UTC to databases that have no zones. SQLAlchemy on SQLite, and
PyMySQL, drop the zone, and so change the moment.

Awaits nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import TypeEngine

__all__ = ["without_zone", "write_utc"]


def without_zone(value: Any) -> Any:
    """
    Return an aware datetime as a naive one in UTC, and another value unchanged.

    Raises:
        ValueError: *value* is an aware time, which has no moment without a date.
    """
    if isinstance(value, datetime):
        return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, time) and value.tzinfo is not None:
        raise ValueError(
            f"cannot write {value}: a TIME column of this database has no zone. Convert the time, "
            "and remove its zone with replace(tzinfo=None)"
        )
    return value


class _Utc(TypeEngine[Any]):
    def bind_processor(self, dialect: Dialect) -> Any:
        write = super().bind_processor(dialect)
        return without_zone if write is None else lambda value: write(without_zone(value))


def write_utc(dialect: Dialect) -> None:
    """Make *dialect*, of SQLite, write aware datetimes as UTC."""
    # A column without an own type of SQLite gets its type from this mapping.
    kinds: dict[Any, Any] = dict(dialect.colspecs)
    for generic, kind in kinds.items():
        if issubclass(kind, sqlite.DATETIME | sqlite.TIME):
            kinds[generic] = type(kind.__name__, (_Utc, kind), {"__module__": kind.__module__})
    dialect.colspecs = kinds
