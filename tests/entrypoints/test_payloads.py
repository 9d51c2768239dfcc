"""The payload of an event or a message: what a handler gets, and what happens to one it cannot."""

from __future__ import annotations

import asyncio
import gzip
import logging
import uuid
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from aiorpc import (
    Call,
    ConfigurationError,
    Handler,
    Queue,
    ServiceContainer,
    consume,
    event_dispatcher,
    event_handler,
)
from aiorpc.config import resolve
from aiorpc.entrypoints.requests import Server
from aiorpc.transports import open_transport
from aiorpc.transports.base import Delivery, Outgoing
from aiorpc.wire.message import Message


@dataclass
class Sold:
    title: str
    copies: int
    day: date | None = None


class Take(Delivery, eq=False):
    """A delivery that remembers how it was settled."""

    settled: str = ""

    def ack(self) -> None:
        self.settled = "acked"

    def reject(self, *, requeue: bool) -> None:
        self.settled = "requeued" if requeue else "rejected"


class Model:
    """A stand-in for a pydantic model."""

    def __init__(self, data: Any) -> None:
        self.data = data

    @classmethod
    def model_validate(cls, value: Any) -> Model:
        return cls(value)


@pytest.fixture
def seen() -> asyncio.Queue[Any]:
    return asyncio.Queue()


@pytest.fixture
def source() -> str:
    return f"shop_{uuid.uuid4().hex[:8]}"


async def test_an_event_is_converted_by_the_annotation_of_its_handler(
    broker_config: dict[str, Any], source: str
) -> None:
    seen: dict[str, asyncio.Queue[Any]] = {name: asyncio.Queue() for name in ("c", "m", "s", "r")}

    class Statistics:
        name = f"statistics_{source}"

        @event_handler(source, "sold", reliable_delivery=False)
        async def class_(self, payload: Sold) -> None:
            seen["c"].put_nowait(payload)

        @event_handler(source, "sold", reliable_delivery=False)
        async def model(self, payload: Model) -> None:
            seen["m"].put_nowait(payload.data)

        @staticmethod
        @event_handler(source, "sold", reliable_delivery=False)
        def static(payload: Sold) -> None:
            loop.call_soon_threadsafe(seen["s"].put_nowait, payload)

        @event_handler(source, "sold", reliable_delivery=False, validate=False)
        async def raw(self, payload: Sold) -> None:
            seen["r"].put_nowait(payload)

    loop = asyncio.get_running_loop()
    data = {"title": "Emma", "copies": 2, "day": "2020-01-02"}
    async with (
        ServiceContainer(Statistics, broker_config),
        event_dispatcher(broker_config) as dispatch,
    ):
        await dispatch(source, "sold", data)
        got = {name: await asyncio.wait_for(queue.get(), 5) for name, queue in seen.items()}
    sold = Sold("Emma", 2, date(2020, 1, 2))
    assert got == {"c": sold, "m": data, "s": sold, "r": data}


