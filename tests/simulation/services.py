"""
The services of the simulated world. Their methods do what the script in their arguments says, and
report it to the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from aiorpc import (
    BROADCAST,
    DependencyProvider,
    EventDispatcher,
    Retry,
    RpcProxy,
    WorkerContext,
    cron,
    event_handler,
    rpc,
    timer,
)
from aiorpc.context import current

from .ledger import Ledger, Run, Transaction
from .loop import PROCESS

__all__ = [
    "HANDLERS",
    "SERVICES",
    "Refused",
    "Shop",
    "Store",
    "begun",
    "ledger_of_run",
    "nested",
    "the_ledger",
]

#: The handlers that get each event at least once, and their queues.
HANDLERS = {
    "count": "evt-shop-sold--store.count",
    "retry": "evt-shop-sold--store.retry",
    "later": "evt-shop-sold--store.later",
    "single": "evt-shop-sold",
}
_ledgers: list[Ledger] = []


class ledger_of_run:
    """Inside the block, services report to *ledger*."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __enter__(self) -> None:
        _ledgers.append(self._ledger)

    def __exit__(self, *exc_info: object) -> None:
        _ledgers.pop()


class Refused(Exception):
    """The error that a script asks for."""


class Session(DependencyProvider[tuple[Transaction, bool]]):
    """A dependency that takes time to open and to close, like a session of a database."""

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncGenerator[tuple[Transaction, bool]]:
        ledger = _ledgers[-1]
        transaction = ledger.opened(PROCESS.get())
        try:
            await asyncio.sleep(0.0005)
            yield transaction, worker_ctx.call.redelivered
            await asyncio.sleep(0.001)
        except BaseException:
            try:
                await asyncio.sleep(0.0005)
            finally:  # cancelled again after CLEANUP_TIMEOUT
                transaction.state = "rolled back"
            raise
        else:
            transaction.state = "committed"


def the_ledger() -> Ledger:
    """Return the ledger of this run."""
    return _ledgers[-1]


def begun(number: int, transaction: Transaction, again: bool) -> Run:
    """Report that a method begins for the call *number*, which perhaps was delivered *again*."""
    deadline = current.get().deadline
    until = None if deadline is None else deadline.at
    return _ledgers[-1].began(number, PROCESS.get(), transaction, again, until)


async def _play(service: Any, number: int, script: dict[str, Any]) -> Any:
    """Run *script* for the call *number*."""
    ledger, run = _ledgers[-1], begun(number, *service.session)
    if len(ledger.calls[number].runs) <= script.get("kills", 0):
        ledger.kill(PROCESS.get())
        await asyncio.sleep(60)
    try:
        await asyncio.sleep(script.get("sleep", 0.0))
        for child in script.get("children", ()):
            await nested(service, child)
        if script.get("event"):
            await _dispatch(service, ledger)
        if script.get("fail"):
            raise Refused(str(number))
    except asyncio.CancelledError:
        if script.get("stubborn"):
            await asyncio.sleep(script["stubborn"])
        run.end("cancelled", ledger.now())
        raise
    except BaseException:
        run.end("raised", ledger.now())
        raise
    if script.get("unserializable"):
        run.end("raised", ledger.now())
        return object()
    run.end("returned", ledger.now())
    ledger.tell(PROCESS.get(), f"run {run.id} returns")
    return {"number": number, "run": run.id}


async def _yield(service: Any, number: int, script: dict[str, Any]) -> AsyncGenerator[Any]:
    """Yield the items of *script* for the call *number*."""
    ledger, run = _ledgers[-1], begun(number, *service.session)
    try:
        for item in range(script["items"]):
            if item == script.get("pause_at"):
                await asyncio.sleep(script["pause"])
            if script["every"]:
                await asyncio.sleep(script["every"])
            ledger.yields(run, number, item)
            yield {"number": number, "run": run.id, "item": item}
        if script.get("fail"):
            raise Refused(str(number))
    except (asyncio.CancelledError, GeneratorExit):
        run.end("cancelled", ledger.now())
        raise
    except BaseException:
        run.end("raised", ledger.now())
        raise
    run.end("returned", ledger.now())
    ledger.tell(PROCESS.get(), f"run {run.id} returns")


