"""
LISTEN and NOTIFY of PostgreSQL, by asyncpg: wake the relays of other processes. Awaits the
database. Other databases and drivers have no such thing here, and their relays look every second.

A commit does not notify: PostgreSQL would commit such transactions one after the other (it locks
the queue of notifications until the commit is on disk). A process notifies if it cannot send what
it has committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from ...logs import logger

__all__ = ["Notifications", "channel_of", "notify"]

log = logger("aiorpc.outbox")

#: Seconds between two attempts to listen.
_AGAIN = 5.0
#: Seconds to close the connection.
_CLOSING = 1.0


def channel_of(table: Table) -> str:
    """Return the channel of the relays of *table*; PostgreSQL cuts a name at 63 bytes."""
    return table.fullname.encode()[:63].decode(errors="ignore")


async def notify(engine: AsyncEngine, channel: str) -> None:
    """Wake the relays that listen on *channel*, if the database can."""
    if engine.dialect.name == "postgresql":
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel})


class Notifications:
    """Calls *wake* at each notification on *channel*. It has a connection beside the pool."""

    def __init__(self, engine: AsyncEngine, channel: str, wake: Callable[[], None]) -> None:
        self._engine = engine
        self._channel = channel
        self._wake = wake

    async def run(self) -> None:
        """Listen until the task is cancelled. Connect again when the connection is lost."""
        if self._engine.dialect.driver != "asyncpg":
            return
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - the database may be down; the relay looks
                log.debug("%s: cannot listen: %r", self._channel, error)
            await asyncio.sleep(_AGAIN)

    async def _listen(self) -> None:
        ended = asyncio.Event()
        connection = await self._connect()
        try:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(self._channel, lambda *_: self._wake())
            self._wake()  # there may be rows since before
            await ended.wait()
        finally:
            with suppress(Exception):
                await connection.close(timeout=_CLOSING)

    async def _connect(self) -> Any:
        """Return a connection of asyncpg that the pool does not count."""
        pool: Any = self._engine.pool
        adapted = await greenlet_spawn(pool._invoke_creator, None)
        return self._engine.dialect.get_driver_connection(adapted)
