"""
``Inbox``: a service handles each event and each message once. Awaits the database.

The pair of the consumed queue and the message id is the first row of the handler's transaction. Two
transactions cannot both write it: the second waits for the end of the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Connection, String
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import SchemaItem

from .. import figures
from ..call import Call
from ..checks import NAME, SECONDS, check
from ..entrypoints.consumer import QueueConsumer
from ..extensions import Entrypoint, Host, WorkerContext
from ..guards import Guard, Returned
from ..logs import logger, named
from .holding import Hold
from .records import Records, digest, insert_unless_there, may_begin_again, now, table_on

__all__ = ["Inbox"]

log = logger("aiorpc.inbox")

#: Seconds to wait for another transaction with the same pair, before a log line and a new attempt.
WAIT = 10.0
#: Seconds between two attempts.
_PAUSE = 0.1
_KINDS = {"retention": SECONDS, "table": NAME}


class _Handled(Exception):
    """The pair of a message is there."""


class Inbox(Records[None], Guard[None]):
    """
    Runs each event and each message of a service once::

        class Mailer:
            name = "mailer"
            db = DatabaseSession(Base, commit=True)
            inbox = Inbox(Base)

            @event_handler("shop", "ordered")
            async def send(self, order: dict[str, str]) -> None: ...

    What the handler does with its database and a row of the inbox are one transaction. A message
    whose row is there is acked, and its handler does not run. If a handler raises, its row is
    rolled back too, so a retry runs. A message without an id, such as Nameko's, runs as without an
    inbox.

    Args:
        declarative_base: that of a ``DatabaseSession(Base, commit=True)`` or a ``Database(Base)``
            of the same service.
        retention: seconds to keep a row. A message that comes back later runs again.
        table: the name of the table, which ``create_tables`` and Alembic see in ``Base.metadata``.
    """

    def __init__(
        self,
        declarative_base: Any,
        *,
        retention: float = 7 * 86400.0,
        table: str = "aiorpc_inbox",
    ) -> None:
        super().__init__(declarative_base)
        check("Inbox()", {"retention": retention, "table": table}, _KINDS)
        self.table = table_on(declarative_base, table, _columns)
        self._retention = retention

    @asynccontextmanager
    async def lifespan(self, host: Host) -> AsyncGenerator[None]:
        #: The consumed queues, by entrypoint.
        self._queues: dict[Entrypoint, str] = {}
        #: The queues that had a message without an id.
        self._without_ids: set[str] = set()
        async with super().lifespan(host):
            host.spawn(self.delete_old(self._is_old), "delete old rows of the inbox")
            yield

    def value(self, worker_ctx: WorkerContext) -> None:
        return None

    def guards(self, entrypoint: Entrypoint) -> bool:
        return isinstance(entrypoint, QueueConsumer)

    async def run(
        self, worker_ctx: WorkerContext, method: Callable[[], Awaitable[Returned]]
    ) -> Any:
        call, queue = worker_ctx.call, self._queue(worker_ctx)
        if call.message is None:  # a test called the handler
            return (await method()).result
        message_id = call.message.message_id
        if not message_id:
            self._warn(call, queue)
            return (await method()).result
        row = {
            "id": digest(queue, message_id),
            "queue": queue,
            # Foreign ids may be bytes, which databases refuse. The column is for people.
            "message_id": message_id if message_id.isprintable() else ascii(message_id)[:255],
            "handled_at": int(now()),
        }

        def first(connection: Connection) -> None:
            if not insert_unless_there(connection, self.table, row):
                raise _Handled

        session = self.session(worker_ctx)
        try:
            with self.holding(worker_ctx, first) as hold:
                await _stand(hold, call, message_id)
                answer = await method()
                await hold.stand()  # the method may have rolled back
            await self.commit(session)
        except _Handled:
            await session.rollback()
            figures.count("inbox", queue)
            log.debug("%s: message %s of queue %s was handled before", call, message_id, queue)
            return None
        return answer.result

    def _queue(self, worker_ctx: WorkerContext) -> str:
        entrypoint = worker_ctx.entrypoint
        queue = self._queues.get(entrypoint)
        if queue is None:
            queue = self._queues[entrypoint] = entrypoint.queue_name(worker_ctx.host) or ""
        return queue

    def _warn(self, call: Call, queue: str) -> None:
        if queue not in self._without_ids:
            self._without_ids.add(queue)
            log.warning(
                "%s: a message of queue %s has no message id, so it may run more than once, as "
                "without an inbox. Nameko sends no ids: send such messages with aiorpc, or let "
                "their sender set the AMQP property message_id",
                *(call, queue),
                extra=named(call.service, call.method),
            )

    def _is_old(self) -> ColumnElement[bool]:
        old: ColumnElement[bool] = self.table.c.handled_at < int(max(0.0, now() - self._retention))
        return old


def _columns() -> list[SchemaItem]:
    return [
        Column("id", String(64), primary_key=True),
        Column("queue", String(255), nullable=False),
        Column("message_id", String(255), nullable=False),
        Column("handled_at", BigInteger, nullable=False, index=True),
    ]


async def _stand(hold: Hold, call: Call, message_id: str) -> None:
    """
    Write the pair, after any other transaction that writes it. This waits for as long as the other
    handler runs: another database connection holds the pair, and the database ends the transaction
    of a process that died.
    """
    while True:
        try:
            async with asyncio.timeout(None if hold.joins else WAIT):
                await hold.stand()
        except TimeoutError:
            log.warning(
                "%s: message %s waits: for more than %g s, another delivery of it runs in another "
                "transaction, or the database does not answer",
                *(call, message_id, WAIT),
            )
        except DBAPIError as error:
            if not may_begin_again(hold, error):
                raise
        else:
            return
        await hold.session.rollback()
        await asyncio.sleep(_PAUSE)
