"""
Services with an outbox, for tests: their tables, their rows, and what handlers of their events see.
Awaits the database.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import String, func, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiorpc import Call, event_handler, rpc
from aiorpc.call import Handler
from aiorpc.sqlalchemy import (
    DatabaseSession,
    Outbox,
    configured,
    create_tables,
    open_engine,
)
from aiorpc.transports.codec.encoder import content_header_of
from aiorpc.wire.message import Message
from tests.support.waiting import eventually

#: In the names of tables: other test runs may use the same server.
RUN = f"aiorpc_{os.getpid()}"
TABLE = f"outbox_{RUN}"


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = f"order_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    book: Mapped[str] = mapped_column(String(50), unique=True)


def shop(**outbox_options: Any) -> Any:
    """A service that orders books in one transaction with an event. The name is unique."""

    class Shop:
        name = f"shop_{uuid.uuid4().hex[:10]}"
        db = DatabaseSession(Base, commit=True)
        outbox = Outbox(Base, table=TABLE, **outbox_options)

        @rpc
        async def order(self, book: str, **options: Any) -> None:
            self.db.add(Order(book=book))
            await self.outbox.dispatch("ordered", book, **options)

        @rpc
        async def fail(self, book: str) -> None:
            await self.order(book)
            raise LookupError(book)

    return Shop


def mailer(source: Any) -> Any:
    """A service that handles the events of *source*."""

    class Mailer:
        name = f"mailer_{uuid.uuid4().hex[:10]}"

        @event_handler(source.name, "ordered")
        async def ordered(self, payload: Any) -> None:
            pass

    return Mailer


class Heard:
    """A middleware that keeps the events and messages that a service handles."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def __call__(self, call: Call, handler: Handler) -> Any:
        if call.side == "consumer":
            self.calls.append(call)
        return await handler(call)

    @property
    def payloads(self) -> list[Any]:
        return [call.args[0] for call in self.calls]

    async def until(self, count: int) -> list[Any]:
        """Return the payloads when there are *count*."""
        await eventually(lambda: len(self.calls) >= count)
        return self.payloads


@asynccontextmanager
async def tables(config: dict[str, Any], service: Any) -> AsyncIterator[AsyncEngine]:
    """Make the empty tables of *service*; give an engine. Drop the tables at the end."""
    await create_tables(config, service, drop=True)
    async with open_engine(configured(config, service.name, Base)) as engine:
        yield engine
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)


class Rows:
    """The rows of *service* in its outbox."""

    def __init__(self, engine: AsyncEngine, service: Any) -> None:
        self._engine = engine
        self._service = service.name
        self.table = Base.metadata.tables[TABLE]

    async def count(self) -> int:
        query = select(func.count()).where(self.table.c.service == self._service)
        async with self._engine.connect() as connection:
            return (await connection.scalar(query)) or 0

    async def all(self) -> list[Any]:
        query = select(self.table).where(self.table.c.service == self._service)
        async with self._engine.connect() as connection:
            return list(await connection.execute(query.order_by(self.table.c.id)))

    async def gone(self) -> None:
        """Return when there is no row."""

        async def check() -> bool:
            return await self.count() == 0

        await eventually(check)

    async def write(self, *payloads: str, message: Message | None = None, **columns: Any) -> None:
        """Write rows of events, as a process of the service that was killed has left them."""
        made = message or Message(body=b"", message_id=uuid.uuid4().hex)
        row = {
            "service": self._service,
            "message_id": made.message_id,
            "exchange": f"{self._service}.events",
            "routing_key": "ordered",
            "mandatory": False,
            "properties": content_header_of(made),
            "written_at": 0,
            "due_at": 0,
            "attempts": 0,
            **columns,
        }
        bodies = [f'"{payload}"'.encode() for payload in payloads]
        async with self._engine.begin() as connection:
            await connection.execute(
                self.table.insert(), [{**row, "body": body, "size": len(body)} for body in bodies]
            )
