"""The service contract_orders, for its callers::

    await cluster.typed(ContractOrders, "contract_orders").method(...)

Written by `aiorpc stubs contract_orders`.
Write it again instead of changing it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Literal, NotRequired, Protocol, TypeAlias, TypedDict
from uuid import UUID

import msgspec


@dataclass(kw_only=True)
class Order:
    id: int
    lines: list[Line]
    state: State
    placed: datetime
    total: Decimal
    tags: set[str] = field(default_factory=set)


@dataclass(kw_only=True)
class Line:
    """A line of an order."""

    product: str
    pieces: int = 1
    note: str | None = None


@dataclass(kw_only=True)
class Payment:
    amount: float
    by: Card | Transfer
    reference: str = ""


class Card(msgspec.Struct, kw_only=True, tag_field="type", tag="card"):
    number: str


class Transfer(msgspec.Struct, kw_only=True, tag_field="type", tag="transfer"):
    iban: str
    due: date | None = None


class Filter(TypedDict):
    limit: NotRequired[int]
    text: str


State: TypeAlias = Literal["new", "paid", "sent"]


class ContractOrders(Protocol):
    """Takes orders.

    Has a second paragraph.
    """

    async def cancel(self, order_id: int, reason: Literal["late", "other", "wrong"]) -> bool: ...

    def export(self, since: date | None = None) -> AsyncIterator[Order]:
        """Yield all orders."""
        ...

    async def get(self, order_id: int) -> Order | None: ...

    async def pay(self, order_id: int, payment: Payment, state: State = "paid") -> None: ...

    async def place(self, lines: list[Line], customer: UUID, *, express: bool = False) -> Order:
        """Place an order.

        The stock must have all lines.

        Raises:
            NotFound: There is no such thing.
            SoldOut: No copy is left.
        """
        ...

    async def search(self, where: Filter, /, *states: State, **more: int) -> list[Order]: ...

    async def totals(self, by: str = "day") -> dict[str, tuple[int, float]]: ...
