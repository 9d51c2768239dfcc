"""
The stub of a service as type checkers see it. Never runs: mypy and pyright check it, and
``stub_orders.py``, which ``aiorpc stubs`` wrote.
"""

from __future__ import annotations

from datetime import datetime
from typing import assert_type
from uuid import UUID

from aiorpc import ClusterRpcProxy, RpcProxy
from tests.typing.stub_orders import Card, ContractOrders, Line, Order, Payment


async def calls() -> None:
    async with ClusterRpcProxy("memory://") as cluster:
        orders = cluster.typed(ContractOrders, "contract_orders")
        order = await orders.place([Line(product="tea")], UUID(int=1), express=True)
        assert_type(order, Order)
        assert_type(order.placed, datetime)
        assert_type(await orders.get(1), Order | None)
        await orders.pay(1, Payment(amount=2.5, by=Card(number="4")), "paid")
        await orders.search({"text": "tea"}, "new", limit=3)
        async for each in orders.export():
            assert_type(each, Order)
        await orders.cancel(1, "never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await orders.cancel("1", "late")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await orders.place([], UUID(int=1), True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class Desk:
    name = "desk"
    orders = RpcProxy[ContractOrders]("contract_orders")

    async def ask(self) -> None:
        assert_type(await self.orders.totals(), dict[str, tuple[int, float]])
