"""
What each guarantee costs: CPU and latency of a call by setting, for the table of
``docs/guarantees.md``.

    python benchmarks/guarantees.py                    7 rounds of 300 calls, some 4 minutes
    python benchmarks/guarantees.py --no-cluster       without the three nodes
    python benchmarks/guarantees.py --rounds 3 --calls 100
    python benchmarks/guarantees.py --write            and write the table into docs/guarantees.md

Each setting has a service of its own. Callers and services run in this process, so CPU is that of
both together, and the broker and the database do not count. The settings take turns in each round,
and every second round runs in reverse order. CPU is measured with 20 calls at a time; for latency,
one call at a time follows the other. The output is Markdown: medians of the rounds, and of all
calls of all rounds.

A call "with an event" writes a row and sends an event, whose handler writes a row too; it ends when
its handler has ended. So the row "an event, sent directly" is what "outbox and inbox" is compared
with. Rows with a database commit once for each call and once for each handler.

Needs RabbitMQ, PostgreSQL and MariaDB: those of the environment (``AIORPC_TEST_...``), or of ``make
servers``. A missing database leaves its rows out. The cluster is private: three nodes of the
installed RabbitMQ. The tables and the queues are
deleted at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import secrets
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

sys.path.insert(0, str(Path(__file__).parents[1]))

from contest import describe_machine

from aiorpc import (
    ClusterRpcProxy,
    EventDispatcher,
    ServiceContainer,
    event_handler,
    rpc,
)
from aiorpc.cli.app import COLLECT_AFTER
from aiorpc.config import resolve
from aiorpc.sqlalchemy import (
    DatabaseSession,
    Inbox,
    Outbox,
    SqlIdempotency,
    configured,
    create_tables,
    open_engine,
)
from aiorpc.transports import open_transport
from tests.servers import urls
from tests.servers.cluster import Cluster

PAGE = Path(__file__).parents[1] / "docs" / "guarantees.md"
BEGIN = "<!-- costs: made by benchmarks/guarantees.py --write -->\n"
END = "<!-- end of costs -->\n"
IN_FLIGHT = 20
PREFIX = f"bench_{os.getpid()}"

Call = Callable[[], Awaitable[Any]]


@dataclass
class Way:
    """A setting, and what was measured."""

    call: Call
    #: Microseconds of CPU of a call, by round.
    cpu: list[float] = field(default_factory=list)
    #: Seconds of each call.
    latencies: list[float] = field(default_factory=list)


class Handled:
    """Waits until the handlers of all sent events have ended."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def sent(self) -> tuple[str, asyncio.Future[None]]:
        event = secrets.token_hex(8)
        self._waiting[event] = asyncio.get_running_loop().create_future()
        return event, self._waiting[event]

    def ended(self, event: str) -> None:
        waiting = self._waiting.pop(event, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


def plain_service(name: str) -> type:
    class Plain:
        @rpc
        async def run(self, text: str) -> str:
            return text

        @rpc(delivery="at_most_once")
        async def run_at_most_once(self, text: str) -> str:
            return text

    Plain.name = f"{PREFIX}_{name}"  # type: ignore[attr-defined]
    return Plain


def database_services(kind: str, handled: Handled) -> tuple[Any, list[type]]:
    """Return the base of the services with the database *kind*, and the services."""

    class Base(DeclarativeBase):
        pass

    class Row(Base):
        __tablename__ = f"{PREFIX}_row"

        id: Mapped[int] = mapped_column(primary_key=True)
        text: Mapped[str] = mapped_column(String(100))

    class Rows:
        name = f"{PREFIX}_{kind}"
        db = DatabaseSession(Base, commit=True)
        dispatch = EventDispatcher()

        @rpc
        async def run(self, text: str) -> str:
            self.db.add(Row(text=text))
            return text

        @rpc
        async def tell(self, text: str) -> str:
            self.db.add(Row(text=text))
            await self.dispatch("told", text)
            return text

    class Keyed:
        name = f"{PREFIX}_{kind}_keyed"
        db = DatabaseSession(Base, commit=True)
        idempotency = SqlIdempotency(Base)

        @rpc(idempotent=True)
        async def run(self, text: str) -> str:
            self.db.add(Row(text=text))
            return text

    class Boxed:
        name = f"{PREFIX}_{kind}_boxed"
        db = DatabaseSession(Base, commit=True)
        outbox = Outbox(Base)

        @rpc
        async def tell(self, text: str) -> str:
            self.db.add(Row(text=text))
            await self.outbox.dispatch("told", text)
            return text

    class Hearing:
        name = f"{PREFIX}_{kind}_hearing"
        db = DatabaseSession(Base, commit=True)

        @event_handler(Rows.name, "told")
        async def hear(self, text: str) -> None:
            self.db.add(Row(text=text))

    class HearingOnce:
        name = f"{PREFIX}_{kind}_hearing_once"
        db = DatabaseSession(Base, commit=True)
        inbox = Inbox(Base)

        @event_handler(Boxed.name, "told")
        async def hear(self, text: str) -> None:
            self.db.add(Row(text=text))

    return Base, [Rows, Keyed, Boxed, Hearing, HearingOnce]


def telling(handled: Handled) -> Any:
    """Return the middleware that says when a handler has committed."""

    async def tell(call: Any, handler: Any) -> Any:
        result = await handler(call)
        if call.side == "consumer":
            handled.ended(call.args[0])
        return result

    return tell


@asynccontextmanager
async def plain_ways(broker: str, cluster_url: str | None) -> AsyncIterator[dict[str, Call]]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        config: dict[str, Any] = {"AMQP_URI": broker}
        service = plain_service("plain")
        stack.push_async_callback(delete_queues, broker, [service])
        await enter(ServiceContainer(service, config))
        plain = (await enter(ClusterRpcProxy(config)))[f"{PREFIX}_plain"]
        ways: dict[str, Call] = {
            "default": lambda: plain.run("hello"),
            "at most once": lambda: plain.run_at_most_once("hello"),
        }
        if cluster_url is not None:
            config = {
                "AMQP_URI": cluster_url,
                "QUEUE_OPTIONS": {"*": {"type": "quorum"}},
                "CONFIRM_REPLIES": True,
            }
            await enter(ServiceContainer(plain_service("quorum"), config))
            quorum = (await enter(ClusterRpcProxy(config)))[f"{PREFIX}_quorum"]
            one = {"AMQP_URI": cluster_url}
            await enter(ServiceContainer(plain_service("classic"), one))
            classic = (await enter(ClusterRpcProxy(one)))[f"{PREFIX}_classic"]
            ways["default, on a cluster of three nodes"] = lambda: classic.run("hello")
            ways["cluster: quorum queues, `CONFIRM_REPLIES`"] = lambda: quorum.run("hello")
        yield ways


@asynccontextmanager
async def database_ways(broker: str, kind: str, url: str) -> AsyncIterator[dict[str, Call]]:
    handled = Handled()
    base, services = database_services(kind.lower(), handled)
    config = {"AMQP_URI": broker, "DB_URI": url, "AUTO_DELETE_EVENT_EXCHANGES": True}
    name = f"{PREFIX}_{kind.lower()}"
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        stack.push_async_callback(drop_rows, config, base)
        stack.push_async_callback(delete_queues, broker, services)
        await create_tables(config, *services)
        for service in services:
            hears = "hearing" in service.name  # type: ignore[attr-defined]
            middleware = [telling(handled)] if hears else []
            await enter(ServiceContainer(service, config, middleware=middleware))
        cluster = await enter(ClusterRpcProxy(config))
        rows, keyed, boxed = cluster[name], cluster[f"{name}_keyed"], cluster[f"{name}_boxed"]

        def with_key() -> Awaitable[Any]:
            key = secrets.token_hex(16)
            result: Awaitable[Any] = keyed.run.with_options(idempotency_key=key)("hello")
            return result

        async def with_event(service: Any) -> None:
            event, ended = handled.sent()
            await service.tell(event)
            await ended

        yield {
            f"a row ({kind})": lambda: rows.run("hello"),
            f"a row, idempotency key ({kind})": with_key,
            f"an event, sent directly ({kind})": lambda: with_event(rows),
            f"an event, outbox and inbox ({kind})": lambda: with_event(boxed),
        }


async def delete_queues(broker: str, services: Sequence[Any]) -> None:
    queues = [f"rpc-{each.name}" for each in services]
    for each in services:
        if "hearing" in each.name:
            source = each.name.replace("_hearing_once", "_boxed").replace("_hearing", "")
            queues.append(f"evt-{source}-told--{each.name}.hear")
    async with open_transport(resolve({"AMQP_URI": broker})) as transport:
        for queue in queues:
            await transport.delete(queue)


async def drop_rows(config: Mapping[str, Any], base: Any) -> None:
    """Delete the table of this benchmark. The tables of aiorpc may have rows of others."""
    table = base.metadata.tables[f"{PREFIX}_row"]
    async with (
        open_engine(configured(config, PREFIX, base)) as engine,
        engine.begin() as connection,
    ):
        await connection.run_sync(table.drop, checkfirst=True)
        for each in base.metadata.tables.values():
            owner = each.c.get("service", each.c.get("queue"))
            if owner is not None:
                mine = owner.contains(PREFIX, autoescape=True)
                await connection.execute(each.delete().where(mine))


async def measure(way: Way, calls: int) -> None:
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            await way.call()

    gc.collect()
    began = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(caller())
    way.cpu.append((time.process_time() - began) / calls * 1e6)
    for _ in range(calls // 3):
        began = time.perf_counter()
        await way.call()
        way.latencies.append(time.perf_counter() - began)


async def run(options: argparse.Namespace, cluster_url: str | None) -> dict[str, Way]:
    found = urls()
    if found.rabbitmq is None:
        raise SystemExit(
            "there is no RabbitMQ: name one in AIORPC_TEST_AMQP_URI, or `make servers`"
        )
    async with AsyncExitStack() as stack:
        calls = await stack.enter_async_context(plain_ways(found.rabbitmq, cluster_url))
        for kind, url in (("PostgreSQL", found.postgresql), ("MariaDB", found.mysql)):
            if url is None:
                print(f"{kind}: no server", file=sys.stderr)
                continue
            ways = database_ways(found.rabbitmq, kind, url)
            calls |= await stack.enter_async_context(ways)
        measured = {name: Way(call) for name, call in calls.items()}
        for way in measured.values():  # warm
            await measure(way, options.calls)
            way.cpu.clear()
            way.latencies.clear()
        for number in range(options.rounds):
            for name in list(measured)[:: -1 if number % 2 else 1]:
                await measure(measured[name], options.calls)
        return measured


def table(ways: Mapping[str, Way], options: argparse.Namespace) -> str:
    lines = [
        f"{describe_machine()}; {options.rounds} rounds of {options.calls} calls:",
        "",
        "| setting | CPU a call, ms | p50, ms | p99, ms |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, way in ways.items():
        cuts = statistics.quantiles(way.latencies, n=100)
        cpu = statistics.median(way.cpu) / 1000
        lines.append(f"| {name} | {cpu:.2f} | {cuts[49] * 1000:.1f} | {cuts[98] * 1000:.1f} |")
    return "\n".join(lines) + "\n"


def write(text: str) -> None:
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE.name} has no lines {BEGIN.strip()} and {END.strip()}")
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--no-cluster", action="store_true", help="leave the cluster out")
    parser.add_argument("--write", action="store_true", help=f"the table into {PAGE.name}")
    options = parser.parse_args()
    gc.set_threshold(COLLECT_AFTER)
    with nullcontext() if options.no_cluster else Cluster.fresh() as cluster:
        ways = asyncio.run(run(options, None if cluster is None else cluster.url))
    found = table(ways, options)
    print(found)
    if options.write:
        write(found)


if __name__ == "__main__":
    main()
