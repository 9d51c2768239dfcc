"""The relay sends what was left, keeps the order of keys, and sets aside what cannot be sent."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from aiorpc import (
    ClusterRpcProxy,
    Exchange,
    Queue,
    Retry,
    ServiceContainer,
    consume,
    figures,
    rpc,
)
from aiorpc.sqlalchemy import records
from aiorpc.sqlalchemy.outbox import claims, relay
from aiorpc.sqlalchemy.outbox.listening import channel_of, notify
from aiorpc.wire.message import Message
from tests.support.breakable import breakable
from tests.support.outboxes import Heard, Rows, mailer, shop, tables
from tests.support.waiting import eventually


@pytest.fixture
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay looks only when something wakes it."""
    monkeypatch.setattr(relay, "LOOK", 1000.0)


def config_of(url: str, **more: Any) -> dict[str, Any]:
    return {"DB_URI": url, "AMQP_URI": f"memory://{uuid.uuid4().hex}", **more}


class Bench:
    """A service with an outbox, in none, one or several processes, and a handler of its events."""

    def __init__(
        self, stack: AsyncExitStack, config: dict[str, Any], service: Any, engine: AsyncEngine
    ) -> None:
        self._stack, self.config, self.service = stack, config, service
        self.heard, self.rows, self.engine = Heard(), Rows(engine, service), engine

    async def start(self, **options: Any) -> ServiceContainer:
        container = ServiceContainer(self.service, self.config, **options)
        return await self._stack.enter_async_context(container)

    async def listen(self) -> None:
        handler = ServiceContainer(mailer(self.service), self.config, middleware=[self.heard])
        await self._stack.enter_async_context(handler)

    async def proxy(self) -> Any:
        cluster = await self._stack.enter_async_context(ClusterRpcProxy(self.config))
        return cluster[self.service.name]


@asynccontextmanager
async def bench(config: dict[str, Any], service: Any) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack, tables(config, service) as engine:
        it = Bench(stack, config, service, engine)
        await it.listen()
        yield it
        await stack.aclose()


async def test_a_start_sends_what_an_earlier_process_left(database_url: str) -> None:
    async with bench(config_of(database_url), shop()) as it:
        await it.rows.write(*(f"{number}" for number in range(450)))
        await it.start()
        assert sorted(await it.heard.until(450)) == sorted(f"{number}" for number in range(450))
        await it.rows.gone()


async def test_several_relays_send_each_message_once(database_url: str) -> None:
    async with bench(config_of(database_url), shop()) as it:
        await it.rows.write(*(f"{number}" for number in range(300)))
        await asyncio.gather(it.start(), it.start(), it.start())
        await it.heard.until(300)
        await it.rows.gone()
        assert sorted(it.heard.payloads) == sorted(f"{number}" for number in range(300))


async def test_a_key_keeps_the_order_of_its_commits(database_url: str) -> None:
    async with bench(config_of(database_url, max_workers=30), shop()) as it:
        await it.start()
        await it.start()
        proxy = await it.proxy()
        commits: dict[str, list[str]] = defaultdict(list)

        async def order(key: str, number: int) -> None:
            await proxy.order(f"{key}{number}", key=key)

        await asyncio.gather(*(order(key, number) for number in range(15) for key in "abc"))
        await it.heard.until(45)
        await it.rows.gone()
        # The ids of the orders are not in the order of the commits, but those of the rows are.
        for key in "abc":
            commits[key] = [each for each in it.heard.payloads if each.startswith(key)]
            assert len(set(commits[key])) == 15


async def test_rows_of_a_key_are_sent_in_their_order(database_url: str) -> None:
    """By several relays, which take a few rows at a time."""
    async with bench(config_of(database_url), shop()) as it:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(claims, "MOST_ROWS", 7)
            for number in range(40):
                await it.rows.write(f"a{number:02}", order_key="a")
                await it.rows.write(f"b{number:02}", order_key="b")
            await it.rows.write("free")
            await asyncio.gather(it.start(), it.start(), it.start())
            await it.heard.until(81)
            await it.rows.gone()
        for key in "ab":
            sent = [each for each in it.heard.payloads if each.startswith(key)]
            assert sent == sorted(sent)
        assert len(it.heard.payloads) == 81


