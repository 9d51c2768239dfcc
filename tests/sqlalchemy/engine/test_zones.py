"""Values with a zone on SQLite."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone

import pytest
from sqlalchemy import TIMESTAMP, DateTime, select
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiorpc.sqlalchemy import load
from tests.support.databases import opened_session


class Base(DeclarativeBase):
    pass


class Meeting(Base):
    __tablename__ = "meeting"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime | None]
    stamp: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    zoned: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    hour: Mapped[time | None]
    day: Mapped[date | None]


NOON = datetime(2024, 6, 1, 12)
IN_ATHENS = datetime(2024, 6, 1, 15, tzinfo=timezone(timedelta(hours=3)))


async def test_an_aware_datetime_is_written_as_utc(sqlite_url: str) -> None:
    async with opened_session(Base, sqlite_url) as session:
        for moment in (NOON, NOON.replace(tzinfo=UTC), IN_ATHENS):
            session.add(Meeting(at=moment, stamp=moment, zoned=moment, hour=time(12)))
        sent = {"at": IN_ATHENS.isoformat(), "stamp": IN_ATHENS.isoformat(), "hour": "12:00"}
        session.add(await load(Meeting, {**sent, "zoned": IN_ATHENS.isoformat()}))
        await session.commit()
        columns = (Meeting.at, Meeting.stamp, Meeting.zoned, Meeting.hour)
        rows = (await session.execute(select(*columns).where(Meeting.at == IN_ATHENS))).all()
        assert [tuple(row) for row in rows] == [(NOON, NOON, NOON, time(12))] * 4


async def test_a_time_with_a_zone_is_refused(sqlite_url: str) -> None:
    async with opened_session(Base, sqlite_url) as session:
        session.add(Meeting(hour=time(12, tzinfo=UTC)))
        with pytest.raises(StatementError, match=r"cannot write 12:00:00\+00:00: a TIME column"):
            await session.commit()
