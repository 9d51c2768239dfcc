"""An inbox: each event and each message has its effect once. On all three databases."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import String, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiorpc import (
    ClusterRpcProxy,
    ConfigurationError,
    Queue,
    Retry,
    ServiceContainer,
    consume,
    event_dispatcher,
    event_handler,
    rpc,
)
from aiorpc.figures import Figure, on_count
from aiorpc.sqlalchemy import Database, DatabaseSession, Inbox, create_tables, inbox
from aiorpc.testing import entrypoint_hook
from aiorpc.transports import open_transport
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Message
from tests.support.databases import drop_tables, engine_of, settings_for
from tests.support.waiting import eventually

RUN = f"aiorpc_{os.getpid()}"
MESSAGES = Queue(f"messages_{RUN}")


class Base(DeclarativeBase):
    pass


class Effect(Base):
    __tablename__ = f"effect_{RUN}"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(50))


class Stage:
    """
    Services on one broker and one database.

    Attributes:
        runs: the payloads of the handlers that began.
        gates: a handler waits for the gate of its payload, if there is one.
        fails: how often the handlers of a payload raise.
    """

    def __init__(self, database: str) -> None:
        self.runs: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.fails: dict[str, int] = {}
        self.service = self._service()
        self.settings = settings_for(self.service, database)
        self.containers: list[ServiceContainer] = []

    async def handle(self, text: str) -> None:
        self.runs.append(text)
        if gate := self.gates.get(text):
            await gate.wait()
        if self.runs.count(text) <= self.fails.get(text, 0):
            raise LookupError(text)

    def _service(stage) -> Any:
        class Mailer:
            name = f"mailer_{RUN}"
            db = DatabaseSession(Base, commit=True)
            inbox = Inbox(Base, table=f"inbox_{RUN}")

            @event_handler("shop", "ordered", retry=Retry(immediate=1))
            async def send(self, text: str) -> None:
                self.db.add(Effect(text=f"send {text}"))
                await self.db.flush()
                await stage.handle(text)

            @event_handler("shop", "ordered")
            async def count(self, text: str) -> None:
                self.db.add(Effect(text=f"count {text}"))

            @consume(MESSAGES)
            async def take(self, text: str) -> None:
                self.db.add(Effect(text=f"take {text}"))

            @rpc
            async def total(self) -> int:
                return await self.db.scalar(select(func.count()).select_from(Effect)) or 0

        return Mailer

    async def dispatch(self, text: str, message_id: str | None) -> None:
        async with event_dispatcher(self.settings) as dispatch:
            await dispatch("shop", "ordered", text, message_id=message_id)

    async def send(self, text: str, message_id: str) -> None:
        message = Message(body=f'"{text}"'.encode(), message_id=message_id)
        async with open_transport(self.settings, name="a test") as transport:
            outgoing = Outgoing(exchange="", routing_key=MESSAGES.name, message=message)
            await transport.publish(outgoing, 5)

    async def effects(self) -> list[str]:
        async with engine_of(self.containers[0]).connect() as connection:
            return sorted(await connection.scalars(select(Effect.text)))

    async def rows(self) -> int:
        table = self.service.inbox.table
        async with engine_of(self.containers[0]).connect() as connection:
            return await connection.scalar(select(func.count()).select_from(table)) or 0

    async def handled(self, count: int) -> None:
        """Wait until *count* messages have been handled or acked."""
        await eventually(lambda: sum(_ended(each) for each in self.containers) >= count)


def _ended(container: ServiceContainer) -> int:
    return sum(each.ended for each in container.activity())


@asynccontextmanager
async def played(database: str, processes: int = 1) -> AsyncIterator[Stage]:
    """*processes* containers have engines of their own, as processes have."""
    stage = Stage(database)
    await create_tables(stage.settings, stage.service, drop=True)
    try:
        for _ in range(processes):
            stage.containers.append(ServiceContainer(stage.service, stage.settings))
            await stage.containers[-1].__aenter__()
        yield stage
    finally:
        for gate in stage.gates.values():
            gate.set()
        for container in stage.containers:
            await container.__aexit__(None, None, None)
        await drop_tables(stage.settings, stage.service)


async def test_a_message_with_the_same_id_has_its_effects_once_in_each_queue(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    counted: list[Figure] = []
    remove = on_count(counted.append)
    caplog.set_level(logging.DEBUG, "aiorpc.inbox")
    async with played(database_url) as stage, ClusterRpcProxy(stage.settings) as cluster:
        sent = [("a", "1"), ("a", "1"), ("b", "2"), ("again", "1")]
        for number, (text, message_id) in enumerate(sent, 1):
            await stage.dispatch(text, message_id)
            await stage.handled(2 * number)
        for _ in range(2):
            await stage.send("m", "1")
        await stage.handled(4 * 2 + 2)
        assert await stage.effects() == ["count a", "count b", "send a", "send b", "take m"]
        assert await stage.rows() == 5
        assert await cluster[stage.service.name].total() == 5
    remove()
    assert stage.runs == ["a", "b"]
    queue = f"evt-shop-ordered--{stage.service.name}.send"
    assert counted.count(("inbox", (queue,))) == 2
    assert f"message 1 of queue {queue} was handled before" in caplog.text


async def test_a_handler_that_raises_keeps_no_row_so_its_retry_runs(database_url: str) -> None:
    async with played(database_url) as stage:
        stage.fails["a"] = 1
        await stage.dispatch("a", "1")
        await stage.handled(3)
        assert stage.runs == ["a", "a"]
        await stage.dispatch("a", "1")
        await stage.handled(5)
        assert stage.runs == ["a", "a"]
        assert await stage.effects() == ["count a", "send a"]


async def test_messages_without_an_id_run_each_time_and_are_warned_of_once_per_queue(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with played(sqlite_url) as stage:
        for _ in range(3):
            await stage.dispatch("a", None)
        await stage.handled(6)
        assert stage.runs == ["a"] * 3
        assert await stage.effects() == ["count a"] * 3 + ["send a"] * 3
        assert await stage.rows() == 0
    warnings = [each for each in caplog.messages if "has no message id" in each]
    assert len(warnings) == 2  # one for each handler


async def test_a_handler_that_a_test_calls_runs_each_time_without_a_warning(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with played(sqlite_url) as stage:
        for _ in range(2):
            async with entrypoint_hook(stage.containers[0], "send") as send:
                await send("a")
        assert await stage.effects() == ["send a"] * 2
    assert "message id" not in caplog.text


@pytest.mark.parametrize("fails", [0, 1], ids=["commits", "fails"])
async def test_of_two_deliveries_at_once_the_second_waits_for_the_first(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: int
) -> None:
    """It runs only if the first failed; it is never lost, however long it waits."""
    monkeypatch.setattr(inbox, "WAIT", 0.02)
    async with played(database_url, processes=2) as stage:
        stage.gates["a"] = asyncio.Event()
        stage.fails["a"] = 2 * fails  # with its retry at once
        await stage.dispatch("a", "1")
        await eventually(lambda: stage.runs == ["a"])
        await stage.dispatch("a", "1")
        await eventually(
            lambda: "delivery of it runs in another transaction, or the" in caplog.text
        )
        assert stage.runs == ["a"]
        stage.gates["a"].set()
        await stage.handled(4 + fails)
        assert len(stage.runs) == 1 + 2 * fails
        assert await stage.effects() == ["count a", "send a"]


async def test_a_handler_that_rolls_back_has_its_effects_once(database_url: str) -> None:
    """After its roll back another delivery may be faster. Then the rest of it is rolled back."""
    runs: list[str] = []

    class Clerk:
        name = f"clerk_{RUN}"
        db = Database(Base)
        inbox = Inbox(Base, table=f"inbox_{RUN}")

        @event_handler("shop", "ordered")
        async def file(self, text: str) -> None:
            runs.append(text)
            await self.db.session.rollback()
            self.db.session.add(Effect(text=text))

    settings = settings_for(Clerk, database_url)
    await create_tables(settings, Clerk, drop=True)
    try:
        async with ServiceContainer(Clerk, settings) as it, event_dispatcher(settings) as dispatch:
            for _ in range(2):
                await dispatch("shop", "ordered", "a", message_id="1")
            await eventually(lambda: _ended(it) == 2)
            async with engine_of(it).connect() as connection:
                assert [*await connection.scalars(select(Effect.text))] == ["a"]
    finally:
        await drop_tables(settings, Clerk)
    assert runs


async def test_rows_older_than_the_retention_are_deleted(database_url: str) -> None:
    async with played(database_url) as stage:
        container = stage.containers[0]
        (provider,) = (each for each in container.providers if isinstance(each, Inbox))
        await stage.dispatch("a", "1")
        await stage.handled(2)
        assert await provider.delete_batch(provider._is_old()) == 0
        async with provider.engine.begin() as connection:
            await connection.execute(update(provider.table).values(handled_at=1))
        assert await provider.delete_batch(provider._is_old()) == 2
        assert await stage.rows() == 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Inbox(Base, retention=0), "retention of Inbox() must be a number of seconds"),
        (lambda: Inbox(Base, table=""), "table of Inbox() must be a name"),
        (lambda: Inbox("Base"), "declarative base, which has metadata, got 'Base' (str): give the"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], Inbox], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert said in str(caught.value)


@pytest.mark.parametrize("message_id", ["a\0b", "\udc80" * 255])
async def test_an_id_that_a_database_cannot_store_is_an_id(
    database_url: str, message_id: str
) -> None:
    async with played(database_url) as stage:
        for _ in range(2):
            await stage.send("m", message_id)
        await stage.handled(2)
        assert await stage.effects() == ["take m"]
        assert await stage.rows() == 1
