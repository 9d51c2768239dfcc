"""What aiorpc adds to the drivers: values with a zone on MariaDB and MySQL."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta, timezone

import pytest
from sqlalchemy import text

from aiorpc.sqlalchemy import configured, open_engine
from tests.support.databases import Base


async def test_an_aware_datetime_is_written_as_utc(mysql_uri: str) -> None:
    noon = datetime(2024, 6, 1, 12)
    in_athens = datetime(2024, 6, 1, 15, tzinfo=timezone(timedelta(hours=3)))
    database = configured({"DB_URI": mysql_uri}, "tests", Base)
    async with open_engine(database) as engine, engine.connect() as connection:
        await connection.execute(text("SET time_zone = '+00:00'"))
        await connection.execute(text("CREATE TEMPORARY TABLE t (at DATETIME, stamp TIMESTAMP)"))
        insert = text("INSERT INTO t VALUES (:at, :stamp)")
        await connection.execute(insert, {"at": in_athens, "stamp": in_athens})
        moments = [{"at": one, "stamp": one} for one in (noon, noon.replace(tzinfo=UTC))]
        await connection.execute(insert, moments)
        rows = (await connection.execute(text("SELECT *, UNIX_TIMESTAMP(stamp) FROM t"))).all()
        assert [tuple(row) for row in rows] == [(noon, noon, in_athens.timestamp())] * 3


async def test_a_time_with_a_zone_is_refused(mysql_uri: str) -> None:
    database = configured({"DB_URI": mysql_uri}, "tests", Base)
    async with open_engine(database) as engine, engine.connect() as connection:
        with pytest.raises(ValueError, match=r"cannot write 12:00:00\+00:00: a TIME .* no zone"):
            await connection.execute(text("SELECT :at"), {"at": time(12, tzinfo=UTC)})
        assert await connection.scalar(text("SELECT :at"), {"at": time(12)}) is not None
