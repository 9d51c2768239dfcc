"""How a message is parked while the broker cannot make its parked queue."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from aiorpc import Overloaded, Unroutable
from aiorpc.config import resolve
from aiorpc.entrypoints import parking
from aiorpc.transports.base import QueueState
from aiorpc.wire.message import Message, Queue
from aiorpc.wire.parked import Parking
from tests.support.waiting import PATIENCE


class Refusing:
    """A transport whose broker refuses some messages: a quorum queue without a leader does."""

    url = "amqp://broker"

    def __init__(self, refusals: int, waiting: int) -> None:
        self.refusals = refusals
        self.waiting = waiting

    async def inspect(self, queue: str, timeout: float) -> QueueState:
        return QueueState(queue, exists=True, messages=self.waiting)

    async def publish(self, outgoing: Any, timeout: float) -> None:
        if self.refusals:
            self.refusals -= 1
            raise Overloaded("no leader")


class Unanswering:
    """A transport whose broker has no parked queue, and does not answer its declaration."""

    url = "amqp://broker"

    async def publish(self, outgoing: Any, timeout: float) -> None:
        raise Unroutable("no queue")

    async def type_of(self, queue: object) -> str:
        return "classic"

    async def declare(self, **declared: Any) -> None:
        await asyncio.Event().wait()

    def condition(self) -> str:
        return "it did not answer"


@pytest.mark.parametrize(
    ("refusals", "waiting", "is_parked"),
    [(2, 7, True), (3, 7, False), (5, 0, True), (6, 0, False)],
)
async def test_a_message_that_its_parked_queue_refuses_is_sent_again_before_it_is_rejected(
    refusals: int, waiting: int, is_parked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue with waiting messages is full. An empty one waits for its leader."""
    monkeypatch.setattr(parking, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(parking, "ELECTION", (0.0, 0.0, 0.0))
    transport = Refusing(refusals, waiting)
    host: Any = SimpleNamespace(
        service_name="shop", settings=resolve("memory://"), transport=transport
    )
    rejected: list[bool] = []
    delivery: Any = SimpleNamespace(
        message=Message(body=b"1"),
        exchange="",
        routing_key="source",
        reject=lambda requeue: rejected.append(requeue),
    )
    parked = await parking.park(host, Queue("source"), delivery, "it failed", Parking())
    assert (parked, rejected) == (is_parked, [] if is_parked else [False])
    assert transport.refusals == 0


async def test_a_message_is_requeued_if_its_parked_queue_cannot_be_declared_in_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parking, "PARKING", 0.01)
    host: Any = SimpleNamespace(
        service_name="shop", settings=resolve("memory://"), transport=Unanswering()
    )
    requeued: list[bool] = []
    delivery: Any = SimpleNamespace(
        message=Message(body=b"1"),
        exchange="",
        routing_key="source",
        requeue=lambda: requeued.append(True),
    )
    async with asyncio.timeout(PATIENCE):
        assert not await parking.park(host, Queue("source"), delivery, "it failed", Parking())
    assert requeued == [True]
    (line,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert line.getMessage() == (
        "a message of queue source is requeued, not parked: queue source.parked could not be "
        "declared on amqp://broker within 0.01 s: it did not answer"
    )
