"""
A service that orders with an outbox: `python -m tests.chaos.outbox_service`. Its database, its name
and its configuration are in the environment.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiorpc import rpc, serve
from aiorpc.sqlalchemy import DatabaseSession, Outbox

NAME = os.environ.get("CHAOS_OUTBOX") or f"chaos_outbox_{os.getpid()}"


class Base(DeclarativeBase):
    pass


class Order(Base):
    """The ids of the orders of one key are in the order of their commits."""

    __tablename__ = f"{NAME}_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    key: Mapped[str] = mapped_column(String(20))


class Orders:
    name = NAME
    db = DatabaseSession(Base, commit=True)
    outbox = Outbox(Base, table=f"{NAME}_outbox")

    @rpc
    async def order(self, number: int, key: str, fail: bool) -> None:
        payload = {"number": number, "key": key}
        await self.outbox.dispatch("ordered", payload, key=key or None)
        self.db.add(Order(number=number, key=key))  # after the lock of the key
        await self.db.flush()
        if fail:
            raise LookupError(number)


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s"
    )
    sys.exit(asyncio.run(serve(Orders, config=json.loads(os.environ["CHAOS_CONFIG"]))))
