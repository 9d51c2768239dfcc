"""What the doctor thinks that a service needs is what the service declares when it starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from aiorpc import (
    BROADCAST,
    ClusterRpc,
    EventDispatcher,
    Exchange,
    Publisher,
    Queue,
    Retry,
    RpcProxy,
    ServiceContainer,
    consume,
    cron,
    event_handler,
    rpc,
    timer,
)
from aiorpc.config import resolve
from aiorpc.doctor.needs import Access, needs_of
from aiorpc.transports.incoming import ConsumerOptions
from aiorpc.transports.memory.transport import MemoryTransport
from aiorpc.wire.names import delay_of


class Recording(MemoryTransport):
    """A transport that notes what is declared."""

    def __init__(self) -> None:
        super().__init__("needs")
        self.queues: dict[str, Queue] = {}
        self.exchanges: set[str] = set()

    async def declare(
        self, exchanges: Sequence[Exchange] = (), queues: Sequence[Queue] = ()
    ) -> Sequence[Exchange]:
        self._note(exchanges, queues)
        return await super().declare(exchanges, queues)

    async def _consume(self, options: ConsumerOptions) -> Any:
        self._note((), [options.queue])
        return await super()._consume(options)

    def _note(self, exchanges: Iterable[Exchange], queues: Iterable[Queue]) -> None:
        for queue in queues:
            self.queues[queue.name] = queue
            self.exchanges |= {queue.exchange.name} - {""}
        self.exchanges |= {each.name for each in exchanges}


class Everything:
    name = "everything"
    other = RpcProxy("other")
    cluster = ClusterRpc()
    dispatch = EventDispatcher()
    publish = Publisher(Exchange("outside"), declare=[Queue("outside-queue"), Exchange("more")])

    @rpc
    async def method(self) -> None: ...

    @event_handler("source", "happened", retry=Retry(delays=(1, 60)))
    async def handle(self, payload: Any) -> None: ...

    @event_handler("source", "told", handler_type=BROADCAST, reliable_delivery=False)
    async def hear(self, payload: Any) -> None: ...

    @consume(Queue("inbox", Exchange("letters"), "key"))
    async def read(self, payload: Any) -> None: ...

    @timer(3600, singleton=True)
    async def tick(self) -> None: ...

    @cron("0 0 1 1 *", singleton=True)
    async def new_year(self) -> None: ...


def _pattern(name: str) -> str:
    """Return *name* with a star for ids."""
    return re.sub(r"[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f-]{27}", "*", name)


@pytest.mark.parametrize("options", [{}, {"QUEUE_OPTIONS": {"*": {"type": "quorum"}}}], ids=str)
async def test_needs_are_what_a_service_declares(options: dict[str, Any]) -> None:
    settings = resolve({"AMQP_URI": "memory://needs", **options})
    transport = Recording()
    async with transport, ServiceContainer(Everything, settings, transport=transport):
        pass
    needs = needs_of(ServiceContainer(Everything, settings))
    found = {_pattern(each.queue.name): each for each in needs.queues if not each.late}
    declared = {_pattern(name): queue for name, queue in transport.queues.items()}
    right = {name for name in found if name.endswith(".right")}  # claimed in the background
    assert {*found} - right == {*declared} - right
    for name, queue in declared.items():
        ours = found[name].queue
        arguments = dict(ours.arguments)
        if (
            delay_of(name) is not None
        ):  # of the type of its queue, which is the default of memory://
            arguments.setdefault("x-queue-type", "classic")
        assert (ours.durable, ours.exclusive, ours.auto_delete, arguments) == (
            *(queue.durable, queue.exclusive, queue.auto_delete, dict(queue.arguments)),
        ), name
    exchanges = {each.exchange.name for each in needs.exchanges} - {""}
    assert exchanges == transport.exchanges
    assert needs.calls == ["other"]


def test_permissions_follow_from_needs() -> None:
    class Small:
        name = "small"

        @rpc
        async def method(self) -> None: ...

    needs = needs_of(ServiceContainer(Small, resolve("memory://")))
    necessary = {(each.operation, each.name) for each in needs.accesses if not each.optional}
    assert necessary == {
        ("configure", "rpc-small"),
        ("write", "rpc-small"),
        ("read", "rpc-small"),
        ("configure", "nameko-rpc"),
        ("read", "nameko-rpc"),
        ("write", "nameko-rpc"),
    }
    optional = [each for each in needs.accesses if each.optional]
    assert Access("write", "amq.default", "publishes to the default exchange, to park", True) in (
        optional
    )


def test_names_that_each_process_chooses_are_not_looked_at() -> None:
    needs = needs_of(ServiceContainer(Everything, resolve("memory://")))
    lasting = {each.queue.name for each in needs.lasting}
    assert lasting >= {"rpc-everything", "inbox", "outside-queue"}
    assert not [name for name in lasting if _pattern(name) != name]


def test_a_service_with_an_outbox_needs_its_exchanges() -> None:
    database = pytest.importorskip("aiorpc.sqlalchemy")
    orm = pytest.importorskip("sqlalchemy.orm")

    class Base(orm.DeclarativeBase):
        pass

    class Shop:
        name = "shop"
        db = database.DatabaseSession(Base)
        outbox = database.Outbox(Base, Exchange("parcels"), declare=[Queue("parcel-queue")])

    needs = needs_of(ServiceContainer(Shop, resolve("memory://")))
    assert {each.exchange.name for each in needs.exchanges if each.written} == {
        "shop.events",
        "parcels",
    }
    assert "parcel-queue" in {each.queue.name for each in needs.queues}
