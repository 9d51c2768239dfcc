"""
Faults to put into aiorpc, to measure whether the simulator finds them. Each replaces a piece of
source when Python imports its module, in a process of its own: no file changes.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MUTANTS", "Mutant", "install"]


@dataclass(frozen=True)
class Mutant:
    """
    A fault of aiorpc.

    Attributes:
        name: what is wrong.
        module: the module that gets the fault.
        old, new: the source that is replaced, which occurs once, and what replaces it.
        databases: whether only services with databases have the fault.
        seed: the seed that found the fault in aiorpc, if it was one of thousands.
    """

    name: str
    module: str
    old: str
    new: str
    databases: bool = False
    seed: int | None = None


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads the source of a module with the fault of *mutant*."""

    mutant: Mutant

    def get_code(self, fullname: str) -> types.CodeType:
        source = self.get_source(fullname)
        mutant = self.mutant
        assert source is not None
        if source.count(mutant.old) != 1:
            raise SystemExit(
                f"mutant {mutant.name!r}: its old source occurs {source.count(mutant.old)} times "
                f"in {mutant.module}, not once: write it for today's code"
            )
        return compile(source.replace(mutant.old, mutant.new), self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        loader = _Loader(fullname, spec.origin)
        loader.mutant = self._mutant
        return importlib.util.spec_from_file_location(
            fullname,
            spec.origin,
            loader=loader,
            submodule_search_locations=spec.submodule_search_locations,
        )


def install(mutant: Mutant) -> None:
    """Import the module of *mutant* with its fault from now on."""
    assert mutant.module not in sys.modules, f"{mutant.module} is imported already"
    sys.meta_path.insert(0, _Finder(mutant))


MUTANTS = [
    Mutant(
        "the request is acked before its answer is sent",
        "aiorpc.transports.amqp.consumer",
        "        try:\n            self.publish(reply)\n"
        "        except UnserializableValueError as error:\n"
        "            refuse(reply, error)\n            return False\n"
        "        self._unread.append(reply)\n",
        "        self.lane.write(self.encoder.ack(tag))\n"
        "        self.publish(reply)\n"
        "        self.unsettled.discard(tag)\n"
        "        self._unread.append(reply)\n"
        "        return True\n",
    ),
    Mutant(
        "the answer leaves before the dependencies close",
        "aiorpc.hosting.worker",
        "        try:\n            if opened:\n                await self._close(opened, error)\n",
        "        try:\n            if opened and error is None:\n"
        "                self._settle_once(Outcome(_RETURNED, self._encoded))\n"
        "            if opened:\n                await self._close(opened, error)\n",
    ),
    Mutant(
        "the request of a cancelled call is not acked",
        "aiorpc.entrypoints.requests",
        "        elif ending is Ending.CANCELLED:\n            request.delivery.ack()\n",
        "        elif ending is Ending.CANCELLED:\n            pass\n",
    ),
    Mutant(
        "an at-most-once method runs a request that is sent again",
        "aiorpc.entrypoints.requests",
        "        if again and method.at_most_once:\n",
        "        if request.delivery.redelivered and method.at_most_once:\n",
    ),
    Mutant(
        "a request that is sent again has no mark",
        "aiorpc.wire.requests",
        "headers = {**(message.headers or EMPTY), RESENT: True}",
        "headers = dict(message.headers or EMPTY)",
    ),
    Mutant(
        "with resend=False the client sends again",
        "aiorpc.calling.pending",
        "        if not self.resend or self not in self.calls:\n",
        "        if self not in self.calls:\n",
    ),
    Mutant(
        "a request is sent again although its answer came",
        "aiorpc.calling.pending",
        "        return self in self.calls\n",
        "        return True\n",
    ),
    Mutant(
        "a cancelled message that waits for a connection is not retracted",
        "aiorpc.transports.backlog",
        "        outgoing.retracted()\n        return self.backlog.discard(outgoing)\n",
        "        return False\n",
    ),
    Mutant(
        "a redelivered request does not join its running call",
        "aiorpc.entrypoints.requests",
        "        if running is not None and running.asked == request.asked:\n",
        "        if False:\n",
    ),
    Mutant(
        "a redelivered event does not join its running handler",
        "aiorpc.entrypoints.consumer",
        "            if taken.identity == identity:\n",
        "            if False:\n",
    ),
    Mutant(
        "the cancellation of a request that has not arrived is forgotten",
        "aiorpc.entrypoints.cancellations",
        "        self.early[key] = now + lifetime\n",
        "        del lifetime\n",
    ),
    Mutant(
        "a cancelled caller sends no cancellation",
        "aiorpc.calling.client",
        "        if not self.transport.retract(pending) and left != 0:\n",
        "        if self.transport.retract(pending) and left != 0:\n",
    ),
    Mutant(
        "a drain counts as a failed attempt",
        "aiorpc.wire.copies",
        "    return most if exact else max(0, most - 1), most\n",
        "    return most, most\n",
    ),
    Mutant(
        "the answers that a lost connection took are not kept",
        "aiorpc.entrypoints.answers",
        "        if None in key:\n            return\n",
        "        if key:\n            return\n",
    ),
    Mutant(
        "a running call stays in the table",
        "aiorpc.entrypoints.requests",
        "        self.cancellations.running.pop(request.key, None)\n        ending =",
        "        ending =",
    ),
    Mutant(
        "an answered call keeps its deadline",
        "aiorpc.calling.pending",
        "        del self._pending[pending.correlation_id]\n"
        "        if pending.deadlines is not None:\n"
        "            pending.deadlines.pop(pending, None)\n",
        "        del self._pending[pending.correlation_id]\n",
    ),
    Mutant(
        "unconfirmed messages are dropped with their connection",
        "aiorpc.transports.backlog",
        "        self.direct = None\n        self.backlog.put_back(returning)\n"
        "        if self.channel is not None:\n",
        "        self.direct = None\n        list(returning)\n"
        "        if self.channel is not None:\n",
    ),
    Mutant(
        "an event is acked before its handler ends",
        "aiorpc.entrypoints.consumer",
        "        self._taken[taken] = None\n        host.submit(",
        "        self._taken[taken] = None\n        delivery.ack()\n        host.submit(",
    ),
    Mutant(
        "an event is acked although the host abandoned it",
        "aiorpc.entrypoints.consumer",
        "            self.attempts.requeue(delivery)\n        elif",
        "            delivery.ack()\n        elif",
    ),
    Mutant(
        "a counted request does not join its running copy",
        "aiorpc.entrypoints.requests",
        "        if not self._is_known(request):\n            self._serve(request)\n",
        "        self._serve(request)\n",
    ),
    Mutant(
        "an answer is not kept although a copy of its request joined it",
        "aiorpc.entrypoints.answers",
        "        self.resent = True  # its original and its copies may come once more\n",
        "",
        seed=3000119,
    ),
    Mutant(
        "a redelivered copy counts as needless",
        "aiorpc.entrypoints.attempts",
        "        if copy in self._needless and not delivery.redelivered:\n",
        "        if copy in self._needless:\n",
        seed=134990671,
    ),
    Mutant(
        "a message that crashes its processes is never parked",
        "aiorpc.entrypoints.attempts",
        "        if least and most >= self.host.settings.max_attempts:\n",
        "        if False:\n",
    ),
    Mutant(
        "a stream does not wait for its caller",
        "aiorpc.entrypoints.streams",
        "        return ahead < self._window and self._ahead_bytes + self._size < MOST_BYTES\n",
        "        return ahead < 1000\n",
    ),
    Mutant(
        "a stream whose request is delivered again runs again",
        "aiorpc.entrypoints.requests",
        "        if request.window and (again or not method.stream):\n",
        "        if request.window and not method.stream:\n",
    ),
    Mutant(
        "the request of a stream is acked before the broker has its first message",
        "aiorpc.entrypoints.streams",
        "        request.delivery.answer(self._mandatory(opening))\n",
        "        request.delivery.ack()\n        self._send(opening)\n",
    ),
    Mutant(
        "the caller of a stream does not miss its service",
        "aiorpc.calling.inflow",
        "        if now - self.heard_at > self.silence:\n",
        "        if False:\n",
    ),
    Mutant(
        "a stream does not miss its caller",
        "aiorpc.entrypoints.streams",
        "        if now - self._heard_at > self._silence:\n",
        "        if False:\n",
    ),
    Mutant(
        "a program that leaves a stream early does not cancel it",
        "aiorpc.calling.streams",
        "        if self._task is not None:\n            self._task.cancel()\n\n    async def",
        "\n    async def",
    ),
    Mutant(
        "a stream ends before its dependencies close",
        "aiorpc.entrypoints.streams",
        "                await self._until_room()\n        self._flush()\n",
        "                await self._until_room()\n        self._flush()\n"
        "        self.end(Outcome(Ending.RETURNED, None))\n",
    ),
    Mutant(
        "a durable request does not survive a crash of the broker",
        "aiorpc.calling.client",
        "            persistent=route.persistent,\n",
        "            persistent=False,\n",
    ),
    Mutant(
        "a new owner of a singleton timer forgets its last tick",
        "aiorpc.entrypoints.singletons",
        "            last = max(ticks, default=now)\n",
        "            last = now\n",
    ),
    Mutant(
        "a worker ignores its deadline",
        "aiorpc.hosting.worker",
        "        else:\n            self.cancel(Ending.TIMED_OUT)\n",
        "        else:\n            pass\n",
    ),
    Mutant(
        "the deadline of a nested call is its own",
        "aiorpc.context",
        "        if self.deadline is not None and self.deadline.at <= at:\n",
        "        if False:\n",
    ),
    Mutant(
        "a session does not commit at its end",
        "aiorpc.sqlalchemy.providers",
        "                await session.commit_at_end()\n",
        "                pass\n",
        databases=True,
    ),
    Mutant(
        "a session commits although its method raised",
        "aiorpc.sqlalchemy.providers",
        "        finally:\n            await session.end()\n\n\nclass",
        "        except BaseException:\n            await session.commit_at_end()\n"
        "            raise\n        finally:\n            await session.end()\n\n\nclass",
        databases=True,
    ),
    Mutant(
        "an inbox runs a message whose row is there",
        "aiorpc.sqlalchemy.inbox",
        "            if not insert_unless_there(connection, self.table, row):\n"
        "                raise _Handled\n",
        "            insert_unless_there(connection, self.table, row)\n",
        databases=True,
    ),
    Mutant(
        "an inbox stores the row of a message before its handler's transaction",
        "aiorpc.sqlalchemy.inbox",
        "            with self.holding(worker_ctx, first) as hold:\n"
        "                await _stand(hold, call, message_id)\n"
        "                answer = await method()\n"
        "                await hold.stand()  # the method may have rolled back\n",
        "            async with self.engine.begin() as own:\n"
        "                await own.run_sync(first)\n"
        "            answer = await method()\n",
        databases=True,
    ),
    Mutant(
        "an inbox stores the row of a message after the ack",
        "aiorpc.sqlalchemy.inbox",
        "            with self.holding(worker_ctx, first) as hold:\n"
        "                await _stand(hold, call, message_id)\n"
        "                answer = await method()\n"
        "                await hold.stand()  # the method may have rolled back\n"
        "            await self.commit(session)\n",
        "            async def store() -> None:\n"
        "                await asyncio.sleep(0.01)\n"
        "                async with self.engine.begin() as own:\n"
        "                    await own.execute(self.table.insert().values(**row))\n"
        "            async with self.engine.connect() as own:\n"
        "                mine = self.table.c.id == row['id']\n"
        "                if (await own.execute(self.table.select().where(mine))).first():\n"
        "                    raise _Handled\n"
        "            answer = await method()\n"
        "            worker_ctx.host.spawn(store(), 'store a row')\n",
        databases=True,
    ),
    Mutant(
        "a counted copy has a message id of its own",
        "aiorpc.wire.copies",
        "    if deadline is not None:\n        copy.expiration",
        "    copy.message_id = copy.message_id and copy_id\n"
        "    if deadline is not None:\n        copy.expiration",
        databases=True,
    ),
    Mutant(
        "a key is stored outside the transaction of its call",
        "aiorpc.sqlalchemy.idempotency",
        "            with self.holding(worker_ctx, partial(self._claim, row, asked)) as hold:\n"
        "                await self._begin(hold, asked)\n"
        "                returned = await self._run(worker_ctx, hold, row, method)\n"
        "                await hold.stand()\n"
        "                await self._store(hold, row, returned.encoded)\n"
        "            await self.commit(session)\n"
        "            return returned.result\n",
        "            claim = partial(self._claim, row, asked)\n"
        "            async with self.engine.connect() as own:\n"
        "                await own.run_sync(claim)\n"
        "                await own.rollback()\n"
        "            returned = await method()\n"
        "            await session.commit()\n"
        "            async with self.engine.begin() as own:\n"
        "                await own.run_sync(claim)\n"
        '                reply = {"answer": returned.encoded.body}\n'
        '                reply["content_type"] = returned.encoded.content_type\n'
        "                mine = self.table.c.id == row\n"
        "                await own.execute(update(self.table).where(mine).values(reply))\n"
        "            return returned.result\n",
        databases=True,
    ),
    Mutant(
        "a key that has an answer runs again",
        "aiorpc.sqlalchemy.idempotency",
        "                asked.require_same(found.arguments)\n                raise _Answered(",
        "                asked.require_same(found.arguments)\n"
        "                return\n"
        "                raise _Answered(",
        databases=True,
    ),
    Mutant(
        "a key is committed before its method runs",
        "aiorpc.sqlalchemy.idempotency",
        "                await self._begin(hold, asked)\n                returned =",
        "                await self._begin(hold, asked)\n"
        "                hold.release()\n"
        "                await hold.session.commit()\n"
        "                returned =",
        databases=True,
    ),
    Mutant(
        "a nested call inherits the key of its call",
        "aiorpc.calling.client",
        "key_headers(options.idempotency_key, options.scope)",
        "key_headers(\n"
        "                    options.idempotency_key or current.get().data.get('key'),\n"
        "                    options.scope,\n"
        "                )",
        databases=True,
    ),
    Mutant(
        "a commit inside a method with a key does not wait",
        "aiorpc.sqlalchemy.session",
        "        if hold_of(self.sync_session) is None:\n",
        "        if True:\n            self.sync_session.info.pop('aiorpc_hold', None)\n",
        databases=True,
    ),
    Mutant(
        "an outbox sends before the commit",
        "aiorpc.sqlalchemy.outbox.writing",
        "            self.wake_after_commit(session)\n\n        await",
        "            self.wake_after_commit(session)\n"
        "            self._messages._transport.send(outgoing)\n"
        "\n"
        "        await",
        databases=True,
    ),
    Mutant(
        "a relay marks a message before the broker's confirm",
        "aiorpc.sqlalchemy.outbox.sending",
        "            settled=partial(self._settled, chain, row),\n"
        "        )\n"
        "        self._transport.send(outgoing)\n",
        "            settled=lambda error: None,\n"
        "        )\n"
        "        self._transport.send(outgoing)\n"
        "        self._settled(chain, row, None)\n",
        databases=True,
    ),
    Mutant(
        "a key of an outbox goes on after a message that was refused",
        "aiorpc.sqlalchemy.outbox.sending",
        "            self._held += sum(1 for _ in chain)  # the later rows of the key must not go\n"
        "        self._end()\n",
        "        self._next(chain)\n",
        databases=True,
    ),
    Mutant(
        "a relay takes rows that another relay has taken",
        "aiorpc.sqlalchemy.outbox.claims",
        "                .where(table.c.id.in_(ids), table.c.due_at <= at)\n"
        "                .values(due_at=until, claimed_by=owner)\n"
        "            )\n"
        "            query = select(*self._columns).where(mine).order_by(table.c.id)\n",
        "                .where(table.c.id.in_(ids), table.c.due_at <= at)\n"
        "                .values(due_at=0, claimed_by=owner)\n"
        "            )\n"
        "            query = select(*self._columns).where(table.c.id.in_(ids))\n"
        "            query = query.order_by(table.c.id)\n",
        databases=True,
    ),
    Mutant(
        "a relay does not take over what a crashed one left",
        "aiorpc.sqlalchemy.outbox.claims",
        "        until = at + int(LEASE * 1000)\n",
        "        until = at + int(LEASE * 10**6)\n",
        databases=True,
    ),
    Mutant(
        "a relay does not send what another process committed",
        "aiorpc.sqlalchemy.outbox.relay",
        "                    async with asyncio.timeout(LOOK):\n",
        "                    async with asyncio.timeout(1e6):\n",
        databases=True,
    ),
    Mutant(
        "the broker forgets the unacked messages of a lost connection",
        "aiorpc.transports.memory.broker",
        "            if unacked:\n                consumer.queue.requeue(unacked)\n",
        "",
    ),
    Mutant(
        "two calls share an answer",
        "aiorpc.calling.pending",
        'pending = self._pending.get(message.correlation_id or "")\n        if pending is None:\n'
        "            # The call timed out",
        'pending = self._pending.get(message.correlation_id or "") or next(\n'
        "            iter(self._pending.values()), None\n        )\n        if pending is None:\n"
        "            # The call timed out",
    ),
    Mutant(
        "an event whose handler raised is acked, not requeued",
        "aiorpc.entrypoints.consumer",
        "            self.requeues.add(delivery)\n",
        "            self._ack(delivery)\n",
    ),
    Mutant(
        "an event whose handler raised is acked, not retried",
        "aiorpc.entrypoints.consumer",
        "            self.retries.failed(delivery, taken.retries, outcome)\n",
        "            self._ack(delivery)\n",
    ),
    Mutant(
        "a failed call stays in the table of its client",
        "aiorpc.calling.pending",
        "        self.remove(pending)\n        if not pending.future.done():\n"
        "            pending.future.set_exception(error)\n",
        "        if not pending.future.done():\n            pending.future.set_exception(error)\n",
    ),
]
