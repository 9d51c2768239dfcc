"""
A small shop in Nameko 2.14: the services orders and products, and a client. `tests/nameko/shop.py`
is the same shop in aiorpc.

`python shop.py AMQP_URI` takes from the environment `SHOP`, the prefix of its names, and `ROLES`,
what it runs: `orders`, `products`, or both, until standard input ends; or `client`, which answers
each line of standard input with the results of its flow.
"""

import os
import sys
import time
from decimal import Decimal

import stack

if __name__ == "__main__":
    import shop  # errors carry the path of their module

    shop.main()
    sys.exit()

import eventlet
import eventlet.hubs
import values
from kombu import Exchange
from nameko.events import EventDispatcher, event_handler
from nameko.exceptions import RemoteError, registry
from nameko.extensions import DependencyProvider
from nameko.messaging import Publisher
from nameko.rpc import RpcProxy, rpc

SHOP = os.environ["SHOP"]


class ProductNotFound(Exception):
    pass


class OrderRefused(Exception):
    pass


class UnknownProduct(Exception):
    """What orders gets for the ProductNotFound of products."""


class Refusal(Exception):
    """What the client gets for the OrderRefused of orders."""


registry["shop.ProductNotFound"] = UnknownProduct
registry["shop.OrderRefused"] = Refusal


class Origin(DependencyProvider):
    def get_dependency(self, worker_ctx):
        data = worker_ctx.context_data
        return [data.get("user_id"), data.get("x-origin"), worker_ctx.service_name]


PRICES = {"emma": Decimal("9.90"), "ulysses": Decimal("12.00")}
SOLD = []
ORDERS = {}


class Products:
    name = f"{SHOP}_products"
    origin = Origin()

    @rpc
    def get(self, title):
        if title not in PRICES:
            raise ProductNotFound(title)
        return {"title": title, "price": PRICES[title], "asked_by": self.origin}

    @rpc
    def all_sold(self):
        return sorted(SOLD)

    @event_handler(f"{SHOP}_orders", "order_created")
    def handle_order_created(self, payload):
        SOLD.append([payload["title"], payload["copies"], self.origin[0]])


class Orders:
    name = f"{SHOP}_orders"
    origin = Origin()
    products = RpcProxy(f"{SHOP}_products", headers={"x-origin": "orders"}, priority=2)
    dispatch = EventDispatcher(headers={"x-shop": "books"}, priority=3, expiration=60)
    publish = Publisher(Exchange(f"{SHOP}_invoices", "direct"), headers={"a": "x", "b": "x"})

    @rpc
    def create(self, title, copies=1):
        try:
            product = self.products.get(title)
        except UnknownProduct as error:
            raise OrderRefused(*error.args) from None
        number = len(ORDERS) + 1
        order = {"number": number, "total": product["price"] * copies, **product}
        ORDERS[number] = order
        self.dispatch("order_created", {"title": title, "copies": copies})
        self.publish({"number": number}, routing_key="new", headers={"b": "y"}, priority=4)
        return order

    @rpc
    def get(self, number):
        return ORDERS[number]


def flow(cluster):
    """What the client does, and what it gets."""
    orders, products = cluster[Orders.name], cluster[Products.name]
    results = {"created": orders.create("emma", copies=2)}
    replies = [orders.create.call_async(title) for title in ("emma", "ulysses")]
    results["numbers"] = sorted(reply.result()["number"] for reply in replies)
    results["got"] = orders.get(1)
    try:
        orders.create("nobody wrote this")
    except Refusal as error:
        results["refused"] = list(error.args)
    try:
        orders.get(99)
    except RemoteError as error:
        results["missing"] = [error.exc_type, error.value]
    until = time.monotonic() + 5
    while len(products.all_sold()) < 3 and time.monotonic() < until:
        time.sleep(0.01)  # no event tells a client that a handler has run
    results["sold"] = products.all_sold()
    return results


def exit_at_end_of_input():
    while True:
        eventlet.hubs.trampoline(sys.stdin.fileno(), read=True)
        if not os.read(sys.stdin.fileno(), 1024):
            os._exit(0)


def main():
    stack.configure({"AMQP_URI": sys.argv[1], "max_workers": 10})
    roles = os.environ["ROLES"].split()
    if roles == ["client"]:
        cluster = stack.cluster({"user_id": "ann"}, 10)
        for _ in sys.stdin:
            print(values.dumps(flow(cluster)), flush=True)
        return
    runner = stack.runner()
    for role in roles:
        runner.add_service({"orders": Orders, "products": Products}[role])
    runner.start()
    print("ready", flush=True)
    eventlet.spawn(exit_at_end_of_input)
    runner.wait()
