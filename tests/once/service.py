"""
The shop that is killed: an order is a row, an event in the outbox and an answer, and each event has
one effect. A process of it is forked from one that has imported everything.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import aiorpc.transports.amqp.transport  # noqa: F401 - once, before the forks
from aiorpc import EventDispatcher, Retry, ServiceContainer, event_handler, rpc
from aiorpc.sqlalchemy import DatabaseSession, Inbox, Outbox, SqlIdempotency
from aiorpc.sqlalchemy.outbox import claims
from tests.once.points import Points
from tests.support.waiting import eventually

#: Seconds after which a relay sends what a dead one had leased, on SQLite; aiorpc waits 30 s.
LEASE = 1.0
#: The delays are in the names of queues.
RETRY = Retry(immediate=1, delays=(0.1, 1))


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(40), index=True)
    token: Mapped[str] = mapped_column(String(40))


class Effect(Base):
    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(40), index=True)


def services(run: str, *, once: bool = True) -> tuple[type, type]:
    """
    Return the shop and the counter of its effects.

    Args:
        run: makes their names unique.
        once: whether they have a store of keys, an outbox and an inbox.
    """

    if not once:
        return _plain(run)

    class Shop:
        name = f"shop_{run}"
        db = DatabaseSession(Base, commit=True)
        keys = SqlIdempotency(Base)
        outbox = Outbox(Base)

        @rpc(idempotent=True)
        async def order(self, key: str) -> str:
            order = Order(key=key, token=uuid.uuid4().hex)
            self.db.add(order)
            await self.outbox.dispatch("ordered", key)
            return order.token

    class Counter:
        name = f"counter_{run}"
        db = DatabaseSession(Base, commit=True)
        inbox = Inbox(Base)

        @event_handler(Shop.name, "ordered", retry=RETRY)
        async def count(self, key: str) -> None:
            self.db.add(Effect(key=key))

    return Shop, Counter


def _plain(run: str) -> tuple[type, type]:
    """Return services without a store of keys, outbox and inbox."""

    class Shop:
        name = f"shop_{run}"
        db = DatabaseSession(Base, commit=True)
        dispatch = EventDispatcher()

        @rpc
        async def order(self, key: str) -> str:
            order = Order(key=key, token=uuid.uuid4().hex)
            self.db.add(order)
            await self.dispatch("ordered", key)
            return order.token

    class Counter:
        name = f"counter_{run}"
        db = DatabaseSession(Base, commit=True)

        @event_handler(Shop.name, "ordered", retry=RETRY)
        async def count(self, key: str) -> None:
            self.db.add(Effect(key=key))

    return Shop, Counter


def queues(run: str) -> list[str]:
    """Return the queues of the services."""
    events = f"evt-shop_{run}-ordered--counter_{run}.count"
    return [
        *(f"rpc-shop_{run}", events, f"{events}.parked"),
        *(f"{events}.retry-100ms", f"{events}.retry-1000ms"),
    ]


def serve(run: str, config: Mapping[str, Any], address: str, once: bool) -> None:
    """Be a process of the shop, and do what the socket at *address* says."""
    asyncio.run(_serve(run, config, address, once))


async def _serve(run: str, config: Mapping[str, Any], address: str, once: bool) -> None:
    commands, answers = await asyncio.open_unix_connection(address)
    claims.LEASE = LEASE
    points = Points(run)
    points.watch()

    def say(what: object) -> None:
        answers.write(json.dumps(what).encode() + b"\n")

    shop, counter = services(run, once=once)
    async with (
        ServiceContainer(shop, config) as selling,
        ServiceContainer(counter, config) as counting,
    ):
        say("ready")
        while line := await commands.readline():
            match json.loads(line):
                case ["arm", last]:
                    points.arm(last)
                    say("armed")
                case ["list"]:
                    await _idle(selling, counting)
                    points.disarm()
                    say(points.passed)
                case ["stop"]:
                    points.disarm()
                    say(os.getpid())
                    break


async def _idle(*containers: ServiceContainer) -> None:
    """Wait until all calls and events have ended and are acked."""
    await eventually(lambda: not any(each.in_flight for it in containers for each in it.activity()))
    await asyncio.sleep(0.05)  # the ack gives no event
