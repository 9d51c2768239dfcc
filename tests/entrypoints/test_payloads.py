"""The payload of an event or a message: what a handler gets, and what happens to one it cannot."""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from aiorpc import (
    ConfigurationError,
    Queue,
    ServiceContainer,
    consume,
    event_dispatcher,
    event_handler,
)


@dataclass
class Sold:
    title: str
    copies: int
    day: date | None = None


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
