"""
``Outbox``: the dependency that sends events and messages exactly when the transaction commits.

Awaits the database; its relay awaits the broker too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Unpack

from sqlalchemy.ext.asyncio import AsyncSession

from ...call import Middleware
from ...calling.message_options import MessageKeywords, MessageOptions
from ...calling.publishing import Events, Messages
from ...checks import NAME, SHORT_TEXT, check, check_middleware
from ...dependencies.publisher import declarations
from ...entrypoints.retry import Retry
from ...exceptions import ConfigurationError
from ...extensions import DependencyProvider, Host, WorkerContext
from ...wire.message import Exchange, Queue
from ..providers import CallDatabase, Database, DatabaseSession, session_of
from ..records import databases_beside, require_one
from .relay import Relay
from .tables import OUTBOX, locks_table, outbox_table
from .writing import Writer

__all__ = ["CallOutbox", "Outbox"]

_KINDS = {"routing_key": SHORT_TEXT, "table": NAME}


class CallOutbox:
    """The value of ``self.outbox`` in a service that declares ``outbox = Outbox(Base)``."""

    def __init__(self, writer: Writer, database: Any, routing_key: str) -> None:
        self._writer = writer
        #: Returns ``self.db`` of the call.
        self._database = database
        self._routing_key = routing_key
        self._writing = asyncio.Lock()  # a session does one thing at a time

    async def dispatch(
        self,
        event_type: str,
        payload: Any = None,
        *,
        key: str | None = None,
        session: AsyncSession | None = None,
        **options: Unpack[MessageKeywords],
    ) -> None:
        """
        Send an event of the service after the commit: write it in the session of the call.

        Args:
            key: events and messages with the same key are sent in the order of their transactions.
                A transaction with the key waits until the earlier one has ended.
            session: the session of the row; by default that of the call, or of the block of
                ``get_session()`` that runs now.
            options: see :class:`~aiorpc.calling.message_options.MessageKeywords`.

        Raises:
            UnserializableValueError: the payload cannot be encoded, or the message is too large.
            TypeError: *options* names an option that does not exist.
            ConfigurationError: the value of an option is wrong, or it is not clear which session.
        """
        async with self._writing:
            chosen = self._session(session, "dispatch()")
            await self._writer.dispatch(chosen, event_type, payload, key, options)

    __call__ = dispatch

    async def publish(
        self,
        payload: Any,
        *,
        routing_key: str | None = None,
        key: str | None = None,
        session: AsyncSession | None = None,
        **options: Unpack[MessageKeywords],
    ) -> None:
        """
        Publish a message after the commit, to the exchange of the Outbox; see :meth:`dispatch`.

        Args:
            routing_key: the default is that of the Outbox.
        """
        routing_key = self._routing_key if routing_key is None else routing_key
        async with self._writing:
            chosen = self._session(session, "publish()")
            await self._writer.publish(chosen, payload, routing_key, key, options)

    def _session(self, given: AsyncSession | None, what: str) -> AsyncSession:
        database = self._database()
        if isinstance(database, CallDatabase) and database.holder is not None:
            self._writer.wake_after_commit(database.holder)  # blocks commit only savepoints
        if given is not None:
            return given
        if not isinstance(database, CallDatabase):
            session: AsyncSession = session_of(database)
            return session
        if len(database.in_blocks) > 1:
            raise ConfigurationError(
                f"{what} cannot know which of {len(database.in_blocks)} blocks of get_session() "
                f"commits the message: say it with {what[:-1]}..., session=session)"
            )
        return database.in_blocks[0] if database.in_blocks else database.session


class Outbox(DependencyProvider[CallOutbox]):
    """
    Sends events and messages exactly when the transaction of the call commits::

        class Shop:
            name = "shop"
            db = DatabaseSession(Base, commit=True)
            outbox = Outbox(Base)

            @rpc
            async def order(self, book: str) -> None:
                self.db.add(Order(book=book))
                await self.outbox.dispatch("ordered", {"book": book})

    ``dispatch`` writes a row in the session of the call. After the commit, the process sends the
    message, and deletes the row when the broker has confirmed it. What a process leaves behind, the
    relay of another process of the service sends.

    Args:
        declarative_base: that of a ``DatabaseSession`` or a ``Database`` of the service. Its
            metadata gets the tables of the outbox.
        exchange, declare, routing_key: of ``publish``; see :class:`aiorpc.Publisher`.
        retry: when a message is sent again that the broker refuses. After the last attempt it is
            set aside; ``aiorpc outbox`` shows it. By default after 1, 10, 60 and 300 seconds.
        table: the name of the table.
        middleware: wraps each ``dispatch`` and ``publish``.
        options: options of all events and messages; see
            :class:`~aiorpc.calling.message_options.MessageKeywords`.
    """

    #: ``aiorpc contract`` finds the events in the source code of the service.
    dispatches: ClassVar[bool] = True

    def __init__(
        self,
        declarative_base: Any,
        exchange: Exchange | None = None,
        *,
        declare: Sequence[Exchange | Queue] = (),
        routing_key: str = "",
        retry: Retry | None = None,
        table: str = OUTBOX,
        middleware: Sequence[Middleware] = (),
        **options: Unpack[MessageKeywords],
    ) -> None:
        owner = "Outbox()"
        check(owner, {"routing_key": routing_key, "table": table}, _KINDS)
        check_middleware(owner, middleware)
        if retry is not None and not isinstance(retry, Retry):
            raise ConfigurationError(
                f"retry of Outbox() must be a Retry, got a {type(retry).__name__}: write "
                "retry=Retry(delays=(1, 10, 60))"
            )
        self.declarative_base = declarative_base
        self.exchange = exchange or Exchange()
        #: The exchanges and queues that the service declares at its start.
        self.exchanges, self.queues = declarations(owner, self.exchange, declare)
        self._routing_key = routing_key
        self._retry = retry or Retry(delays=(1, 10, 60, 300))
        self._middleware = tuple(middleware)
        self._options = MessageOptions.declared(owner, options)
        self._tables = outbox_table(declarative_base, table), locks_table(declarative_base, table)

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        transport = host.transport
        given = transport, host.wire, host.settings, self._options, self._middleware
        found = databases_beside(self, host.service_cls)
        require_one(self, host.service_cls, found)
        self._database = found[0]
        events = await Events(*given).declare(host.service_name)
        if self.exchanges or self.queues:
            await transport.declare(self.exchanges, self.queues)
        committed = _nothing
        if not _is_replaced(self._database, host):
            committed = (await self._relay(host, events)).committed
        self._writer = Writer(
            *(host, self.attr_name, self._tables, Messages(*given), self.exchange), committed
        )
        yield

    async def _relay(self, host: Host, events: Exchange) -> Relay:
        """Return the relay of the service and the table. Other outboxes may share it."""
        database, engine = await self._database.opened(host)
        table = self._tables[0]
        relay = await host.share(
            (Relay, database.key, table.fullname),
            lambda: Relay(
                *(database.key, engine, table, host.service_name, host.transport, events),
                self._retry,
            ).running(host.settings.cleanup_timeout),
        )
        mine, shared = self._retry, relay.retry
        if (mine.immediate, mine.delays) != (shared.immediate, shared.delays):
            raise ConfigurationError(
                f"{host.service_cls.__qualname__}.{self.attr_name} has another retry= than an "
                f"Outbox beside it, and both have the table {table.fullname}: give both the same "
                "retry=, or one of them another table="
            )
        return relay

    def value(self, worker_ctx: WorkerContext) -> CallOutbox:
        service, name = worker_ctx.service, self._database.attr_name
        return CallOutbox(self._writer, lambda: vars(service)[name], self._routing_key)


def _nothing() -> None:
    pass


def _is_replaced(database: DatabaseSession | Database, host: Host) -> bool:
    """Whether a test has put another dependency in the place of *database*, such as db_session."""
    return any(
        each.attr_name == database.attr_name and not isinstance(each, DatabaseSession | Database)
        for each in getattr(host, "providers", ())
    )
