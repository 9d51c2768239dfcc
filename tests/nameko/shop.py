"""The shop of `peers/shop.py` in aiorpc: the services orders and products, and a client."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

from aiorpc import (
    ClusterRpcProxy,
    DependencyProvider,
    EventDispatcher,
    Exchange,
    Publisher,
    RemoteError,
    RpcProxy,
    WorkerContext,
    deserialize_to_instance,
    event_handler,
    rpc,
)


class ProductNotFound(Exception):
    __module__ = "shop"


class OrderRefused(Exception):
    __module__ = "shop"


@deserialize_to_instance("shop.ProductNotFound")
class UnknownProduct(Exception):
    """What orders gets for the ProductNotFound of products."""


@deserialize_to_instance("shop.OrderRefused")
class Refusal(Exception):
    """What the client gets for the OrderRefused of orders."""


class Origin(DependencyProvider[list[Any]]):
    def value(self, worker_ctx: WorkerContext) -> list[Any]:
        data = worker_ctx.context_data
        return [data.get("user_id"), data.get("x-origin"), worker_ctx.service_name]


PRICES = {"emma": Decimal("9.90"), "ulysses": Decimal("12.00")}


def products(shop: str) -> type:
    sold: list[Any] = []

    class Products:
        name = f"{shop}_products"
        origin = Origin()

        @rpc
        async def get(self, title: str) -> dict[str, Any]:
            if title not in PRICES:
                raise ProductNotFound(title)
            return {"title": title, "price": PRICES[title], "asked_by": self.origin}

        @rpc
        async def all_sold(self) -> list[Any]:
            return sorted(sold)

        @event_handler(f"{shop}_orders", "order_created")
        async def handle_order_created(self, payload: dict[str, Any]) -> None:
            sold.append([payload["title"], payload["copies"], self.origin[0]])

    return Products


def orders(shop: str) -> type:
    stored: dict[int, Any] = {}

    class Orders:
        name = f"{shop}_orders"
        origin = Origin()
        products = RpcProxy(f"{shop}_products", headers={"x-origin": "orders"}, priority=2)
        dispatch = EventDispatcher(headers={"x-shop": "books"}, priority=3, expiration=60)
        publish = Publisher(Exchange(f"{shop}_invoices", "direct"), headers={"a": "x", "b": "x"})

        @rpc
        async def create(self, title: str, copies: int = 1) -> dict[str, Any]:
            try:
                product = await self.products.get(title)
            except UnknownProduct as error:
                raise OrderRefused(*error.args) from None
            number = len(stored) + 1
            order = {"number": number, "total": product["price"] * copies, **product}
            stored[number] = order
            await self.dispatch("order_created", {"title": title, "copies": copies})
            await self.publish(
                {"number": number}, routing_key="new", headers={"b": "y"}, priority=4
            )
            return order

        @rpc
        async def get(self, number: int) -> dict[str, Any]:
            return stored[number]

    return Orders


async def flow(config: dict[str, Any], shop: str) -> dict[str, Any]:
    """What the client does, and what it gets."""
    proxy = ClusterRpcProxy(config, context_data={"user_id": "ann"}, timeout=10)
    async with proxy as cluster:
        orders, products = cluster[f"{shop}_orders"], cluster[f"{shop}_products"]
        results = {"created": await orders.create("emma", copies=2)}
        replies = [orders.create.call_async(title) for title in ("emma", "ulysses")]
        results["numbers"] = sorted([(await reply)["number"] for reply in replies])
        results["got"] = await orders.get(1)
        try:
            await orders.create("nobody wrote this")
        except Refusal as error:
            results["refused"] = list(error.args)
        try:
            await orders.get(99)
        except RemoteError as error:
            results["missing"] = [error.exc_type, error.value]
        async with asyncio.timeout(5):
            while len(await products.all_sold()) < 3:
                pass
        results["sold"] = await products.all_sold()
    return results