async def test_a_payload_that_does_not_fit_is_not_run_and_the_log_names_the_field(
    broker_config: dict[str, Any],
    source: str,
    seen: asyncio.Queue[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Statistics:
        name = f"statistics_{source}"

        @event_handler(source, "sold", reliable_delivery=False)
        async def count(self, payload: Sold) -> None:
            seen.put_nowait(payload)

    with caplog.at_level(logging.ERROR):
        async with (
            ServiceContainer(Statistics, broker_config),
            event_dispatcher(broker_config) as dispatch,
        ):
            await dispatch(source, "sold", {"title": "Emma", "copies": "a secret"})
            await dispatch(source, "sold", {"title": "Emma", "copies": 3})
            assert await asyncio.wait_for(seen.get(), 5) == Sold("Emma", 3)
    (line,) = caplog.messages
    assert f"{Statistics.name}.count: event sold of queue" in line
    assert "argument 'payload' must be Sold: copies must be int, got str" in line
    assert "secret" not in line


async def test_a_handler_that_cannot_take_a_payload_fails_at_the_start(
    broker_config: dict[str, Any], source: str
) -> None:
    class Two:
        name = f"two_{source}"

        @event_handler(source, "sold", reliable_delivery=False)
        async def count(self, title: str, copies: int) -> None: ...

    class Nothing:
        name = f"nothing_{source}"

        @consume(Queue(f"q-{source}", exclusive=True, durable=False))
        async def take(self) -> None: ...

    for service, said in (
        (Two, r"\.count cannot take the payload of its events: .*'copies'"),
        (Nothing, r"\.take cannot take the payload of its messages: .*2 were given"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            async with ServiceContainer(service, broker_config):
                pass


BODY = b'{"title": "Emma", "copies": 1}'
JSON = "application/json"


async def test_what_cannot_be_decoded_is_rejected_to_the_dead_letters(
    broker_config: dict[str, Any], source: str, seen: asyncio.Queue[Any]
) -> None:
    dead: asyncio.Queue[str | None] = asyncio.Queue()
    queue = Queue(
        f"partner-{source}",
        durable=False,
        auto_delete=True,
        arguments={
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": f"dead-{source}",
        },
    )

    class Partner:
        name = f"partner_{source}"

        @consume(queue)
        async def take(self, payload: Sold) -> None:
            seen.put_nowait(payload)

    unreadable = {
        "text": Message(body=BODY, content_type="text/plain"),
        "octets": Message(body=BODY, content_type="application/octet-stream"),
        "gzip": Message(body=gzip.compress(BODY), content_type=JSON, content_encoding="gzip"),
        "misfit": Message(body=b'{"title": "Emma"}', content_type=JSON),
        "broken": Message(body=b"{", content_type=JSON),
    }
    readable = Message(body=BODY, content_type="application/vnd.partner.v1+json")
    async with (
        open_transport(resolve(broker_config), name="a test") as transport,
        await transport.listen(
            Queue(f"dead-{source}", exclusive=True, durable=False),
            lambda message: dead.put_nowait(message.message_id),
        ),
        ServiceContainer(Partner, broker_config),
    ):
        for name, message in {**unreadable, "readable": readable}.items():
            message.message_id = name
            await transport.publish(Outgoing(exchange="", routing_key=queue.name, message=message))
        got = [await asyncio.wait_for(dead.get(), 5) for _ in unreadable]
        assert await asyncio.wait_for(seen.get(), 5) == Sold("Emma", 1)
        assert got == list(unreadable)
        assert seen.empty()
        assert dead.empty()


@pytest.mark.parametrize("reply_to", [None, ""])
async def test_a_refused_request_without_a_reply_to_is_rejected(reply_to: str | None) -> None:
    class Nothing:
        name = "nothing"

    async with ServiceContainer(Nothing, "memory://") as container:
        server = Server(container, {})
        message = Message(body=BODY, content_type="text/plain", reply_to=reply_to)
        delivery = Take(message, "nameko-rpc", "nothing.method", False)
        server.received(delivery)
    assert delivery.settled == "rejected"


async def test_what_the_broker_wrote_on_a_dead_letter_is_no_context_data(
    broker_config: dict[str, Any], source: str
) -> None:
    contexts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    arguments = {
        "x-message-ttl": 1,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": f"dead-{source}",
    }
    queue = Queue(f"partner-{source}", exclusive=True, durable=False, arguments=arguments)

    class Partner:
        name = f"partner_{source}"

        @consume(Queue(f"dead-{source}", auto_delete=True))
        async def take(self, payload: str) -> None: ...

    async def record(call: Call, handler: Handler) -> Any:
        contexts.put_nowait(dict(call.context.data))

    async with (
        open_transport(resolve(broker_config), name="a test") as transport,
        ServiceContainer(Partner, broker_config, middleware=[record]),
    ):
        await transport.declare(queues=[queue])
        message = Message(body=b'"dead"', headers={"mine": 1})
        await transport.publish(Outgoing(exchange="", routing_key=queue.name, message=message))
        assert await asyncio.wait_for(contexts.get(), 5) == {"mine": 1}
