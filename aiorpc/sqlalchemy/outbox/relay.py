"""
The relay of a process: sends the rows of an outbox after their commits. Awaits the database and the
broker.

A commit in this process wakes the relay. On PostgreSQL, processes that cannot send now wake the
relays of others by NOTIFY. A relay also looks every second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from ... import figures
from ...entrypoints.retry import Retry
from ...exceptions import ConnectionLost
from ...logs import counted, logger
from ...transports.base import State, Transport
from ...wire.message import Exchange
from .claims import RowClaims, claims_of
from .counting import RowCounts, counted_rows
from .listening import Notifications, channel_of, notify
from .sending import Sending

__all__ = ["LOOK", "Relay"]

log = logger("aiorpc.outbox")

#: Seconds between two looks at the table, without a commit in this process.
LOOK = 1.0
#: Seconds that a relay works at a time, at most: less than a lease.
WORKING = 25.0
#: Seconds between two counts of the rows for metrics, at least.
COUNTING = 10.0


class Relay:
    """
    Sends the rows of one service in one table.

    Args:
        name: of the database, ``service:Base``, for the log and for metrics.
        events: the exchange for events of the service.
    """

    def __init__(
        self,
        name: str,
        engine: AsyncEngine,
        table: Table,
        service: str,
        transport: Transport,
        events: Exchange,
        retry: Retry,
    ) -> None:
        self.name = name
        self.retry = retry
        self._engine = engine
        self._table = table
        self._service = service
        self._transport = transport
        self._events = events
        self._claims: RowClaims | None = None
        self._woken = asyncio.Event()
        self._woken.set()  # an earlier process may have left messages
        #: Whether a commit woke the relay, so that another relay must send if this one cannot.
        self._committed = False
        self._closing = False
        self._in_trouble = False
        self._counts: RowCounts | None = None
        self._counts_wanted = True
        self._counted_at = 0.0
        figures.measure(self, _figures)

    @asynccontextmanager
    async def running(self, bound: float) -> AsyncGenerator[Relay]:
        """Run for the block. Then send what was committed last, in *bound* seconds."""
        forget = self._transport.on_state(self._state_changed)
        listener = Notifications(self._engine, channel_of(self._table), self.wake)
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(self._run(), name=f"aiorpc outbox {self.name}"),
            loop.create_task(listener.run(), name=f"aiorpc outbox {self.name}, listening"),
        ]
        try:
            yield self
        finally:
            forget()
            tasks[1].cancel()
            self._closing = True
            self.wake()
            try:
                await asyncio.wait(tasks, timeout=bound)
            finally:  # also if this is cancelled
                for task in tasks:
                    task.cancel()
            await asyncio.wait(tasks, timeout=bound)

    def wake(self) -> None:
        """Look at the table now."""
        self._woken.set()

    def committed(self) -> None:
        """Send what a transaction of this process has committed."""
        self._committed = True
        self._woken.set()

    def _state_changed(self, state: State) -> None:
        if state is State.CONNECTED:
            self.wake()

    async def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing  # then look once more, at what was committed last
            if not closing:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._woken.wait()
            self._woken.clear()
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - the database may be down; look again later
                self._trouble(error)
            else:
                self._relief()

    async def _look(self) -> None:
        """Send the rows that are due, and count the rows if somebody asks."""
        committed, self._committed = self._committed, False
        if self._claims is None:
            self._claims = await claims_of(self._engine, self._table, self._service)
        can_send = more = True
        while more:
            can_send = self._transport.state is State.CONNECTED
            if not can_send:
                break
            async with asyncio.timeout(WORKING):
                more = await self._round()
            if self._closing:
                break
            await self._count()
        async with asyncio.timeout(WORKING):
            if more if can_send else committed:
                await notify(self._engine, channel_of(self._table))
        await self._count()

    async def _round(self) -> bool:
        """
        Send one batch. Return whether other rows may be due.

        Raises:
            ConnectionLost: the broker has neither confirmed nor refused some of the messages.
        """
        assert self._claims is not None
        sending = None
        async with self._claims.claim() as batch:
            if batch.rows:
                sending = Sending(self._transport, self._events, self.retry, batch)
                await sending.run()
        aside = [each for each in batch.failed.values() if each.due_at is None]
        if aside:
            log.error(
                "%s: %s cannot be sent: %s. `aiorpc outbox ls` lists them",
                self.name,
                counted(len(aside), "message"),
                aside[0].reason,
            )
        if sending is not None and sending.unsure:
            raise ConnectionLost(
                f"the broker has not confirmed {counted(sending.unsure, 'message')}: "
                f"{self._transport.condition()}"
            )
        return batch.more

    def _trouble(self, error: Exception) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            log.warning(
                "%s: the messages of its outbox wait, and are tried again every second: %s",
                self.name,
                _text(error),
            )
        else:
            log.debug("%s: the messages of its outbox still wait: %r", self.name, error)

    def _relief(self) -> None:
        if self._in_trouble:
            self._in_trouble = False
            log.info("%s: its outbox works again", self.name)

    async def _count(self) -> None:
        at = asyncio.get_running_loop().time()
        if self._counts_wanted and (self._counts is None or at >= self._counted_at + COUNTING):
            self._counted_at, self._counts_wanted = at, False
            async with asyncio.timeout(WORKING), self._engine.connect() as connection:
                self._counts = await counted_rows(connection, self._table, self._service)


def _text(error: Exception) -> str:
    """The error of the driver in one line; SQLAlchemy's text has the statement too."""
    return str(getattr(error, "orig", None) or error) or repr(error)


def _figures(relay: Relay) -> figures.Measured:
    relay._counts_wanted = True
    counts = relay._counts
    if counts is not None:
        yield "outbox_rows", (relay.name, "waiting"), counts.waiting
        yield "outbox_rows", (relay.name, "set aside"), counts.aside
        yield "outbox_age", (relay.name,), counts.age
