"""
Writes the rows of an outbox in the session of a call. Awaits the database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Table, event, func, insert, select
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ...call import Call
from ...calling.message_options import MessageOptions
from ...calling.publishing import Messages, check_event
from ...checks import NAME, check, optional
from ...context import EMPTY, Context, current, new_id
from ...exceptions import ConfigurationError
from ...extensions import Host
from ...transports.base import Outgoing
from ...transports.codec.encoder import Encoder, content_header_of
from ...transports.outgoing import NO_LIMIT, SizeLimit, check as check_outgoing
from ...wire.message import Exchange
from ...wire.names import event_exchange
from .claims import now
from .tables import LOCKS, lock_number

__all__ = ["Writer"]

_KINDS = {"key": optional(NAME)}
#: The key in a session's ``info`` of the functions to call after its commit.
_WAKES = "aiorpc_outboxes"


class Writer:
    """
    Writes the events and messages of one service.

    Args:
        attribute: the attribute of the service that is the Outbox.
        exchange: the exchange of messages that are no events.
        committed: called after the commit of a transaction with rows.
    """

    def __init__(
        self,
        host: Host,
        attribute: str,
        tables: tuple[Table, Table],
        messages: Messages,
        exchange: Exchange,
        committed: Callable[[], None],
    ) -> None:
        self._service = host.service_name
        self._attribute = attribute
        self._table, self._locks = tables
        self._messages = messages
        self._exchange = exchange
        self._committed = committed
        self._broker = host.settings.broker_address
        self._limit = SizeLimit(host.settings.max_message_size or NO_LIMIT)
        self._encoder = Encoder(channel=0, frame_max=0)  # only to check

    async def dispatch(
        self,
        session: AsyncSession,
        event_type: str,
        payload: Any,
        key: str | None,
        changes: Mapping[str, Any],
    ) -> None:
        """Write an event; see :meth:`.CallOutbox.dispatch`."""
        check_event(self._service, event_type)
        options = self._messages.options.replaced("dispatch()", changes)
        call = Call(
            *(self._service, event_type, (payload,), EMPTY, current.get(), "event"),
            exchange=event_exchange(self._service).name,
            routing_key=event_type,
            broker=self._broker,
        )
        await self._write(session, call, key, options, "dispatch()")

    async def publish(
        self,
        session: AsyncSession,
        payload: Any,
        routing_key: str,
        key: str | None,
        changes: Mapping[str, Any],
    ) -> None:
        """Write a message; see :meth:`.CallOutbox.publish`."""
        options = self._messages.options.replaced("publish()", changes)
        call = Call(
            *(self._service, self._attribute, (payload,), EMPTY, current.get(), "message"),
            exchange=self._exchange.name,
            routing_key=routing_key,
            broker=self._broker,
        )
        await self._write(session, call, key, options, "publish()")

    async def _write(
        self,
        session: AsyncSession,
        call: Call,
        key: str | None,
        options: MessageOptions,
        owner: str,
    ) -> None:
        check(owner, {"key": key}, _KINDS)
        message_id = new_id()

        async def write(payload: Any, context: Context) -> None:
            message = self._messages.encode(payload, context, options, message_id)
            outgoing = Outgoing(
                exchange=call.exchange, routing_key=call.routing_key, message=message
            )
            check_outgoing(outgoing, self._encoder, self._limit)
            if key is not None:
                await self._lock(session, key)
            row = {
                "service": self._service,
                "order_key": key,
                "message_id": message.message_id,
                "exchange": call.exchange,
                "routing_key": call.routing_key,
                "mandatory": options.mandatory,
                "properties": content_header_of(msgspec.structs.replace(message, body=b"")),
                "body": message.body,
                "size": len(message.body),
                "written_at": now(),
                "due_at": 0,
                "attempts": 0,
            }
            await session.execute(insert(self._table).values(row))
            self.wake_after_commit(session)

        await self._messages.wrapped(write)(call)

    async def _lock(self, session: AsyncSession, key: str) -> None:
        """
        Wait until no other transaction has written a row of *key*: the ids of rows are then in the
        order of the commits. The lock ends with the transaction.
        """
        name = session.sync_session.get_bind().dialect.name
        if name == "postgresql":
            number = lock_number(self._table.fullname, self._service, key, bits=64)
            await session.execute(select(func.pg_advisory_xact_lock(number)))
        elif name in ("mysql", "mariadb"):
            number = lock_number(self._service, key, bits=32) % LOCKS
            row = mysql.insert(self._locks).values(id=number)
            await session.execute(row.on_duplicate_key_update(id=number))
        elif name != "sqlite":  # where one transaction writes at a time
            raise ConfigurationError(
                f"an Outbox keeps the order of a key on PostgreSQL, MariaDB, MySQL and SQLite, and "
                f"this is {name}: leave out key="
            )

    def wake_after_commit(self, session: AsyncSession) -> None:
        """Call *committed* after each commit of *session*."""
        info = session.sync_session.info
        wakes = info.get(_WAKES)
        if wakes is None:
            wakes = info[_WAKES] = set()
            event.listen(session.sync_session, "after_commit", _after_commit)
        wakes.add(self._committed)


def _after_commit(session: Session) -> None:
    if session.get_nested_transaction() is None:  # the end of a savepoint commits nothing
        for committed in session.info.get(_WAKES, ()):
            committed()
