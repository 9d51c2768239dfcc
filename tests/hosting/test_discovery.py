"""Discovery: containers answer the question which services run, and leave nothing at the broker."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

import msgspec
import pytest

import aiorpc
from aiorpc import (
    ClusterRpcProxy,
    ConfigurationError,
    ConnectionLost,
    Entrypoint,
    Host,
    InMemoryIdempotency,
    RemoteError,
    ServiceContainer,
    ServiceRunner,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.contracts import describing
from aiorpc.contracts.model import Contract
from aiorpc.hosting.discovery.asking import asking, discover
from aiorpc.hosting.discovery.shapes import (
    DiscoveryAnswer,
    EndpointInfo,
    Fired,
    Info,
    Instance,
    Ping,
    Promises,
    Question,
    Stacks,
    Stats,
    encoded,
)
from aiorpc.transports import open_transport
from aiorpc.transports.base import Delivery, Outgoing, Subscription, Transport
from aiorpc.transports.memory.transport import MemoryTransport
from aiorpc.wire.message import Message, Queue
from aiorpc.wire.names import DISCOVERY_EXCHANGE, discovery_answers_queue, discovery_queue
from tests.support.waiting import eventually

A = TypeVar("A", bound=DiscoveryAnswer)
#: Seconds to wait for answers.
WAIT = 0.3
PROCESS = f"{socket.gethostname()}:{os.getpid()}"


class One:
    name = "tests_one"

    @rpc
    async def first(self) -> None: ...

    @rpc
    async def second(self) -> None: ...


class Two:
    name = "tests_two"

    @rpc
    async def only(self) -> None: ...


def ours(answers: Sequence[A]) -> list[A]:
    """The answers of our services: others may use the same broker."""
    return [each for each in answers if each.name in {One.name, Two.name}]


async def test_every_container_answers(broker_config: dict[str, Any]) -> None:
    settings = resolve(broker_config)
    async with (
        open_transport(settings) as transport,
        ServiceRunner(One, Two, config=settings),
        ServiceContainer(One, settings),
    ):
        found = ours(await discover(transport, WAIT))
    assert [each.name for each in found] == [One.name, One.name, Two.name]
    assert len({each.id for each in found}) == 3
    assert found[0].metadata == {
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "aiorpc": aiorpc.__version__,
    }
    assert found[0].endpoints == [
        EndpointInfo("first", "rpc-tests_one", {"kind": "Rpc"}),
        EndpointInfo("second", "rpc-tests_one", {"kind": "Rpc"}),
    ]


@pytest.mark.slow
async def test_a_service_describes_itself_once(monkeypatch: pytest.MonkeyPatch) -> None:
    described: list[Sequence[type]] = []
    describe = describing.contract_of

    def contract_of(classes: Sequence[type]) -> Contract:
        described.append(classes)
        return describe(classes)

    monkeypatch.setattr(describing, "contract_of", contract_of)
    settings = resolve("memory://tests_contract")
    async with (
        open_transport(settings) as transport,
        ServiceContainer(One, settings),
        asking(transport) as asker,
    ):
        (first,) = await asker.ask(Question.CONTRACT, WAIT, One.name)
        (second,) = await asker.ask(Question.CONTRACT, WAIT, One.name)
    assert isinstance(first, Promises)
    assert first.documents
    assert first == second
    assert described == [[One]]


async def test_a_stopped_or_silent_service_is_not_found(broker_config: dict[str, Any]) -> None:
    settings = resolve(broker_config)
    async with open_transport(settings) as transport:
        async with ServiceContainer(One, settings):
            pass
        async with ServiceContainer(Two, {**broker_config, "DISCOVERY": False}):
            assert ours(await discover(transport, WAIT)) == []


async def test_discovery_leaves_no_queue_at_the_broker(broker_config: dict[str, Any]) -> None:
    settings = resolve(broker_config)
    queues: list[str] = []
    async with open_transport(settings) as transport:
        subscribe = transport.subscribe

        async def recording(queue: Queue, *args: Any, **options: Any) -> Subscription:
            queues.append(queue.name)
            return await subscribe(queue, *args, **options)

        transport.subscribe = recording
        async with ServiceContainer(One, settings, transport=transport):
            await discover(transport, WAIT)
        looks = [await transport.inspect(name, 2) for name in queues if "discovery" in name]
    assert len(looks) == 2
    assert not any(look is None or look.exists for look in looks)


#: Bodies that are no JSON, no UTF-8, and nested too deep.
MALFORMED = (b"?", b'{"service": "\xff"}', b'{"a":' * 20_000)


async def test_a_malformed_question_does_no_harm(
    broker_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = resolve(broker_config)
    async with open_transport(settings) as transport, ServiceContainer(One, settings):
        for message in (
            *(Message(body=each) for each in MALFORMED),
            Message(body=b"", reply_to="aiorpc-nobody"),
        ):
            await transport.publish(
                Outgoing(exchange=DISCOVERY_EXCHANGE.name, routing_key="", message=message)
            )
        assert [each.name for each in ours(await discover(transport, WAIT))] == [One.name]
    assert "failed" not in caplog.text


async def test_malformed_answers_are_skipped_and_each_fault_is_logged_once(
    broker_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = resolve(broker_config)
    async with open_transport(settings) as transport, ServiceContainer(One, settings):

        def answer(question: Delivery) -> None:
            question.ack()
            for body in MALFORMED if question.message.reply_to else ():
                transport.send(
                    Outgoing(
                        exchange="",
                        routing_key=question.message.reply_to or "",
                        message=Message(body=body),
                    )
                )

        subscribed = await transport.subscribe(discovery_queue("other"), answer)
        async with subscribed, asking(transport) as asker:
            for _ in range(2):
                found = await asker.ask(Question.INFO, WAIT)
                assert [each.name for each in ours(found)] == [One.name]
    assert caplog.text.count("an answer to a question of discovery cannot be read") == 3


class Slow(Entrypoint):
    """Is ready to fire when the test allows it."""

    begun = asyncio.Event()
    allowed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def listen_all(
        cls, host: Host, entrypoints: Sequence[Entrypoint]
    ) -> AsyncGenerator[None]:
        cls.begun.set()
        await cls.allowed.wait()
        yield


@pytest.mark.slow
async def test_a_starting_service_answers_when_it_is_ready(broker_config: dict[str, Any]) -> None:
    class NotYet:
        name = Two.name
        method = Slow.decorator(lambda self: None)

    Slow.begun, Slow.allowed = asyncio.Event(), asyncio.Event()
    settings = resolve(broker_config)
    async with open_transport(settings) as transport:
        container = ServiceContainer(NotYet, settings)
        starting = asyncio.create_task(container.start())
        await Slow.begun.wait()
        # After this first question the queue exists, and the next question waits in it.
        assert ours(await discover(transport, WAIT)) == []
        asking = asyncio.create_task(discover(transport, 2 * WAIT))
        await asyncio.sleep(WAIT)  # the question is answered at its end
        Slow.allowed.set()
        await starting
        assert [each.name for each in ours(await asking)] == [Two.name]
        await container.stop()


async def test_starting_may_be_cancelled_while_it_becomes_discoverable(
    broker_config: dict[str, Any],
) -> None:
    class NotYet:
        name = Two.name
        method = Slow.decorator(lambda self: None)

    Slow.begun, Slow.allowed = asyncio.Event(), asyncio.Event()
    settings = resolve(broker_config)
    async with open_transport(settings) as transport:
        before = len(transport.subscriptions)
        container = ServiceContainer(NotYet, settings, transport=transport)
        starting = asyncio.create_task(container.start())
        await Slow.begun.wait()
        starting.cancel()
        await asyncio.wait([starting])
        assert len(transport.subscriptions) == before
        assert [task for task in asyncio.all_tasks() if Two.name in task.get_name()] == []


class Forbidding(MemoryTransport):
    """A broker that forbids queues for discovery."""

    async def subscribe(self, queue: Queue, *args: Any, **options: Any) -> Subscription:
        if "discovery" in queue.name:
            raise ConfigurationError("the user lacks the permission to configure it")
        return await super().subscribe(queue, *args, **options)


async def test_a_service_starts_where_discovery_is_forbidden(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "aiorpc.hosting"):
        async with (
            Forbidding("forbidding") as transport,
            ServiceContainer(One, "memory://forbidding", transport=transport),
        ):
            pass
    assert "tests_one will not show in `aiorpc ls`: the user lacks the permission" in caplog.text
    assert "tests_one ready" in caplog.text


class OtherOne:
    name = "tests_one"

    @rpc
    async def first(self) -> None: ...

    @rpc
    async def third(self) -> None: ...


async def test_processes_that_answer_one_name_with_other_methods_are_logged_by_both(
    broker_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with ServiceContainer(One, broker_config), ServiceContainer(OtherOne, broker_config):
        await eventually(lambda: caplog.text.count("answers the service name") == 2)
    assert f"process {PROCESS} answers the service name tests_one with other" in caplog.text
    assert "only here: second; only there: third" in caplog.text
    assert "only here: third; only there: second" in caplog.text


async def test_equal_instances_and_other_services_are_not_logged(
    broker_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        ServiceContainer(One, broker_config),
        ServiceContainer(One, broker_config),
        ServiceContainer(Two, broker_config),
        ServiceContainer(OtherOne, {**broker_config, "DISCOVERY": False}),
        open_transport(resolve(broker_config)) as transport,
    ):
        await discover(transport, WAIT)
    assert "answers the service name" not in caplog.text


# The questions


class Described:
    """
    Sells books, and
    nothing else.

    More of it.
    """

    name = "tests_one"
    version = "1.4.0"
    metadata: ClassVar[dict[str, Any]] = {"team": "shop", "number": 7}

    idempotency = InMemoryIdempotency()

    @rpc(idempotent=True)
    async def first(self) -> None:
        """Do the first thing.

        And more.
        """

    @rpc
    async def numbers(self) -> AsyncGenerator[int]:
        yield 1

    @rpc
    async def fails(self) -> None:
        raise ValueError("no")


@pytest.mark.slow
async def test_an_instance_says_what_it_is(broker_config: dict[str, Any]) -> None:
    settings = resolve(broker_config)
    async with (
        open_transport(settings) as transport,
        ServiceContainer(Described, settings),
        asking(transport) as asker,
    ):
        (info,) = await asker.ask(Question.INFO, WAIT, One.name)
        (ping,) = await asker.ask(Question.PING, WAIT, One.name)
    assert isinstance(info, Info)
    assert (info.version, info.description) == ("1.4.0", "Sells books, and nothing else.")
    assert info.of_the_class == {"team": "shop"}
    assert {each.name: each.metadata for each in info.endpoints} == {
        "first": {"kind": "Rpc", "idempotent": "true", "description": "Do the first thing."},
        "numbers": {"kind": "Rpc", "stream": "true"},
        "fails": {"kind": "Rpc"},
    }
    assert ping == Ping(name=info.name, id=info.id, version=info.version, metadata=info.metadata)


@pytest.mark.slow
async def test_statistics_have_the_shape_of_nats(broker_config: dict[str, Any]) -> None:
    settings = resolve(broker_config)
    before = datetime.now(UTC)
    async with (
        open_transport(settings) as transport,
        ServiceContainer(Described, settings) as container,
        ClusterRpcProxy(settings) as cluster,
        asking(transport) as asker,
    ):
        await asker.ask(Question.STATS, WAIT, One.name)
        await cluster.tests_one.first()
        with pytest.raises(RemoteError):
            await cluster.tests_one.fails()
        (stats,) = await asker.ask(Question.STATS, WAIT, One.name)
        container.reset_counts()
        (later,) = await asker.ask(Question.STATS, WAIT, One.name)
    assert isinstance(stats, Stats)
    assert isinstance(later, Stats)
    assert before <= datetime.fromisoformat(stats.started) < datetime.fromisoformat(later.started)
    assert later.uptime < stats.uptime
    by_name = {each.name: each for each in stats.endpoints}
    first, fails = by_name["first"], by_name["fails"]
    assert (first.num_requests, first.num_errors, first.last_error) == (1, 0, "")
    assert first.processing_time == first.average_processing_time > 0
    assert sum(first.data.durations.values()) == 1
    assert (fails.num_requests, fails.num_errors, fails.last_error) == (1, 1, "ValueError: no")
    assert [each.num_requests for each in later.endpoints] == [0, 0, 0]
    assert set(json.loads(msgspec.json.encode(stats))) == {
        *("type", "name", "id", "version", "metadata", "started", "uptime", "endpoints"),
        "left_out",
    }


@pytest.mark.slow
async def test_a_question_may_be_for_one_service_or_one_instance(
    broker_config: dict[str, Any],
) -> None:
    settings = resolve(broker_config)
    async with (
        open_transport(settings) as transport,
        ServiceRunner(One, Two, config=settings),
        ServiceContainer(One, settings),
        asking(transport) as asker,
    ):
        both = ours(await asker.ask(Question.PING, WAIT, One.name))
        assert [each.name for each in both] == [One.name, One.name]
        bodies = await _asked(transport, f"PING.{One.name}.{both[0].id}")
        # Others may use the same broker, with an earlier aiorpc.
        ids = [json.loads(each).get("id") for each in bodies if One.name.encode() in each]
        assert ids == [both[0].id]
        bodies = await _asked(transport, f"DANCE.{One.name}")
        assert [each for each in bodies if One.name.encode() in each] == []


async def _asked(transport: Transport, routing_key: str) -> list[bytes]:
    """What arrives for a question that ``Asker`` would not ask."""
    queue = discovery_answers_queue()
    bodies: list[bytes] = []
    async with await transport.listen(queue, lambda message: bodies.append(message.body)):
        question = Message(body=b"", reply_to=queue.name)
        await transport.publish(
            Outgoing(exchange=DISCOVERY_EXCHANGE.name, routing_key=routing_key, message=question)
        )
        await asyncio.sleep(WAIT)  # there may be no answer
    return bodies


async def test_an_earlier_aiorpc_understands_the_answer_to_its_question(
    broker_config: dict[str, Any],
) -> None:
    settings = resolve(broker_config)
    async with open_transport(settings) as transport, ServiceContainer(One, settings):
        bodies = await _asked(transport, "")
    decoded = [msgspec.json.decode(each, type=Instance) for each in bodies]
    assert (
        Instance(
            One.name,
            socket.gethostname(),
            os.getpid(),
            (Fired("first", "Rpc", "rpc-tests_one"), Fired("second", "Rpc", "rpc-tests_one")),
        )
        in decoded
    )


async def test_an_instance_of_an_earlier_aiorpc_is_found(broker_config: dict[str, Any]) -> None:
    settings = resolve(broker_config)
    own = Instance(Two.name, "elsewhere", 7, (Fired("only", "Rpc", "rpc-two", "GET /"),))
    async with open_transport(settings) as transport:

        def answer(question: Delivery) -> None:
            question.ack()
            assert not question.message.body
            reply = Message(body=msgspec.json.encode(own))
            reply_to = question.message.reply_to or ""
            transport.send(Outgoing(exchange="", routing_key=reply_to, message=reply))

        async with await transport.subscribe(discovery_queue("other"), answer):
            (found,) = ours(await discover(transport, WAIT))
    assert found.process == "elsewhere:7"
    assert found.endpoints == [EndpointInfo("only", "rpc-two", {"kind": "Rpc", "route": "GET /"})]


async def test_nobody_is_found_on_a_broker_without_services_and_nothing_stays_there() -> None:
    async with open_transport(resolve("memory://empty-discovery")) as transport:
        assert await discover(transport, 0.01) == []
        with pytest.raises(ConfigurationError, match="there is no exchange"):
            await transport.declare([replace(DISCOVERY_EXCHANGE, passive=True)])


def test_an_answer_that_is_too_large_is_cut() -> None:
    endpoints = [EndpointInfo(f"method_{number}") for number in range(1000)]
    info = Info(name="one", id="1", endpoints=endpoints)
    body = encoded(info, 4096)
    assert len(body) <= 4096
    cut = msgspec.json.decode(body, type=Info)
    assert cut.left_out + len(cut.endpoints) == 1000
    assert len(cut.endpoints) > 50
    assert encoded(info, 1 << 20) == msgspec.json.encode(info)


# What the workers do


class Busy:
    name = "tests_one"
    go_on = asyncio.Event()
    thread_goes_on = threading.Event()
    streamed = False

    @rpc(sensitive_arguments=("password", "card.number"))
    async def awaits(self, user: str, password: str, card: dict[str, Any], note: Any) -> None:
        await self._inner()

    async def _inner(self) -> None:
        await self.go_on.wait()

    @rpc
    async def streams(self, api_key: str, many: list[int]) -> AsyncGenerator[int]:
        yield 1
        Busy.streamed = True
        await self.go_on.wait()

    @rpc
    def blocks(self) -> None:
        self.thread_goes_on.wait()

    @rpc(max_concurrency=1)
    async def queues(self) -> None:
        await self.go_on.wait()


async def test_stacks_show_what_each_worker_does(broker_config: dict[str, Any]) -> None:
    Busy.go_on, Busy.thread_goes_on, Busy.streamed = asyncio.Event(), threading.Event(), False
    settings = resolve({**broker_config, "DISCOVERY_STACKS": True})
    async with (
        open_transport(settings) as transport,
        ServiceContainer(Busy, settings) as container,
        ClusterRpcProxy(settings) as cluster,
        asking(transport) as asker,
    ):
        busy = cluster.tests_one
        card = {"number": "4111-1111", "name": "Ada"}
        replies = [
            busy.awaits.call_async("ada", "secret-word", card, note=["my secret-word"]),
            busy.blocks.call_async(),
            busy.queues.call_async(),
            busy.queues.call_async(),
        ]
        reading = asyncio.create_task(_read(busy.streams.stream("abc", list(range(50)))))
        await eventually(lambda: container.running == 4 and busy_streams(container))
        (stacks,) = await asker.ask(Question.STACKS, WAIT, One.name)
        Busy.go_on.set()
        Busy.thread_goes_on.set()
        for reply in replies:
            await reply
        await reading
    assert isinstance(stacks, Stacks)
    assert stacks.permitted
    waiting = stacks.calls[-1]
    assert (waiting.method, waiting.state, waiting.stack) == ("queues", "waiting", [])
    calls = {each.method: each for each in stacks.calls[:-1]}
    awaits = calls["awaits"]
    assert awaits.call_id.startswith("tests_one.awaits.")
    assert awaits.state == "running"
    assert awaits.seconds > 0
    assert awaits.arguments == {
        "user": "'ada'",
        "password": "***",
        "card": "***",
        "note": "['my ***']",
    }
    first, second, *_ = awaits.stack
    assert "test_discovery.py" in first
    assert "in Busy.awaits: await self._inner()" in first
    assert "in Busy._inner: await self.go_on.wait()" in second
    streams = calls["streams"]
    assert streams.arguments["api_key"] == "***"
    assert streams.arguments["many"] == "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (50)]"
    assert any("in Busy.streams: await self.go_on.wait()" in line for line in streams.stack)
    assert any("Busy.blocks: self.thread_goes_on.wait()" in line for line in calls["blocks"].stack)


def busy_streams(container: ServiceContainer) -> bool:
    """Whether the stream has sent its item, and a call waits."""
    waiting = {each.entrypoint.method_name: each.waiting for each in container.activity()}
    return waiting["queues"] == 1 and Busy.streamed


async def _read(items: AsyncIterator[int]) -> None:
    async for _ in items:
        pass


async def test_stacks_are_not_shown_without_permission(broker_config: dict[str, Any]) -> None:
    settings = resolve(broker_config)
    async with (
        open_transport(settings) as transport,
        ServiceContainer(One, settings),
        asking(transport) as asker,
    ):
        (stacks,) = await asker.ask(Question.STACKS, WAIT, One.name)
    assert isinstance(stacks, Stacks)
    assert (stacks.permitted, stacks.calls) == (False, [])


async def test_a_broker_with_an_alarm_is_not_a_broker_without_services(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RabbitMQ takes the question, and tells of its alarm only then."""
    async with open_transport(resolve("memory://alarmed"), name="tests") as transport:
        assert isinstance(transport, MemoryTransport)
        await transport.declare([DISCOVERY_EXCHANGE])
        publish = transport.publish

        async def published(outgoing: Outgoing, timeout: float | None = None) -> None:
            await publish(outgoing, timeout)
            transport.broker.set_blocked(True)

        monkeypatch.setattr(transport, "publish", published)
        with pytest.raises(ConnectionLost, match=r"no service can answer: .* alarm"):
            await discover(transport, WAIT)
        transport.broker.set_blocked(False)
