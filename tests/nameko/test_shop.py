"""
One shop twice: in Nameko 2.14 (`peers/shop.py`) and in aiorpc (`shop.py`). Whichever of its parts
run on which side, the client gets the same results, and RabbitMQ the same messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from aio_pika.abc import AbstractChannel, AbstractQueue

from aiorpc import ServiceContainer
from tests.nameko import shop, virtualenvs
from tests.nameko.peers import values
from tests.nameko.processes import Nameko, Peer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nameko]

STARTING = 30.0
NAMEKO, AIORPC = "nameko", "aiorpc"
#: In these two mixes, each part talks to the other library only.
QUICK = [(NAMEKO, AIORPC, NAMEKO), (AIORPC, NAMEKO, AIORPC)]


def expected(name: str) -> dict[str, Any]:
    order = {
        "number": 1,
        "total": Decimal("19.80"),
        "title": "emma",
        "price": Decimal("9.90"),
        "asked_by": ["ann", "orders", f"{name}_products"],
    }
    return {
        "created": order,
        "numbers": [2, 3],
        "got": order,
        "refused": ["nobody wrote this"],
        "missing": ["KeyError", "99"],
        "sold": [["emma", 1, "ann"], ["emma", 2, "ann"], ["ulysses", 1, "ann"]],
    }


@pytest.mark.parametrize("nameko_processes", ["2.14.1"], indirect=True)
@pytest.mark.parametrize(
    ("orders", "products", "client"),
    [
        pytest.param(*mix, marks=[] if mix in QUICK else [pytest.mark.long])
        for mix in product([NAMEKO, AIORPC], repeat=3)
    ],
)
async def test_a_shop_works_in_every_mix_of_nameko_and_aiorpc(
    nameko: Nameko,
    broker: dict[str, Any],
    channel: AbstractChannel,
    new_name: Callable[[str], str],
    tmp_path: Path,
    orders: str,
    products: str,
    client: str,
) -> None:
    name = new_name("shop")
    python = virtualenvs.python_of(nameko.stack)

    def peer(roles: str) -> Peer:
        log = tmp_path / f"{roles}.log"
        return Peer(python, "shop.py", nameko.url, log, {"SHOP": name, "ROLES": roles})

    async with AsyncExitStack() as running:
        sides = {"orders": orders, "products": products}
        if roles := " ".join(role for role, side in sides.items() if side == NAMEKO):
            services = peer(roles)
            running.push_async_callback(asyncio.to_thread, services.stop)
            assert await asyncio.to_thread(services.line, STARTING) == "ready\n"
        for role, side in sides.items():
            if side == AIORPC:
                service = getattr(shop, role)(name)
                await running.enter_async_context(ServiceContainer(service, broker))
        seen = await running.enter_async_context(listened(channel, name))
        if client == NAMEKO:
            caller = peer("client")
            running.push_async_callback(asyncio.to_thread, caller.stop)
            results = values.loads(await asyncio.to_thread(caller.ask, "go", STARTING))
        else:
            results = await shop.flow(broker, name)
        assert results == expected(name)
        await eventually(lambda: len(seen) == 6)
    check(seen)


@asynccontextmanager
async def listened(channel: AbstractChannel, name: str) -> AsyncIterator[list[Any]]:
    """Collect the events and the messages of orders; delete what the shop declared."""
    seen: list[Any] = []
    for exchange, key in ((f"{name}_orders.events", "order_created"), (f"{name}_invoices", "new")):
        queue: AbstractQueue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange, key)
        await queue.consume(seen.append, no_ack=True)
    yield seen
    for service in ("orders", "products"):
        await channel.queue_delete(f"rpc-{name}_{service}")
    handler = f"evt-{name}_orders-order_created--{name}_products.handle_order_created"
    await channel.queue_delete(handler)
    for exchange in (f"{name}_orders.events", f"{name}_products.events", f"{name}_invoices"):
        await channel.exchange_delete(exchange)


def check(seen: list[Any]) -> None:
    """Check the publish options: those of the declaration, and those of one message."""
    events = [message for message in seen if message.routing_key == "order_created"]
    invoices = [message for message in seen if message.routing_key == "new"]
    assert len(events) == len(invoices) == 3
    for event in events:
        assert (event.priority, event.expiration, event.headers["x-shop"]) == (3, 60, "books")
    for invoice in invoices:
        assert (invoice.priority, invoice.headers["a"], invoice.headers["b"]) == (4, "x", "y")
    for message in seen:
        assert message.headers["nameko.user_id"] == "ann"
        assert message.delivery_mode == 2
