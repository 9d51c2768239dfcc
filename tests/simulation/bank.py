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

from aiorpc import Retry, RpcProxy, event_handler, rpc
from aiorpc.context import current
from aiorpc.sqlalchemy import DatabaseSession, Inbox, Outbox, SqlIdempotency

from .ledger import Run
from .loop import PROCESS
from .services import Refused, begun, nested, the_ledger
from .workload import Operation

__all__ = ["DATABASES", "HANDLERS", "SERVICES", "TABLES", "create", "payments"]

#: The databases of services, and the tables in which they record what they do.
DATABASES = ("bank", "books")
TABLES = ("effects", "handled", "promises")
#: The handlers that handle each event once, and their queues.
HANDLERS = {"book": "evt-shop-sold--books.book", "settle": "evt-bank-paid--books.settle"}


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


class Promise(Base):
    """An event that one run of a method writes to its outbox, and the key that orders it."""

    __tablename__ = "promises"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]
    run: Mapped[int]
    key: Mapped[str | None]


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
    keys = SqlIdempotency(Base)
    store = RpcProxy("store")
    outbox = Outbox(Base, retry=Retry(immediate=2, delays=(0.5, 1.0, 2.0, 4.0)))

    @rpc(idempotent=True, expected_exceptions=Exception)
    async def pay(self, payment: int, script: dict[str, Any]) -> Any:
        ledger, number = the_ledger(), current.get().data["call"]
        run = begun(number, ledger.opened(PROCESS.get(), "unused"), again=False)
        try:
            await asyncio.sleep(script.get("sleep", 0.0))
            for child in script.get("children", ()):
                await nested(self, child)
            await self.db.execute(insert(Effect).values(number=payment, run=run.id))
            for key in script.get("events", ()):
                await self._promise(run, key)
            if script.get("commits") and self.keys is not None:
                await self.db.commit()  # it waits for the end of the call
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
        return {"number": payment, "run": run.id}

    async def _promise(self, run: Run, key: str | None) -> None:
        event = the_ledger().accounts.promises()
        row = {"number": event.number, "run": run.id, "key": key}
        await self.db.execute(insert(Promise).values(row))
        await self.outbox.dispatch("paid", {"number": event.number}, key=key)


class Books:
    name = "books"

    db = DatabaseSession(Base, commit=True)
    inbox = Inbox(Base)

    @event_handler("shop", "sold", retry=Retry(immediate=2, delays=(0.5, 1.0, 2.0, 4.0)))
    async def book(self, payload: dict[str, Any]) -> None:
        await self._handle(payload, "book")

    @event_handler("bank", "paid", retry=Retry(immediate=2, delays=(0.5, 1.0, 2.0, 4.0)))
    async def settle(self, payload: dict[str, Any]) -> None:
        await self._handle(payload, "settle")

    async def _handle(self, payload: dict[str, Any], handler: str) -> None:
        ledger, process, number = the_ledger(), PROCESS.get(), payload["number"]
        transaction = ledger.opened(process, "unused")
        run = ledger.handling(number, handler, process, transaction, again=False)
        try:
            await self.db.execute(insert(Handled).values(number=number, run=run.id))
            if number % 6 == 0:
                await self.db.commit()  # it waits for the end of the call
            await asyncio.sleep(0.05 if number % 7 == 0 else 0.001)
            if number % 5 == 1 and len(ledger.events[number].runs[handler]) < 2:
                raise Refused(str(number))
        except asyncio.CancelledError:
            run.end("cancelled", ledger.now())
            raise
        except BaseException:
            run.end("failed", ledger.now())
            raise
        run.end("returned", ledger.now())


SERVICES: dict[str, type] = {"bank": Bank, "books": Books}


def payments(seed: object, client: str, count: int) -> list[list[Operation]]:
    """Return *count* operations of *client*, and with each those with the same idempotency key."""
    draw = random.Random(f"payments {seed} {client}").random
    made: list[list[Operation]] = []
    while sum(map(len, made)) < count:
        script, options = _script(draw), dict[str, Any]()
        often = 1
        if draw() < 0.6:
            options["idempotency_key"] = f"{client}-{len(made)}"
            often += int(draw() * 3.5)
        made.append([_payment(draw, script, options) for _ in range(often)])
    return made


def _script(draw: Callable[[], float]) -> dict[str, Any]:
    script: dict[str, Any] = {}
    if draw() < 0.3:
        script["sleep"] = draw() ** 4 * 1.0
    if draw() < 0.2:
        script["holds"] = draw() ** 4 * 0.1
    if draw() < 0.1:
        script["fail"] = True
    if draw() < 0.1:
        script["commits"] = True
    if draw() < 0.08:
        script["children"] = [{"method": "work", "script": {}, "timeout": 3.0}]
    if draw() < 0.5:
        keys = (None, "a", "b", "c")
        script["events"] = [keys[int(draw() * 4)] for _ in range(1 + int(draw() * 2.3))]
    return script


def _payment(
    draw: Callable[[], float], script: dict[str, Any], options: dict[str, Any]
) -> Operation:
    timeout = (0.3, 1.0, 3.0, 20.0, 20.0, 20.0)[int(draw() * 6)]
    cancel = draw() ** 3 * 0.5 if draw() < 0.12 else None
    return Operation(
        *("bank", "pay", script, timeout, draw() ** 4 * 1.5, cancel, draw() < 0.1),
        options=options,
    )