async def nested(service: Any, child: dict[str, Any]) -> None:
    """Call the store for *service*, as *child* says."""
    ledger, deadline = _ledgers[-1], current.get().deadline
    call = ledger.called(
        PROCESS.get(),
        "store",
        child["method"],
        child["script"],
        child["timeout"],
        {},
        None if deadline is None else deadline.at,
    )
    options = {"timeout": child["timeout"]}
    if "call" in current.get().data:
        options["context_data"] = {"call": call.number}
    method = service.store[child["method"]].with_options(**options)
    try:
        value = await method(call.number, child["script"])
    except asyncio.CancelledError:
        ledger.cancelled(call)
        raise
    except Exception as error:
        ledger.failed(call, error)
        raise
    ledger.answered(call, value)


async def _dispatch(service: Any, ledger: Ledger) -> None:
    event = ledger.dispatching()
    ledger.tell(PROCESS.get(), f"dispatches event {event.number}")
    try:
        await service.dispatch("sold", {"number": event.number})
    except BaseException:
        event.cancelled = True
        raise
    event.confirmed = ledger.now()


class Shop:
    name = "shop"

    session = Session()
    store = RpcProxy("store")
    dispatch = EventDispatcher()

    @rpc(expected_exceptions=Exception)
    async def work(self, number: int, script: dict[str, Any]) -> Any:
        return await _play(self, number, script)

    @rpc(delivery="at_most_once", expected_exceptions=Exception)
    async def once(self, number: int, script: dict[str, Any]) -> Any:
        return await _play(self, number, script)

    @rpc(expected_exceptions=Exception)
    async def listed(self, number: int, script: dict[str, Any]) -> AsyncGenerator[Any]:
        async with aclosing(_yield(self, number, script)) as items:
            async for item in items:
                yield item

    @rpc
    async def typed(self, number: int) -> int:
        return number

    @timer(interval=3.0)
    async def tick(self) -> None:
        _ledgers[-1].tell(PROCESS.get(), "ticks")
        await asyncio.sleep(0.01)

    @timer(interval=4.0, singleton=True)
    async def single_tick(self) -> None:
        _ledgers[-1].book.runs_tick(PROCESS.get())
        await asyncio.sleep(0.01)


class Store:
    name = "store"

    session = Session()

    @rpc(expected_exceptions=Exception)
    async def work(self, number: int, script: dict[str, Any]) -> Any:
        return await _play(self, number, script)

    @rpc(delivery="at_most_once", expected_exceptions=Exception)
    async def once(self, number: int, script: dict[str, Any]) -> Any:
        return await _play(self, number, script)

    @cron("*/5 * * * * *", singleton=True)
    async def single_tick(self) -> None:
        _ledgers[-1].book.runs_tick(PROCESS.get())

    @event_handler("shop", "sold")
    async def count(self, payload: dict[str, Any]) -> None:
        run = self._handling(payload, "count")
        await self._finish(run, 0.8 if payload["number"] % 4 == 1 else 0.02)

    @event_handler("shop", "sold", requeue_on_error=True)
    async def retry(self, payload: dict[str, Any]) -> None:
        run = self._handling(payload, "retry")
        number = payload["number"]
        if number % 3 == 0 and len(_ledgers[-1].events[number].runs["retry"]) < 2:
            run.end("failed", _ledgers[-1].now())
            raise Refused(str(number))
        await self._finish(run, 0.005)

    @event_handler("shop", "sold", retry=Retry(immediate=1, delays=(0.5, 1.0)))
    async def later(self, payload: dict[str, Any]) -> None:
        run = self._handling(payload, "later")
        number = payload["number"]
        if number % 4 == 0 and len(_ledgers[-1].events[number].runs["later"]) < 3:
            run.end("failed", _ledgers[-1].now())
            raise Refused(str(number))
        await self._finish(run, 0.005)

    @event_handler("shop", "sold", handler_type="singleton")
    async def single(self, payload: dict[str, Any]) -> None:
        run = self._handling(payload, "single")
        await self._finish(run, 0.3 if payload["number"] % 5 == 0 else 0.001)

    @event_handler("shop", "sold", handler_type=BROADCAST, reliable_delivery=False)
    async def everywhere(self, payload: dict[str, Any]) -> None:
        await self._finish(self._handling(payload, "everywhere"), 0.0)

    def _handling(self, payload: dict[str, Any], handler: str) -> Run:
        transaction, redelivered = self.session
        process = PROCESS.get()
        return _ledgers[-1].handling(payload["number"], handler, process, transaction, redelivered)

    async def _finish(self, run: Run, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            run.end("cancelled", _ledgers[-1].now())
            raise
        run.end("returned", _ledgers[-1].now())


SERVICES: dict[str, type] = {"shop": Shop, "store": Store}