async def test_a_refused_message_holds_its_key_and_no_other(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = shop(retry=Retry(delays=(0.01, 0.01)))
    async with bench(config_of(database_url), service) as it:
        await it.rows.write("first", order_key="k", routing_key="nobody", mandatory=True)
        await it.rows.write("second", order_key="k")
        await it.rows.write("other key", order_key="l")
        await it.rows.write("no key")
        await it.start()
        assert sorted(await it.heard.until(2)) == ["no key", "other key"]
        await eventually(lambda: _aside(it))
        first, second = await it.rows.all()
        assert first.attempts == 3
        assert first.reason.startswith("Unroutable: no queue is bound to exchange")
        assert (second.due_at, second.attempts) == (0, 0)
        async with it.engine.begin() as connection:
            await connection.execute(it.rows.table.delete().where(it.rows.table.c.id == first.id))
        assert (await it.heard.until(3))[2] == "second"
        await it.rows.gone()
    assert "has not confirmed" not in caplog.text  # the broker did answer; "second" was not sent


async def _aside(it: Bench) -> bool:
    return any(row.due_at is None for row in await it.rows.all())


async def test_a_message_that_can_never_be_sent_is_set_aside_at_once(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(config_of(sqlite_url, MAX_MESSAGE_SIZE=4096), shop()) as it:
        await it.rows.write("x" * 5000)
        await it.rows.write("y", properties=b"\xff")
        await it.rows.write("z")
        await it.start()
        assert await it.heard.until(1) == ["z"]

        async def both() -> bool:
            return [row.due_at for row in await it.rows.all()] == [None, None]

        await eventually(both)
        large, garbled = await it.rows.all()
        assert "MAX_MESSAGE_SIZE is 4096" in large.reason
        assert garbled.reason.startswith("UnserializableValueError")
    assert "2 messages cannot be sent" in caplog.text


async def test_a_message_is_sent_again_with_its_id_if_its_row_could_not_be_deleted(
    server_url: str,
) -> None:
    async with bench(config_of(server_url), shop()) as it:
        container = await it.start()
        proxy = await it.proxy()
        failures = ["once"]

        def fail(_: Any, __: Any, statement: str, *___: Any) -> None:
            if statement.startswith("DELETE") and failures:
                raise RuntimeError(failures.pop())

        engine = container.providers[0].engine  # type: AsyncEngine
        event.listen(engine.sync_engine, "before_cursor_execute", fail)
        await proxy.order("Emma")
        assert await it.heard.until(2) == ["Emma", "Emma"]
        await it.rows.gone()
        assert len({call.message.message_id for call in it.heard.calls}) == 1


async def test_a_lease_of_a_dead_relay_ends(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(config_of(sqlite_url), shop()) as it:
        until = claims.now() + int(claims.LEASE * 1000)
        await it.rows.write("leased", order_key="k", due_at=until, claimed_by="a dead relay")
        await it.rows.write("later", order_key="k")
        await it.rows.write("free")
        await it.start()
        assert await it.heard.until(1) == ["free"]
        later = records.now() + claims.LEASE
        monkeypatch.setattr(records, "now", lambda: later)
        assert await it.heard.until(3) == ["free", "leased", "later"]
        await it.rows.gone()


async def test_a_commit_wakes_the_relay(database_url: str, no_looks: None) -> None:
    async with bench(config_of(database_url), shop()) as it:
        await it.start()
        proxy = await it.proxy()
        for number in range(3):
            await proxy.order(f"{number}", key="k" if number else None)
        assert await it.heard.until(3) == ["0", "1", "2"]
        await it.rows.gone()


async def test_a_notification_wakes_the_relay(postgresql_uri: str, no_looks: None) -> None:
    async with bench(config_of(postgresql_uri), shop()) as it:
        await it.start()
        # The first look of the relay, and the one when it listens, may be over or not.
        await it.rows.write("Emma")

        async def heard() -> bool:
            await notify(it.engine, channel_of(it.rows.table))
            return bool(it.heard.calls)

        await eventually(heard)
        assert it.heard.payloads == ["Emma"]


async def test_another_process_sends_for_one_that_has_no_connection(
    postgresql_uri: str, no_looks: None
) -> None:
    async with bench(config_of(postgresql_uri), shop()) as it, breakable(it.config) as link:
        await link.transport.start(5)
        cut_off = await it.start(transport=link.transport)
        await it.start()
        await link.cut()
        method = next(each for each in cut_off.entrypoints if each.method_name == "order")
        call = cut_off.new_call(method, ("Emma",))
        await cut_off.work(method, call)
        assert await it.heard.until(1) == ["Emma"]
        await it.rows.gone()
        link.heal()


async def test_messages_wait_while_the_broker_is_away(sqlite_url: str, no_looks: None) -> None:
    async with bench(config_of(sqlite_url), shop()) as it, breakable(it.config) as link:
        await link.transport.start(5)
        container = await it.start(transport=link.transport)
        await link.cut()
        method = next(each for each in container.entrypoints if each.method_name == "order")
        for number in range(3):
            await container.work(method, container.new_call(method, (f"{number}",), {"key": "k"}))
        assert await it.rows.count() == 3
        link.heal()
        assert await it.heard.until(3) == ["0", "1", "2"]
        await it.rows.gone()


async def test_a_stop_sends_what_was_committed_last(sqlite_url: str, no_looks: None) -> None:
    service = shop()
    begun = asyncio.Event()

    async def slow(self: Any) -> None:
        begun.set()
        while not self_stopping.is_set():
            await asyncio.sleep(0)
        await self.order("last")

    service.slow = rpc(slow)
    self_stopping = asyncio.Event()
    async with bench(config_of(sqlite_url), service) as it:
        container = await it.start()
        proxy = await it.proxy()
        call = asyncio.ensure_future(proxy.slow())
        await begun.wait()
        stop = asyncio.ensure_future(container.stop())
        await eventually(lambda: not container.health().ok)
        self_stopping.set()
        await call
        await stop
        assert await it.heard.until(1) == ["last"]
        assert await it.rows.count() == 0


async def test_a_relay_whose_end_is_cancelled_leaves_no_task(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, ending = asyncio.Event(), asyncio.Event()

    async def look(self: relay.Relay) -> None:
        looking.set()
        await asyncio.Event().wait()

    async def run(own: relay.Relay) -> None:
        async with own.running(1000.0):
            await looking.wait()
            ending.set()

    monkeypatch.setattr(relay.Relay, "_look", look)
    async with bench(config_of(sqlite_url), shop()) as it, breakable(it.config) as link:
        own = relay.Relay(
            *("a test", it.engine, it.rows.table, "shop", link.transport, Exchange("x"), Retry())
        )
        before = asyncio.all_tasks()
        task = asyncio.ensure_future(run(own))
        await ending.wait()
        task.cancel()
        await asyncio.wait((task,))
        await eventually(lambda: asyncio.all_tasks() <= before)


async def test_a_stop_without_a_broker_leaves_the_rows_to_the_next_process(
    sqlite_url: str, no_looks: None
) -> None:
    config = config_of(sqlite_url, SHUTDOWN_TIMEOUT=1)
    async with bench(config, shop()) as it, breakable(it.config) as link:
        await link.transport.start(5)
        container = await it.start(transport=link.transport)
        await link.cut()
        method = next(each for each in container.entrypoints if each.method_name == "order")
        await container.work(method, container.new_call(method, ("Emma",)))
        await container.kill()
        assert await it.rows.count() == 1
        await it.start()
        assert await it.heard.until(1) == ["Emma"]
        await it.rows.gone()
        link.heal()


async def test_a_database_in_trouble_is_logged_once(
    sqlite_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LOOK", 0.01)
    caplog.set_level(logging.DEBUG, "aiorpc.outbox")
    async with bench(config_of(sqlite_url), shop()) as it:
        async with it.engine.begin() as connection:
            await connection.run_sync(it.rows.table.drop)
        await it.start()
        await eventually(lambda: caplog.text.count("still wait") >= 3)
        async with it.engine.begin() as connection:
            await connection.run_sync(it.rows.table.create)
        await it.rows.write("Emma")
        assert await it.heard.until(1) == ["Emma"]
        await eventually(lambda: "its outbox works again" in caplog.text)
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert [each.getMessage() for each in warnings] == [
        f"{it.service.name}:Base: the messages of its outbox wait, and are tried again every "
        f"second: no such table: {it.rows.table.name}"
    ]


async def test_an_expiration_begins_when_the_event_is_written(sqlite_url: str) -> None:
    async with bench(config_of(sqlite_url), shop()) as it:
        message = Message(body=b"", expiration=60_000)
        await it.rows.write("Emma", message=message, written_at=claims.now() - 50_000)
        await it.start()
        await it.heard.until(1)
        assert 0 < it.heard.calls[0].message.expiration <= 10_000


async def test_an_event_without_a_handler_is_sent(
    sqlite_url: str, broker_config: dict[str, Any]
) -> None:
    """Its exchange may be deleted with the last handler, as that of Nameko 2."""
    config = config_of(sqlite_url, AUTO_DELETE_EVENT_EXCHANGES=True) | broker_config
    service = shop()
    async with tables(config, service) as engine:
        rows = Rows(engine, service)
        async with ServiceContainer(service, config):
            await rows.write("Emma")
            await rows.gone()


async def test_two_services_share_a_table(sqlite_url: str) -> None:
    one, other = shop(), shop()
    config = config_of(sqlite_url)
    async with bench(config, one) as it:
        theirs = Rows(it.engine, other)
        await theirs.write("theirs")
        await it.start()
        await it.rows.write("ours")
        assert await it.heard.until(1) == ["ours"]
        assert await theirs.count() == 1


async def test_publishing_to_a_missing_exchange_is_set_aside(
    sqlite_url: str, broker_config: dict[str, Any]
) -> None:
    config = config_of(sqlite_url) | broker_config
    async with bench(config, shop(retry=Retry(delays=()))) as it:
        await it.rows.write("lost", exchange=f"missing_{uuid.uuid4().hex}")
        await it.rows.write("user", message=Message(body=b"", user_id="somebody else"))
        await it.rows.write("Emma")
        await it.start()
        expected = 2 if "memory" in config["AMQP_URI"] else 1
        await it.heard.until(expected)

        async def settled() -> bool:
            left = await it.rows.all()
            return len(left) == 3 - expected and all(row.due_at is None for row in left)

        await eventually(settled)
        assert (await it.rows.all())[0].reason.startswith("Unroutable: ")


class Small:
    """Its queue takes one message."""

    name = f"small_{uuid.uuid4().hex[:10]}"
    queue = Queue(
        f"small_{uuid.uuid4().hex[:10]}",
        Exchange(f"small_{uuid.uuid4().hex[:10]}", auto_delete=True),
        arguments={"x-max-length": 1, "x-overflow": "reject-publish", "x-expires": 60_000},
    )

    @consume(queue)
    async def take(self, payload: Any) -> None:
        pass


async def test_a_full_queue_is_tried_again_later(
    sqlite_url: str, broker_config: dict[str, Any]
) -> None:
    config = config_of(sqlite_url) | broker_config
    service = shop(
        retry=Retry(delays=(0.3,) * 50), exchange=Small.queue.exchange, declare=[Small.queue]
    )
    async with bench(config, service) as it:
        heard = Heard()
        for number in range(4):
            await it.rows.write(
                f"{number}", exchange=Small.queue.exchange.name, routing_key="", order_key="k"
            )
        await it.start()

        async def refused() -> bool:
            return any("basic.nack" in (row.reason or "") for row in await it.rows.all())

        await eventually(refused)
        async with ServiceContainer(Small, config, middleware=[heard]):
            assert await heard.until(4) == ["0", "1", "2", "3"]
        await it.rows.gone()


async def test_metrics_count_the_rows(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "LOOK", 0.01)
    service = shop()

    def measured(name: str) -> dict[tuple[str, ...], float]:
        return {labels: n for (each, labels), n in figures.figures().items() if each == name}

    database = f"{service.name}:Base"
    async with bench(config_of(sqlite_url), service) as it:
        await it.rows.write("waits", due_at=claims.now() + 60_000, written_at=claims.now() - 5_000)
        await it.rows.write("aside", "aside too", due_at=None, reason="Unroutable: nobody")
        await it.start()
        await eventually(lambda: measured("outbox_rows").get((database, "waiting")))
        assert measured("outbox_rows")[database, "waiting"] == 1
        assert measured("outbox_rows")[database, "set aside"] == 2
        assert 5 <= measured("outbox_age")[database,] < 65
        # The next count is at least 10 seconds later.
        await it.rows.write("one more", due_at=None)
        for _ in range(20):
            await asyncio.sleep(0)
            assert measured("outbox_rows")[database, "set aside"] == 2


async def test_a_relay_gives_its_rows_back_when_it_loses_the_connection(server_url: str) -> None:
    """Within the lease of a look, and not when the wait for confirms is over."""
    async with bench(config_of(server_url), shop()) as it, breakable(it.config) as link:
        await link.transport.start(5)
        await it.start(transport=link.transport)
        link.mute()  # no confirm arrives
        await it.rows.write("Emma")
        await eventually(lambda: len(it.heard.calls) == 1)
        await link.cut()
        await it.start()
        assert await it.heard.until(2) == ["Emma", "Emma"]  # a duplicate, with the same id
        assert len({call.message.message_id for call in it.heard.calls}) == 1
        await it.rows.gone()
        link.heal()
