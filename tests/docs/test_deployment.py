"""The permissions of the page on deployment suffice, on a RabbitMQ that grants no others."""

from __future__ import annotations

import asyncio
import re
import shlex

import pytest
import yaml

from aiorpc import (
    BROADCAST,
    ClusterRpcProxy,
    EventDispatcher,
    Exchange,
    Queue,
    RpcProxy,
    RpcTimeout,
    ServiceContainer,
    ServiceRunner,
    UnknownService,
    event_dispatcher,
    event_handler,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.hosting.discovery.asking import discover
from aiorpc.transports import open_transport
from aiorpc.transports.base import Outgoing
from aiorpc.wire.message import Message
from tests.servers import Rabbit

from .markdown import ROOT

pytestmark = [pytest.mark.rabbitmq, pytest.mark.alone]


class Prices:
    name = "prices"
    dispatch = EventDispatcher()

    @rpc
    async def price_of(self, title: str) -> int:
        await self.dispatch("asked", title)
        return 10


class Shop:
    name = "shop"
    prices = RpcProxy(Prices)
    heard: asyncio.Queue[str]

    @rpc
    async def sell(self, title: str) -> int:
        return await self.prices.price_of(title)

    @rpc
    async def slow(self) -> None:
        await asyncio.Event().wait()

    @event_handler("prices", "asked")
    async def one_hears(self, title: str) -> None:
        self.heard.put_nowait(title)

    @event_handler("prices", "asked", BROADCAST, reliable_delivery=False)
    async def all_hear(self, title: str) -> None:
        self.heard.put_nowait(title)


@pytest.fixture
def limited(node: Rabbit) -> str:
    """The URL of a user who has only the permissions of the page."""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("rabbitmqctl set_permissions")]
    *_, configure, write, read = shlex.split(line)
    node.ctl("add_user", "shop", "secret")
    node.ctl("set_permissions", "shop", configure, write, read)
    return node.url.replace("guest:guest", "shop:secret")


async def test_the_permissions_of_the_page_suffice(limited: str) -> None:
    Shop.heard = asyncio.Queue()
    async with (
        ServiceRunner(Prices, Shop, config=limited) as runner,
        ClusterRpcProxy(limited, timeout=5) as cluster,
        event_dispatcher(limited) as dispatch,
        open_transport(resolve(limited), name="a test") as transport,
    ):
        assert await cluster.shop.sell("Emma") == 10
        await dispatch("prices", "asked", "Emma")
        assert [await asyncio.wait_for(Shop.heard.get(), 5) for _ in range(4)] == ["Emma"] * 4
        with pytest.raises(RpcTimeout, match="1 consumer"):
            await cluster.shop.slow.with_options(timeout=0.2)()
        for fail_fast in (False, True):
            with pytest.raises(UnknownService):
                await cluster.nobody.method.with_options(fail_fast=fail_fast)()
        found = await discover(transport, 1.0)
        assert {instance.name for instance in found} == {"prices", "shop"}
        await transport.declare(queues=[Queue("rpc-shop.parked")])
        await transport.publish(
            Outgoing(exchange="", routing_key="rpc-shop.parked", message=Message(body=b"")), 5
        )
        assert runner.health().ok


async def test_a_service_uses_queues_that_its_user_may_not_declare(
    node: Rabbit, caplog: pytest.LogCaptureFixture
) -> None:
    """With the options of the page on configuration."""
    node.ctl("add_user", "consumer", "secret")
    node.ctl("set_permissions", "consumer", "^$", ".*", ".*")
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n([^`]*passive: true[^`]*)```", page)
    restricted = {
        **yaml.safe_load(block),
        "AMQP_URI": node.url.replace("guest:guest", "consumer:secret"),
    }
    heard: asyncio.Queue[str] = asyncio.Queue()

    class Library:
        name = "library"

        @rpc
        async def lend(self, title: str) -> str:
            return title

        @event_handler("shop", "sold")
        async def hear(self, title: str) -> None:
            heard.put_nowait(title)

    async with open_transport(resolve(node.url), name="the operator") as operator:
        events = Exchange("shop.events", "topic")
        await operator.declare(
            queues=[
                Queue("rpc-library", Exchange("nameko-rpc", "topic"), "library.*"),
                Queue("evt-shop-sold--library.hear", events, "sold"),
            ],
        )
        async with (
            ServiceContainer(Library, restricted) as container,
            ClusterRpcProxy(node.url, timeout=5) as cluster,
            event_dispatcher(node.url) as dispatch,
        ):
            assert await cluster.library.lend("Emma") == "Emma"
            await dispatch("shop", "sold", "Emma")
            assert await asyncio.wait_for(heard.get(), 5) == "Emma"
            assert container.health().ok
    assert "library: callers cannot cancel calls, nor read streams" in caplog.text
