"""
The services of the simulated world that have databases, and what clients ask of them. Their methods
report to the ledger what they do; the databases report what was committed.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiorpc import Retry, event_handler, rpc
from aiorpc.sqlalchemy import DatabaseSession, Inbox

from .loop import PROCESS
from .services import Refused, begun, the_ledger
from .workload import Operation

__all__ = ["DATABASES", "HANDLERS", "SERVICES", "TABLES", "create", "payments"]

#: The databases of services, and the tables in which they record what they do.
DATABASES = ("bank", "books")
TABLES = ("effects", "handled")
#: The handlers that handle each event once, and their queues.
HANDLERS = {"book": "evt-shop-sold--books.book"}


class Base(DeclarativeBase): ...


class Effect(Base):
    """The effect of one run of a method."""

    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]
    run: Mapped[int]


class Handled(Base):
    """The effect of one run of a handler."""

    __tablename__ = "handled"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]
    run: Mapped[int]


@cache
def _template() -> bytes:
    """Return an empty database with all tables."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    engine = create_engine("sqlite://", creator=lambda: connection)
    Base.metadata.create_all(engine)
    content = connection.serialize()
    engine.dispose()
    return content


def create(path: Path) -> None:
    """Create a database with all tables in the file *path*."""
    path.write_bytes(_template())


class Bank:
    name = "bank"

    db = DatabaseSession(Base, commit=True)

    @rpc(expected_exceptions=Exception)
    async def pay(self, number: int, script: dict[str, Any]) -> Any:
        ledger = the_ledger()
        run = begun(number, ledger.opened(PROCESS.get(), "unused"), again=False)
        try:
            await asyncio.sleep(script.get("sleep", 0.0))
            await self.db.execute(insert(Effect).values(number=number, run=run.id))
            await asyncio.sleep(script.get("holds", 0.0))
            if script.get("fail"):
                raise Refused(str(number))
        except asyncio.CancelledError:
            run.end("cancelled", ledger.now())
            raise
        except BaseException:
            run.end("raised", ledger.now())
            raise
        run.end("returned", ledger.now())
        ledger.tell(PROCESS.get(), f"run {run.id} returns")
        return {"number": number, "run": run.id}


class Books:
    name = "books"

    db = DatabaseSession(Base, commit=True)
    inbox = Inbox(Base)

    @event_handler("shop", "sold", retry=Retry(immediate=2, delays=(0.5, 1.0, 2.0, 4.0)))
    async def book(self, payload: dict[str, Any]) -> None:
        ledger, process, number = the_ledger(), PROCESS.get(), payload["number"]
        transaction = ledger.opened(process, "unused")
        run = ledger.handling(number, "book", process, transaction, again=False)
        try:
            await self.db.execute(insert(Handled).values(number=number, run=run.id))
            await asyncio.sleep(0.05 if number % 7 == 0 else 0.001)
            if number % 5 == 1 and len(ledger.events[number].runs["book"]) < 2:
                raise Refused(str(number))
        except asyncio.CancelledError:
            run.end("cancelled", ledger.now())
            raise
        except BaseException:
            run.end("failed", ledger.now())
            raise
        run.end("returned", ledger.now())


SERVICES: dict[str, type] = {"bank": Bank, "books": Books}


def payments(seed: object, client: str, count: int) -> list[Operation]:
    """Return *count* operations of *client*."""
    draw = random.Random(f"payments {seed} {client}").random
    return [_payment(draw) for _ in range(count)]


def _payment(draw: Callable[[], float]) -> Operation:
    script: dict[str, Any] = {}
    if draw() < 0.3:
        script["sleep"] = draw() ** 4 * 1.0
    if draw() < 0.2:
        script["holds"] = draw() ** 4 * 0.1
    if draw() < 0.1:
        script["fail"] = True
    timeout = (0.3, 1.0, 3.0, 20.0, 20.0, 20.0)[int(draw() * 6)]
    cancel = draw() ** 3 * 0.5 if draw() < 0.12 else None
    return Operation("bank", "pay", script, timeout, draw() ** 4 * 1.5, cancel, draw() < 0.1)
