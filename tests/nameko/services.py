"""
Our services for the tests with Nameko. They have the shape of those in `peers/services.py`, so a
test can use either in either place.
"""

from __future__ import annotations

import asyncio
import datetime
import decimal
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiorpc import ClusterRpc, DependencyProvider, WorkerContext, deserialize_to_instance, rpc

SPECIAL: dict[str, Any] = {
    "datetime": datetime.datetime(2020, 1, 2, 3, 4, 5),
    "aware": datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
    "date": datetime.date(2020, 1, 2),
    "time": datetime.time(1, 2, 3),
    "decimal": decimal.Decimal("1.10"),
    "uuid": uuid.UUID(int=5),
    "bytes": b"abc",
    "badbytes": b"\xff",
    "nan": float("nan"),
    "tuple": (1, 2),
    "intkey": {1: 2},
    "text": "h\xe9\u2603\U0001f600",
    "surrogate": "\ud800",
    "none": None,
    "big": 2**70,
}


@deserialize_to_instance
class KnownError(Exception):
    """Registered on both sides, under its import path in the Nameko processes."""

    __module__ = "peer_errors"


class CustomError(Exception):
    """Not registered."""

    __module__ = "peer_errors"


class NoText(Exception):
    """Its ``str()`` fails."""

    __module__ = "peer_errors"

    def __str__(self) -> str:
        raise ValueError("no text")


ERRORS = {
    "value": lambda: ValueError("bad value"),
    "key": lambda: KeyError("missing"),
    "custom": lambda: CustomError("boom", 1, None, b"\x01"),
    "known": lambda: KnownError("known", 2),
    "no_text": lambda: NoText("x"),
    "no_args": lambda: ValueError(),
}


class CurrentWorker(DependencyProvider[WorkerContext]):
    """The worker's own context."""

    def value(self, worker_ctx: WorkerContext) -> WorkerContext:
        return worker_ctx


@dataclass
class Booking:
    """Comes as an object, and is converted to a dataclass."""

    day: datetime.date
    price: decimal.Decimal
    guest: uuid.UUID
    notes: list[str]


def service(name_: str) -> type:
    """Make a service class with this name."""

    class Service:
        name = name_
        worker = CurrentWorker()
        cluster = ClusterRpc()

        @rpc
        async def append_identifier(self, value: str) -> str:
            return f"{value}-y"

        @rpc
        async def echo(self, *args: Any, **kwargs: Any) -> Any:
            return [args, kwargs]

        @rpc
        async def describe(self, *args: Any) -> list[str]:
            return [repr(arg) for arg in args]

        @rpc
        async def annotated(
            self,
            moment: datetime.datetime,
            day: datetime.date,
            hour: datetime.time,
            price: decimal.Decimal,
            key: uuid.UUID,
        ) -> list[str]:
            return [repr(arg) for arg in (moment, day, hour, price, key)]

        @rpc
        async def book(self, booking: Booking) -> str:
            return repr(booking)

        @rpc
        async def special(self, kind: str) -> Any:
            return SPECIAL[kind]

        @rpc
        async def signature(self, a: Any, b: Any = 1, *, c: Any = 2) -> Any:
            return [a, b, c]

        @rpc(max_concurrency=1, max_waiting=0)
        async def one_at_a_time(self) -> str:
            await asyncio.sleep(0.5)  # the peer's second request arrives meanwhile
            return "done"

        @rpc
        async def double(self, number: int) -> int:
            return number * 2

        @rpc
        async def context(self) -> dict[str, Any]:
            """Return context data, and the call id stack under Nameko's key."""
            return {**self.worker.context_data, "call_id_stack": self.worker.call_id_stack}

        @rpc
        async def parents(self) -> Any:
            worker = self.worker
            return [worker.call_id, worker.immediate_parent_call_id, worker.origin_call_id]

        @rpc
        async def remaining(self) -> float | None:
            """Return the seconds until the deadline."""
            deadline = self.worker.call.context.deadline
            return None if deadline is None else deadline.remaining()

        @rpc
        async def fail(self, kind: str) -> None:
            raise ERRORS[kind]()

        @rpc
        async def unserializable(self) -> Any:
            return {1, 2}

        @rpc
        async def sleep(self, seconds: float) -> float:
            await asyncio.sleep(seconds)
            return seconds

        @rpc
        async def hop(
            self, service: str, method: str, args: Sequence[Any], kwargs: dict[str, Any]
        ) -> Any:
            """Call another service, and return its result or raise its error."""
            return await self.cluster[service][method](*args, **kwargs)

        @rpc
        async def hop_meets(self, service: str, method: str, args: Sequence[Any]) -> Any:
            """Call another service, and describe the error that it raises here."""
            try:
                await self.cluster[service][method](*args)
            except Exception as error:
                return [type(error).__name__, str(error)]

        async def undecorated(self) -> str:
            return "never called"

    return Service
