"""
Services with every kind of signature, for the tests of contracts. The tests also change the text of
this file, and compare the contracts.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pydantic
from marshmallow import Schema, fields
from starlette.requests import Request

from aiorpc import EventDispatcher, Queue, consume, event_handler, rpc
from aiorpc.http import http
from aiorpc.sqlalchemy import accepts, returns

RESTOCKED = "restocked"


class SoldOut(Exception):
    """No copy is left."""


class NotFound(Exception):
    """There is no such thing."""


class State(enum.Enum):
    NEW = "new"
    PAID = "paid"
    SENT = "sent"


@dataclass
class Line:
    """A line of an order."""

    product: str
    pieces: int = 1
    note: str | None = None


@dataclass
class Order:
    id: int
    lines: list[Line]
    state: State
    placed: datetime
    total: Decimal
    tags: set[str] = field(default_factory=set)


@dataclass
class Category:
    """A category has categories."""

    name: str
    parts: list[Category] = field(default_factory=list)


class Address(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    street_name: str
    zip_code: Annotated[str, msgspec.Meta(min_length=3, max_length=10)]


class Card(msgspec.Struct, tag="card"):
    number: str


class Transfer(msgspec.Struct, tag="transfer"):
    iban: str
    due: date | None = None


class Payment(msgspec.Struct, omit_defaults=True):
    amount: Annotated[float, msgspec.Meta(ge=0)]
    by: Card | Transfer
    reference: str = ""


class Profile(pydantic.BaseModel):
    """Who a customer is."""

    model_config = pydantic.ConfigDict(populate_by_name=True)

    full_name: str = pydantic.Field(alias="fullName")
    age: int = pydantic.Field(ge=0, le=150)
    address: dict[str, str] = {}


class Filter(TypedDict):
    text: str
    limit: NotRequired[int]


class ArticleSchema(Schema):
    id = fields.Integer(dump_only=True)
    title = fields.String(required=True)
    price = fields.Decimal(as_string=True, allow_none=True)
    secret = fields.String(load_only=True)
    written_on = fields.Date(data_key="writtenOn")
    parts = fields.List(fields.Nested(lambda: ArticleSchema(only=("title",))))


class Orders:
    """Takes orders.

    Has a second paragraph.
    """

    name = "contract_orders"
    version = "2.1"
    dispatch = EventDispatcher()

    @rpc(expected_exceptions=(SoldOut, NotFound))
    async def place(self, lines: list[Line], customer: UUID, *, express: bool = False) -> Order:
        """
        Place an order.

        The stock must have all lines.
        """
        order = Order(1, lines, State.NEW, datetime.now(), Decimal(1))
        await self.dispatch("placed", order)
        return order

    @rpc
    async def get(self, order_id: int) -> Order | None: ...

    @rpc(sensitive_arguments="payment.by")
    async def pay(self, order_id: int, payment: Payment, state: State = State.PAID) -> None:
        await self.dispatch("paid", {"order_id": order_id, "amount": 1.5})

    @rpc
    async def cancel(self, order_id: int, reason: Literal["late", "wrong", "other"]) -> bool:
        await self.dispatch(event_type=RESTOCKED, payload=Line("tea"))
        return True

    @rpc
    async def search(self, where: Filter, /, *states: State, **more: int) -> list[Order]: ...

    @rpc
    async def export(self, since: date | None = None) -> AsyncIterator[Order]:
        """Yield all orders."""
        yield Order(1, [], State.NEW, datetime.now(), Decimal(1))

    @rpc
    def totals(self, by: str = "day") -> dict[str, tuple[int, float]]: ...


class Customers:
    name = "contract_customers"

    @rpc
    async def register(self, profile: Profile, address: Address) -> Profile: ...

    @rpc
    async def tree(self, root: Category) -> Category: ...

    @rpc(validate=False)
    async def unchecked(self, profile: Profile) -> int: ...


class Legacy:
    """As in Nameko: no types."""

    name = "contract_legacy"

    @rpc
    def find(self, thing_id, depth=3, **options):
        """Find a thing."""

    @rpc
    def both(self, first, /, second, *rest, third, fourth=None):
        pass

    @event_handler("contract_orders", "placed")
    def on_placed(self, payload):
        pass

    @event_handler("contract_orders", "paid", handler_type="singleton")
    async def on_paid(self, paid: Payment) -> None:
        """Books a payment."""

    @consume(Queue("contract_letters"))
    async def letter(self, letter: dict[str, Any]) -> None: ...


class Articles:
    name = "contract_articles"

    @rpc
    @returns(ArticleSchema(many=True))
    async def all(self) -> list[Any]: ...

    @rpc(idempotent=True)
    @accepts(article=ArticleSchema())
    @returns(ArticleSchema)
    async def add(self, article: Any, draft: bool = False) -> Any | None: ...


class Web:
    name = "contract_web"

    @http("GET", "/orders/<int:order_id>", expected_exceptions=NotFound)
    async def show(self, request: Request, order_id: int, full: bool = False) -> Order: ...

    @http("POST,PUT", "/orders")
    async def put(self, line: Line, dry: bool = False) -> Order:
        """Put a line."""
        raise NotFound

    @http("GET", "/raw/{rest:path}", validate=False)
    async def raw(self, request, rest):
        pass


SERVICES = (Orders, Customers, Legacy, Articles, Web)
