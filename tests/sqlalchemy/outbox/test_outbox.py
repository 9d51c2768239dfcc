"""Events and messages are sent if, and only if, the transaction of the call commits."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase

from aiorpc import (
    Call,
    ClusterRpcProxy,
    ConfigurationError,
    EventDispatcher,
    Exchange,
    Queue,
    RemoteError,
    Retry,
    ServiceContainer,
    consume,
    event_dispatcher,
    event_handler,
    from_thread,
    rpc,
)
from aiorpc.call import Handler
from aiorpc.sqlalchemy import (
    Database,
    DatabaseSession,
    Inbox,
    Outbox,
    SqlIdempotency,
    transaction_retry,
)
from aiorpc.sqlalchemy.outbox import relay
from tests.support.outboxes import RUN, TABLE, Base, Heard, Order, Rows, mailer, shop, tables


@asynccontextmanager
async def hosted(
    config: dict[str, Any], service: Any, *handlers: type, **options: Any
) -> AsyncIterator[tuple[Any, Heard, Rows]]:
    """Host *service* and *handlers*; give its proxy, what the handlers hear, and its rows."""
    heard = Heard()
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(tables(config, service))
        for handler in handlers:
            hosting = ServiceContainer(handler, config, middleware=[heard])
            await stack.enter_async_context(hosting)
        await stack.enter_async_context(ServiceContainer(service, config, **options))
        cluster = await stack.enter_async_context(ClusterRpcProxy(config))
        yield cluster[service.name], heard, Rows(engine, service)


def config_of(url: str, broker: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"DB_URI": url, **(broker or {"AMQP_URI": f"memory://{uuid.uuid4().hex}"})}


async def test_an_event_is_sent_after_the_commit_and_its_row_deleted(database_url: str) -> None:
    service = shop()
    async with hosted(config_of(database_url), service, mailer(service)) as (proxy, heard, rows):
        await proxy.order("Emma")
        assert await heard.until(1) == ["Emma"]
        await rows.gone()


async def test_without_a_commit_nothing_is_sent(database_url: str) -> None:
    service = shop()
    async with hosted(config_of(database_url), service, mailer(service)) as (proxy, heard, rows):
        with pytest.raises(RemoteError, match="LookupError"):
            await proxy.fail("Emma")
        await proxy.order("Emma")  # and not "twice": the first one was rolled back
        with pytest.raises(RemoteError, match="IntegrityError"):
            await proxy.order("Emma")
        await proxy.order("Persuasion")
        assert await heard.until(2) == ["Emma", "Persuasion"]
        await rows.gone()
    assert heard.payloads == ["Emma", "Persuasion"]


async def test_an_event_looks_as_if_it_was_dispatched_directly(
    sqlite_url: str, broker_config: dict[str, Any]
) -> None:
    def paid(its_name: str) -> Any:
        class Till:
            name = its_name
            direct = EventDispatcher(headers={"region": "eu"}, priority=3)
            db = DatabaseSession(Base, commit=True)
            outbox = Outbox(Base, table=TABLE, headers={"region": "eu"}, priority=3)

            @rpc
            async def pay(self) -> None:
                await self.direct("paid", {"direct": True}, correlation_id="order 7")
                await self.outbox.dispatch("paid", {"direct": False}, correlation_id="order 7")

        return Till

    service = paid(f"till_{uuid.uuid4().hex[:10]}")

    class Books:
        name = f"books_{uuid.uuid4().hex[:10]}"

        @event_handler(service.name, "paid")
        async def paid(self, payload: Any) -> None:
            pass

    config = config_of(sqlite_url, broker_config)
    async with hosted(config, service, Books, middleware=[]) as (proxy, heard, _):
        await proxy.pay.with_options(context_data={"language": "en"})()
        await heard.until(2)
    direct, written = sorted(heard.calls, key=lambda call: not call.args[0]["direct"])
    assert written.message.message_id != direct.message.message_id
    assert len(written.message.message_id) == len(direct.message.message_id)
    for call in (direct, written):
        call.message.message_id, call.message.body = "", b""
    assert written.message == direct.message
    assert written.context.call_id_stack[:-1] == direct.context.call_id_stack[:-1]
    assert written.context.data == direct.context.data == {"language": "en", "region": "eu"}
    assert (written.exchange, written.routing_key) == (direct.exchange, direct.routing_key)


async def test_middleware_wraps_the_writing_and_its_context_data_is_sent(sqlite_url: str) -> None:
    trace = f"00-{'1' * 32}-{'2' * 16}-01"
    seen: list[str] = []

    async def tracing(call: Call, handler: Handler) -> Any:
        if call.args == ("refused",):
            raise PermissionError("not this one")
        seen.append(f"{call.kind} {call.side} {call.service}.{call.method}")
        return await handler(call.replace(args=("changed",)).with_data({"traceparent": trace}))

    service = shop(middleware=[tracing])
    async with hosted(config_of(sqlite_url), service, mailer(service)) as (proxy, heard, rows):
        await proxy.order("Emma")
        with pytest.raises(RemoteError, match="PermissionError"):
            await proxy.order("refused")
        assert await heard.until(1) == ["changed"]
        assert heard.calls[0].context.data["traceparent"] == trace
        await rows.gone()
    assert seen == [f"event producer {service.name}.ordered"]


async def test_a_savepoint_that_rolls_back_takes_its_events_with_it(database_url: str) -> None:
    service = shop()

    async def two(self: Any) -> None:
        await self.order("kept", key="k")
        with suppress(LookupError):
            async with self.db.begin_nested():
                await self.order("gone", key="other")
                raise LookupError
        async with self.db.begin_nested():
            await self.order("kept too", key="k")

    service.two = rpc(two)
    async with hosted(config_of(database_url), service, mailer(service)) as (proxy, heard, rows):
        await proxy.two()
        assert await heard.until(2) == ["kept", "kept too"]
        await rows.gone()
    assert heard.payloads == ["kept", "kept too"]


class ByHand:
    """Commits itself."""

    name = f"by_hand_{uuid.uuid4().hex[:10]}"
    db = DatabaseSession(Base)
    dispatch = Outbox(Base, table=TABLE)

    @rpc
    async def commit(self) -> None:
        await self.dispatch("ordered", "first")
        await self.db.commit()
        await self.dispatch("ordered", "rolled back")
        await self.db.rollback()
        async with self.db.begin():
            await asyncio.gather(*(self.dispatch("ordered", f"in a block {n}") for n in range(3)))
        await self.dispatch("ordered", "never committed")


async def test_a_method_commits_its_events_itself(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(database_url)
    async with hosted(config, ByHand, mailer(ByHand)) as (proxy, heard, rows):
        await proxy.commit()
        events = await heard.until(4)
        assert events[0] == "first"
        assert sorted(events[1:]) == ["in a block 0", "in a block 1", "in a block 2"]
        await rows.gone()
    assert len(heard.calls) == 4
    assert f"{ByHand.name}.commit ended without a commit" in caplog.text


class Blocks:
    """Uses sessions for blocks, and the session of the call."""

    name = f"blocks_{uuid.uuid4().hex[:10]}"
    db = Database(Base)
    outbox = Outbox(Base, table=TABLE)

    @rpc
    async def block(self) -> None:
        async with self.db.get_session() as session:
            session.add(Order(book="Emma"))
            await self.outbox.dispatch("ordered", "in a block")
        await self.outbox.dispatch("ordered", "in the session")
        await self.db.session.commit()
        with suppress(LookupError):
            async with self.db.get_session():
                await self.outbox.dispatch("ordered", "gone")
                raise LookupError

    @rpc
    async def two_blocks(self) -> None:
        async with self.db.get_session() as outer, self.db.get_session():
            await self.outbox.dispatch("ordered", "said", session=outer)
            await self.outbox.dispatch("ordered", "which one?")


async def test_events_in_blocks_of_a_database(database_url: str) -> None:
    config = config_of(database_url)
    async with hosted(config, Blocks, mailer(Blocks)) as (proxy, heard, rows):
        await proxy.block()
        assert await heard.until(2) == ["in a block", "in the session"]
        with pytest.raises(RemoteError, match=r"which of 2 blocks.*session=session"):
            await proxy.two_blocks()
        await rows.gone()
    assert len(heard.calls) == 2


async def test_a_retried_transaction_sends_its_events_once(sqlite_url: str) -> None:
    service = shop()
    failing = [True]

    @transaction_retry
    async def flaky(self: Any) -> None:
        await self.order("Emma")
        if failing.pop() if failing else False:
            from aiorpc.sqlalchemy import DatabaseUnreachable

            raise DatabaseUnreachable("gone for a moment")

    service.flaky = rpc(flaky)
    async with hosted(config_of(sqlite_url), service, mailer(service)) as (proxy, heard, rows):
        await proxy.flaky()
        await proxy.order("Persuasion")
        assert await heard.until(2) == ["Emma", "Persuasion"]
        await rows.gone()
    assert not failing


async def test_a_call_past_its_deadline_sends_nothing(sqlite_url: str) -> None:
    service = shop()
    written = asyncio.Event()

    async def slow(self: Any) -> None:
        await self.order("late")
        written.set()
        await asyncio.sleep(30)

    service.slow = rpc(slow)
    async with hosted(config_of(sqlite_url), service, mailer(service)) as (proxy, heard, rows):
        call = asyncio.ensure_future(proxy.slow())
        await written.wait()
        call.cancel()
        await proxy.order("Emma")
        assert await heard.until(1) == ["Emma"]
        await rows.gone()
    assert heard.payloads == ["Emma"]


async def test_a_sync_method_dispatches_through_its_thread(sqlite_url: str) -> None:
    service = shop()

    def sync(self: Any) -> None:
        from_thread.run(self.outbox.dispatch, "ordered", "from a thread")

    service.sync = rpc(sync)
    async with hosted(config_of(sqlite_url), service, mailer(service)) as (proxy, heard, _):
        await proxy.sync()
        assert await heard.until(1) == ["from a thread"]


async def test_messages_go_to_the_exchange_of_the_outbox(
    sqlite_url: str, broker_config: dict[str, Any]
) -> None:
    exchange = Exchange(f"parcels_{uuid.uuid4().hex[:10]}", "topic", auto_delete=True)

    class Parcels:
        name = f"parcels_{uuid.uuid4().hex[:10]}"

        @consume(Queue(f"q_{exchange.name}", exchange, "parcel.#", auto_delete=True))
        async def parcel(self, payload: Any) -> None:
            pass

    service = shop(exchange=exchange, routing_key="parcel.plain", type="parcel")

    async def send(self: Any) -> None:
        await self.outbox.publish({"to": "Ada"})
        await self.outbox.publish("raw", routing_key="parcel.raw", app_id="till", key="k")

    service.send = rpc(send)
    config = config_of(sqlite_url, broker_config)
    async with hosted(config, service, Parcels) as (proxy, heard, _):
        await proxy.send()
        assert sorted(map(str, await heard.until(2))) == ["raw", "{'to': 'Ada'}"]
        kinds = {call.routing_key: call.message for call in heard.calls}
        assert kinds["parcel.plain"].type == kinds["parcel.raw"].type == "parcel"
        assert kinds["parcel.raw"].app_id == "till"


class Reader:
    """Handles an event once, and sends others in the same transaction."""

    name = f"reader_{uuid.uuid4().hex[:10]}"
    db = Database(Base)
    inbox = Inbox(Base, table=f"inbox_{RUN}")
    outbox = Outbox(Base, table=TABLE)

    @event_handler("source", "came")
    async def read(self, payload: Any) -> None:
        async with self.db.get_session() as session:
            session.add(Order(book=payload))
            await self.outbox.dispatch("ordered", payload)
        await self.outbox.dispatch("ordered", "and in the session")


async def test_an_inbox_and_an_outbox_are_one_transaction(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LOOK", 1000.0)  # so that only the commit wakes it
    config = config_of(database_url)
    async with (
        hosted(config, Reader, mailer(Reader)) as (_, heard, rows),
        event_dispatcher(config) as dispatch,
    ):
        for _ in range(2):
            await dispatch("source", "came", "Emma", message_id="4711")
        assert sorted(await heard.until(2)) == ["Emma", "and in the session"]
        await rows.gone()
    assert len(heard.calls) == 2


async def test_an_event_of_a_named_block_wakes_the_relay_at_the_commit_of_the_call(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(relay.Relay, "committed", lambda _: seen.append("committed"))

    class Named:
        name = f"named_{uuid.uuid4().hex[:10]}"
        db = Database(Base)
        outbox = Outbox(Base, table=TABLE)
        idempotency = SqlIdempotency(Base, table=f"keys_{RUN}")

        @rpc(idempotent=True)
        async def order(self) -> None:
            async with self.db.get_session() as session:
                await self.outbox.dispatch("ordered", "Emma", session=session)
            seen.append("returned")

    async with hosted(config_of(sqlite_url), Named) as (proxy, _, _):
        await proxy.order.with_options(idempotency_key="one")()
    assert seen[-1] == "committed", seen


class Second(DeclarativeBase):
    pass


class Both:
    """Has two databases, with an outbox in each."""

    name = f"both_{uuid.uuid4().hex[:10]}"
    db = DatabaseSession(Base, commit=True)
    outbox = Outbox(Base, table=TABLE)
    other = DatabaseSession(Second)
    second = Outbox(Second, table=TABLE)

    @rpc
    async def send(self) -> None:
        await self.outbox.dispatch("ordered", "of the first")
        await self.second.dispatch("ordered", "of the second, rolled back")
        await self.other.rollback()
        await self.second.dispatch("ordered", "of the second")
        await self.other.commit()


async def test_two_outboxes_on_two_bases(sqlite_url: str, tmp_path: Path) -> None:
    urls = {"Base": sqlite_url, "Second": f"sqlite:///{tmp_path}/second.sqlite"}
    config = {
        "AMQP_URI": f"memory://{uuid.uuid4().hex}",
        "DB_URIS": {f"{Both.name}:{base}": url for base, url in urls.items()},
    }
    async with hosted(config, Both, mailer(Both)) as (proxy, heard, rows):
        await proxy.send()
        assert sorted(await heard.until(2)) == ["of the first", "of the second"]
        await rows.gone()
    assert len(heard.calls) == 2


# What is wrong


async def test_a_wrong_event_is_an_error_in_the_call(sqlite_url: str) -> None:
    service = shop()

    async def wrong(self: Any, what: str) -> str:
        wrongs: dict[str, Any] = {
            "payload": lambda: self.outbox.dispatch("ordered", object()),
            "type": lambda: self.outbox.dispatch(7, "x"),
            "key": lambda: self.outbox.dispatch("ordered", "x", key=7),
            "option": lambda: self.outbox.dispatch("ordered", "x", prioriti=3),
            "large": lambda: self.outbox.dispatch("ordered", "x" * 5000),
            "header": lambda: self.outbox.dispatch("ordered", "x", headers={"a": object()}),
            "routing key": lambda: self.outbox.publish("x", routing_key="k" * 300),
        }
        try:
            await wrongs[what]()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    service.wrong = rpc(wrong)
    config = config_of(sqlite_url) | {"MAX_MESSAGE_SIZE": 4096}
    async with hosted(config, service, mailer(service)) as (proxy, heard, rows):
        for what, text in {
            "payload": "UnserializableValueError: ",
            "type": "TypeError: an event of",
            "key": "ConfigurationError: key of dispatch() must be a name",
            "option": "TypeError: dispatch() has no option 'prioriti'",
            "large": "5002 bytes, and MAX_MESSAGE_SIZE is 4096",
            "header": "UnserializableValueError: ",
            "routing key": "UnserializableValueError: an AMQP routing key has at most 255 bytes",
        }.items():
            assert text in await proxy.wrong(what)
        await proxy.order("Emma")
        assert await heard.until(1) == ["Emma"]
        await rows.gone()


async def test_an_outbox_needs_one_session_of_its_base(sqlite_url: str) -> None:
    class Without:
        name = "without"
        outbox = Outbox(Base, table=TABLE)

    class Several:
        name = "several"
        db, other = DatabaseSession(Base), Database(Base)
        outbox = Outbox(Base, table=TABLE)

    class TwoRetries:
        name = "two_retries"
        db = DatabaseSession(Base)
        outbox = Outbox(Base, table=TABLE)
        messages = Outbox(Base, Exchange("x"), retry=Retry(delays=(1,)), table=TABLE)

    for service, text in {
        TwoRetries: r"TwoRetries.messages has another retry= .* table outbox_.*: give both the sam",
        Without: r"Without.outbox .* has none with Base: declare db = DatabaseSession\(Base, comm",
        Several: r"Several.outbox .* there are several with Base \(db, other\): declare one",
    }.items():
        with pytest.raises(ConfigurationError, match=text):
            async with ServiceContainer(service, config_of(sqlite_url)):
                pass


async def test_two_outboxes_share_a_table_and_its_relay(sqlite_url: str) -> None:
    service = shop()
    service.messages = Outbox(Base, Exchange("x"), table=TABLE)
    async with hosted(config_of(sqlite_url), service, mailer(service)) as (proxy, heard, rows):
        await proxy.order("Emma")
        assert await heard.until(1) == ["Emma"]
        await rows.gone()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retry": 3}, r"retry of Outbox\(\) must be a Retry, got a int"),
        ({"table": ""}, r"table of Outbox\(\) must be a name"),
        ({"routing_key": 7}, r"routing_key of Outbox\(\) must be a str"),
        ({"declare": Exchange("x")}, r"declare of Outbox\(\) must be a list"),
        ({"message_id": "x"}, r"message_id of Outbox\(\) would be the id of all its messages"),
    ],
)
def test_a_wrong_declaration_names_the_argument(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Outbox(Base, **{"table": TABLE, **options})


def test_declaring_it_again_finds_the_same_table() -> None:
    assert Outbox(Base, table=TABLE)._tables == Outbox(Base, table=TABLE)._tables
    assert select(Base.metadata.tables[TABLE]) is not None
