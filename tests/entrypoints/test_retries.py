"""Messages whose method failed run again, by ``Retry``, and are parked: over every transport."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from time import monotonic, time
from typing import Any

import pytest

from aiorpc import (
    ConfigurationError,
    Exchange,
    Queue,
    Retry,
    ServiceContainer,
    consume,
    event_dispatcher,
    event_handler,
)
from aiorpc.config import resolve
from aiorpc.entrypoints.consumer import Requeues
from aiorpc.parked.messages import Selection
from aiorpc.parked.settling import Replay
from aiorpc.transports import open_transport
from aiorpc.transports.base import Delivery, Outgoing, Transport
from aiorpc.wire.message import Message
from tests.support.transports import Inbox
from tests.support.waiting import eventually


class Stage:
    """A broker, a name for a service, and the queues to delete at the end."""

    def __init__(self, config: dict[str, Any], onlooker: Transport) -> None:
        self.config = config
        self.onlooker = onlooker
        self.name = f"retried_{uuid.uuid4().hex[:8]}"
        self.runs: list[Any] = []
        self.succeeded = asyncio.Event()
        self.queues: list[str] = [self.queue, self.parked]

    @property
    def queue(self) -> str:
        return f"evt-{self.name}-happened--{self.name}.handle"

    @property
    def parked(self) -> str:
        return f"{self.queue}.parked"

    def service(self, retry: Retry | None, fails: int = 1 << 30, **options: Any) -> Any:
        class Service:
            name = self.name

            @event_handler(self.name, "happened", retry=retry, **options)
            async def handle(service, payload: int) -> None:
                self.runs.append(payload)
                if self.runs.count(payload) <= fails:
                    raise ValueError(f"no luck with {payload}")
                self.succeeded.set()

        for delay in retry.delays if retry else ():
            self.queues.append(f"{self.queue}.retry-{delay}ms")
        return Service

    async def dispatch(self, *payloads: object) -> None:
        async with event_dispatcher(self.config) as dispatch:
            for payload in payloads:
                await dispatch(self.name, "happened", payload)

    async def taken(self, queue: str) -> Delivery:
        inbox = Inbox()
        async with await self.onlooker.subscribe(Queue(queue), inbox):
            return await inbox.next()


@pytest.fixture
async def stage(broker_config: dict[str, Any]) -> AsyncIterator[Stage]:
    config = {**broker_config, "DISCOVERY": False, "SHUTDOWN_TIMEOUT": 5}
    async with open_transport(resolve(config), name="a test") as onlooker:
        stage = Stage(config, onlooker)
        yield stage
        for queue in stage.queues:
            await onlooker.delete(queue)


async def test_an_event_is_retried_at_once_then_after_each_delay_then_parked(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    began = monotonic()
    async with ServiceContainer(stage.service(Retry(immediate=1, delays=(0.1, 0.2))), stage.config):
        await stage.dispatch(7)
        parked = await stage.taken(stage.parked)
    assert stage.runs == [7, 7, 7, 7]
    assert monotonic() - began >= 0.3
    headers = parked.message.headers or {}
    assert parked.message.body == b"7"
    assert headers["x-exception-message"] == "ValueError: no luck with 7"
    assert "no luck with 7" in headers["x-exception-stacktrace"]
    assert "in handle" in headers["x-exception-stacktrace"]
    assert headers["x-original-exchange"] == f"{stage.name}.events"
    assert headers["x-original-routingKey"] == "happened"
    assert headers["aiorpc-queue"] == stage.queue
    assert headers["aiorpc-method"] == f"{stage.name}.handle"
    assert abs(headers["aiorpc-parked-at"].timestamp() - time()) < 10
    assert not {"aiorpc-retries", "aiorpc-resent", "aiorpc-exchange"} & headers.keys()
    assert headers["x-death"][0]["reason"] == "expired"
    (line,) = [each for each in caplog.messages if "parked in queue" in each]
    assert line == (
        f"{stage.name}.handle: event happened failed 4 times and is parked in queue "
        f"{stage.parked}: ValueError: no luck with 7"
    )


@pytest.mark.parametrize("by_hand", [False, True])
async def test_a_parked_event_that_is_moved_back_begins_its_retries_again(
    stage: Stage, by_hand: bool
) -> None:
    async with ServiceContainer(stage.service(Retry(delays=(0.05,)), fails=3), stage.config):
        await stage.dispatch(7)
        if by_hand:
            message = (await stage.taken(stage.parked)).message
            outgoing = Outgoing(exchange="", routing_key=stage.queue, message=message)
            await stage.onlooker.publish(outgoing, 5)
        else:
            await eventually_waiting(stage, stage.parked, 1)
            settled = await Replay(stage.onlooker, stage.parked, Selection()).run()
            assert settled.done == 1
        await asyncio.wait_for(stage.succeeded.wait(), 5)
    assert stage.runs == [7, 7, 7, 7]


async def test_a_parked_event_names_its_sensitive_parts(stage: Stage) -> None:
    service = stage.service(Retry(), sensitive_arguments=("payload.card", "payload.items[0]"))
    async with ServiceContainer(service, stage.config):
        await stage.dispatch({"card": "4000", "items": [1]})
        parked = await stage.taken(stage.parked)
    headers = parked.message.headers or {}
    assert headers["aiorpc-sensitive"] == [["card"], ["items", "0"]]


async def test_a_retry_that_succeeds_is_the_last(stage: Stage) -> None:
    service = stage.service(Retry(delays=(0.05, 0.05, 0.05)), fails=2)
    async with ServiceContainer(service, stage.config):
        await stage.dispatch(1)
        await asyncio.wait_for(stage.succeeded.wait(), 5)
    assert stage.runs == [1, 1, 1]
    state = await stage.onlooker.inspect(stage.queue, 5)
    assert state is not None
    assert state.messages == 0


@pytest.mark.slow
async def test_a_waiting_event_holds_no_worker_and_outlives_the_service(stage: Stage) -> None:
    stage.config["max_workers"] = 1
    async with ServiceContainer(stage.service(Retry(delays=(1,)), fails=1), stage.config):
        await stage.dispatch(1, 2)
        await eventually(lambda: stage.runs == [1, 2])
        await eventually_waiting(stage, f"{stage.queue}.retry-1000ms", 2)
    stage.service(None)
    async with ServiceContainer(stage.service(Retry(delays=(1,)), fails=1), stage.config):
        await eventually(lambda: stage.runs == [1, 2, 1, 2])


async def eventually_waiting(stage: Stage, queue: str, messages: int) -> None:
    async def check() -> bool:
        state = await stage.onlooker.inspect(queue, 1)
        return state is not None and state.messages == messages

    await eventually(check)


async def test_other_handlers_of_an_event_do_not_hear_its_retries(stage: Stage) -> None:
    heard: list[int] = []

    class Other:
        name = f"{stage.name}_other"

        @event_handler(stage.name, "happened")
        async def handle(self, payload: int) -> None:
            heard.append(payload)

    stage.queues.append(f"evt-{stage.name}-happened--{stage.name}_other.handle")
    service = stage.service(Retry(immediate=1, delays=(0.05,)), fails=2)
    async with ServiceContainer(service, stage.config), ServiceContainer(Other, stage.config):
        await stage.dispatch(1)
        await asyncio.wait_for(stage.succeeded.wait(), 5)
        await stage.dispatch(2)
        await eventually(lambda: 2 in heard)
    assert heard == [1, 2]


async def test_an_expected_error_is_not_retried(stage: Stage) -> None:
    service = stage.service(Retry(immediate=3), expected_exceptions=ValueError)
    async with ServiceContainer(service, stage.config):
        await stage.dispatch(1, 2)
        await eventually(lambda: stage.runs == [1, 2])
    stage.queues += [f"{stage.queue}.retry-{each}ms" for each in (1000, 10000, 60000)]
    state = await stage.onlooker.inspect(stage.queue, 5)
    assert state is not None
    assert state.messages == 0


async def test_a_service_that_stops_parks_what_failed_for_good(stage: Stage) -> None:
    held = asyncio.Event()

    class Service:
        name = stage.name

        @event_handler(stage.name, "happened", retry=Retry(delays=()))
        async def handle(self, payload: int) -> None:
            stage.runs.append(payload)
            await held.wait()
            raise ValueError(f"no luck with {payload}")

    container = ServiceContainer(Service, stage.config)
    await container.start()
    await stage.dispatch(1, 2, 3)
    await eventually(lambda: len(stage.runs) == 3)
    stopping = asyncio.ensure_future(container.stop())
    await eventually(lambda: not container._pool.accepting)
    held.set()
    await stopping
    async with ServiceContainer(Service, stage.config):
        await stage.dispatch(4)
        await eventually(lambda: 4 in stage.runs)
    assert sorted(stage.runs) == [1, 2, 3, 4]
    inbox = Inbox()
    async with await stage.onlooker.subscribe(Queue(stage.parked), inbox):
        parked = [(await inbox.next()).message.body for _ in range(4)]
    assert sorted(parked) == [b"1", b"2", b"3", b"4"]


async def test_an_event_that_cannot_be_read_is_parked_at_once(stage: Stage) -> None:
    async with ServiceContainer(stage.service(Retry(immediate=3, delays=())), stage.config):
        await stage.dispatch("not a number")
        parked = await stage.taken(stage.parked)
    assert stage.runs == []
    reason = (parked.message.headers or {})["x-exception-message"]
    assert reason.startswith("it cannot be read: BadArguments: ")


async def test_a_deleted_delay_queue_is_declared_again(stage: Stage) -> None:
    service = stage.service(Retry(delays=(0.05,)), fails=1)
    async with ServiceContainer(service, stage.config):
        await stage.onlooker.delete(f"{stage.queue}.retry-50ms")
        await stage.dispatch(1)
        await asyncio.wait_for(stage.succeeded.wait(), 5)
    assert stage.runs == [1, 1]


async def test_sensitive_arguments_do_not_show_in_a_parked_message(stage: Stage) -> None:
    service = stage.service(Retry(delays=()), sensitive_arguments="payload")
    async with ServiceContainer(service, stage.config):
        await stage.dispatch(987654)
        parked = await stage.taken(stage.parked)
    headers = parked.message.headers or {}
    assert "987654" not in headers["x-exception-message"] + headers["x-exception-stacktrace"]
    assert "no luck with" in headers["x-exception-message"]


@pytest.mark.parametrize(
    "broker_config", [pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], indirect=True
)  # memory:// has no frames
async def test_a_large_stack_beside_large_headers_is_left_out(stage: Stage) -> None:
    exchange = Exchange(f"{stage.name}.events", "topic")
    message = Message(body=b"1", headers={"nameko.large": "x" * 130_700})
    async with ServiceContainer(stage.service(Retry(delays=())), stage.config):
        await stage.onlooker.publish(
            Outgoing(exchange=exchange.name, routing_key="happened", message=message), 5
        )
        parked = await stage.taken(stage.parked)
    headers = parked.message.headers or {}
    assert len(headers["nameko.large"]) == 130_700
    assert "x-exception-stacktrace" not in headers


# Queues of any kind


def consumer(stage: Stage, retry: Retry | None, **options: Any) -> Any:
    dead = Exchange(f"{stage.name}.dead", "fanout", auto_delete=True)
    source = Queue(f"{stage.name}.source", arguments={"x-dead-letter-exchange": dead.name})
    letters = Queue(f"{stage.name}.letters", dead)
    stage.queues += [source.name, letters.name, f"{source.name}.parked"]

    class Consuming:
        name = stage.name

        @consume(source, retry=retry, **options)
        async def take(self, payload: int) -> None:
            stage.runs.append(payload)
            raise ValueError("no luck")

    return Consuming, source, letters


@pytest.mark.parametrize("retry", [None, Retry(immediate=1, delays=())])
@pytest.mark.parametrize("body", [b"1", b"{"])
async def test_a_message_that_fails_for_good_goes_to_the_dead_letter_exchange(
    stage: Stage, retry: Retry | None, body: bytes
) -> None:
    service, source, letters = consumer(stage, retry, dead_letter=True)
    await stage.onlooker.declare(queues=[letters])
    async with ServiceContainer(service, stage.config):
        message = Message(body=body)
        await stage.onlooker.publish(
            Outgoing(exchange="", routing_key=source.name, message=message, mandatory=True), 5
        )
        dead = await stage.taken(letters.name)
    assert dead.message.body == body
    assert (dead.message.headers or {})["x-death"][0]["reason"] == "rejected"
    assert stage.runs == ([] if body == b"{" else [1] if retry is None else [1, 1])


@pytest.mark.parametrize("declared_by", ["the service", "an operator"])
async def test_a_delay_queue_has_the_type_of_its_target(stage: Stage, declared_by: str) -> None:
    quorum = Queue(f"{stage.name}.quorum", arguments={"x-queue-type": "quorum"})
    source = quorum if declared_by == "the service" else Queue(quorum.name)
    stage.queues += [source.name, f"{source.name}.parked", f"{source.name}.retry-100ms"]

    class Consuming:
        name = stage.name

        @consume(source, retry=Retry(delays=(0.1,)))
        async def take(self, payload: int) -> None:
            stage.runs.append(payload)
            raise ValueError("no luck")

    delay = Queue(
        f"{source.name}.retry-100ms",
        arguments={
            "x-message-ttl": 100,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": source.name,
            "x-queue-type": "quorum",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
    await stage.onlooker.declare(queues=[quorum])
    async with ServiceContainer(Consuming, stage.config):
        await stage.onlooker.declare(queues=[delay])  # refused if it exists with other arguments
        await stage.onlooker.publish(
            Outgoing(exchange="", routing_key=source.name, message=Message(body=b"3")), 5
        )
        assert (await stage.taken(f"{source.name}.parked")).message.body == b"3"
    assert stage.runs == [3, 3]


# requeue_on_error


class Failed:
    """A delivery that was delivered before."""

    redelivered = True

    def __init__(self, said: list[float]) -> None:
        self.said = said

    def reject(self, *, requeue: bool) -> None:
        assert requeue
        self.said.append(asyncio.get_running_loop().time())


async def test_requeue_on_error_waits_longer_after_each_failure_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requeues, said = Requeues(), list[float]()
    due: list[float] = []
    real = asyncio.get_running_loop().call_later

    def call_later(delay: float, *rest: Any) -> asyncio.TimerHandle:
        due.append(delay)
        return real(60, *rest)

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)
    for _ in range(10):
        requeues.add(Failed(said))
    requeues.reset()
    requeues.add(Failed(said))
    monkeypatch.undo()
    assert due == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0, 0.1]
    assert said == []
    requeues.stop()
    assert len(said) == 11
    requeues.add(Failed(said))
    assert len(said) == 12


@pytest.mark.slow
async def test_requeue_on_error_does_not_turn_without_a_pause(stage: Stage) -> None:
    async with ServiceContainer(stage.service(None, requeue_on_error=True), stage.config):
        await stage.dispatch(1)
        await eventually(lambda: len(stage.runs) == 3)
        began = monotonic()
        await eventually(lambda: len(stage.runs) == 5)
        assert monotonic() - began >= 0.4
    state = await stage.onlooker.inspect(stage.queue, 5)
    assert state is not None
    assert state.messages == 1


# What a decorator takes


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"immediate": -1}, "number of attempts"),
        ({"immediate": True}, "number of attempts"),
        ({"immediate": 1.5}, "number of attempts"),
        ({"delays": 5}, "delays of Retry are seconds"),
        ({"delays": "5"}, "delays of Retry are seconds"),
        ({"delays": (0,)}, "from 0.001 to"),
        ({"delays": (float("nan"),)}, "from 0.001 to"),
        ({"delays": (float("inf"),)}, "from 0.001 to"),
        ({"delays": (True,)}, "from 0.001 to"),
        ({"delays": ("1",)}, "from 0.001 to"),
    ],
)
def test_a_wrong_retry_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Retry(**given)


def test_retry_and_requeue_on_error_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="exclude each other"):
        event_handler("a", "b", retry=Retry(), requeue_on_error=True)
    with pytest.raises(ConfigurationError, match=r"retry must be an aiorpc\.Retry, got int"):
        consume(Queue("a"), retry=3)
