"""
Broken setups that only the management API tells of, on a private RabbitMQ with small limits. The
doctor finds each by name. The commands that it prints move a queue without losing a message.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from aiorpc import EventDispatcher, Queue, Retry, consume, event_handler, rpc
from aiorpc.config import resolve
from aiorpc.doctor.findings import Severity
from aiorpc.transports import open_transport
from aiorpc.transports.base import Delivery, Outgoing, Transport
from aiorpc.wire.message import Message
from tests.servers import ManagedRabbit
from tests.support.doctor import SMALL, Broken, Setup, broken, diagnosed, expect, setups, with_parts
from tests.support.waiting import eventually

pytestmark = [pytest.mark.rabbitmq, pytest.mark.long]

MANAGED: list[Broken] = []


class Shop:
    name = "shop"
    dispatch = EventDispatcher()

    @rpc
    async def order(self) -> None: ...

    @event_handler("stock", "empty", retry=Retry(delays=(1,)))
    async def refill(self, payload: Any) -> None: ...


QUEUE = "rpc-shop"
EVENTS = "evt-stock-empty--shop.refill"
DELAYED = f"{EVENTS}.retry-1000ms"
DELAYING = {
    "x-queue-type": "quorum",
    "x-message-ttl": 1000,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": EVENTS,
}
VHOST = "doctor"


@pytest.fixture(scope="module")
def managed() -> Iterator[ManagedRabbit]:
    if ManagedRabbit.program() is None:
        pytest.skip("RabbitMQ is not installed")
    with ManagedRabbit.fresh() as node:
        Api.url = node.management
        Api.send("PUT", "vhosts", VHOST)
        Api.permit(VHOST, "guest", ".*", ".*", ".*")
        yield node


class Api:
    """Changes the broker over its management API."""

    url = ""

    @classmethod
    def send(cls, method: str, *path: str, **body: Any) -> httpx.Response:
        target = "/".join(quote(each, safe="") for each in path)
        login = ("guest", "guest")
        answer = httpx.request(method, f"{cls.url}/api/{target}", json=body, auth=login)
        answer.raise_for_status()
        return answer

    @classmethod
    def queue(cls, vhost: str, name: str, *, durable: bool = True, **arguments: Any) -> None:
        cls.send("PUT", "queues", vhost, name, durable=durable, arguments=arguments)

    @classmethod
    def bind(cls, vhost: str, exchange: str, queue: str, key: str) -> None:
        cls.send("POST", "bindings", vhost, "e", exchange, "q", queue, routing_key=key)

    @classmethod
    def permit(cls, vhost: str, user: str, configure: str, write: str, read: str) -> None:
        patterns = {"configure": configure, "write": write, "read": read}
        cls.send("PUT", "permissions", vhost, user, **patterns)

    @classmethod
    def policy(cls, vhost: str, pattern: str, **definition: Any) -> None:
        body = {"pattern": pattern, "definition": definition, "apply-to": "queues"}
        cls.send("PUT", "policies", vhost, "of-tests", **body)


@asynccontextmanager
async def _vhost(url: str, *, topology: bool = True) -> AsyncIterator[tuple[str, Setup]]:
    """The vhost of the doctor, with what the service Shop declares. It is empty afterwards."""
    if topology:
        Api.send("PUT", "exchanges", VHOST, "nameko-rpc", type="topic", durable=True)
        Api.queue(VHOST, QUEUE)
        Api.bind(VHOST, "nameko-rpc", QUEUE, "shop.*")
    setup = Setup({"AMQP_URI": with_parts(url, path=f"/{VHOST}")}, [Shop], Api.url)
    try:
        yield VHOST, setup
    finally:
        for kind in ("policies", "queues", "exchanges"):
            for each in Api.send("GET", kind, VHOST).json():
                if each["name"] and not each["name"].startswith("amq."):
                    Api.send("DELETE", kind, VHOST, each["name"])


def changed(setup: Setup, **config: Any) -> Setup:
    return setup._replace(config={**setup.config, **config})


# Permissions and limits


@broken(MANAGED, "vhost-refused")
async def a_user_without_permissions(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url) as (vhost, setup):
        Api.send("PUT", "users", "stranger", password="s", tags="")
        yield changed(setup, AMQP_URI=with_parts(url, login="stranger:s", path=f"/{vhost}"))


@asynccontextmanager
async def _permitted(
    url: str, configure: str = ".*", write: str = ".*", read: str = ".*"
) -> AsyncIterator[Setup]:
    async with _vhost(url) as (vhost, setup):
        Api.send("PUT", "users", "clerk", password="c", tags="administrator")
        Api.permit(vhost, "clerk", configure, write, read)
        yield changed(setup, AMQP_URI=with_parts(url, login="clerk:c", path=f"/{vhost}"))


MANAGED += [
    Broken(finding, f"{operation} {name}", partial(_permitted, **{operation: permitted}))
    for finding, operation, name, permitted in (
        ("permission-missing", "configure", EVENTS, "^(rpc|aiorpc|nameko|shop|stock)"),
        ("permission-missing", "write", "shop.events", "^(rpc|evt|aiorpc|nameko|amq)"),
        ("permission-missing", "read", QUEUE, "^(evt|aiorpc|nameko|stock)"),
        (
            "permission-for-extras-missing",
            "configure",
            "aiorpc-cancel",
            "^(rpc|evt|nameko|shop|stock)",
        ),
    )
]


@broken(MANAGED, "topic-permission-missing", "nameko-rpc shop.*")
async def a_topic_permission_for_another_service(url: str) -> AsyncIterator[Setup]:
    async with _permitted(url) as setup:
        limits = {"exchange": "nameko-rpc", "write": ".*", "read": "^stock"}
        Api.send("PUT", "topic-permissions", VHOST, "clerk", **limits)
        try:
            yield setup
        finally:
            Api.send("DELETE", "topic-permissions", VHOST, "clerk")


@broken(MANAGED, "connection-limit")
async def a_vhost_that_takes_no_connection(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url) as (vhost, setup):
        Api.send("PUT", "vhost-limits", vhost, "max-connections", value=0)
        try:
            yield setup
        finally:
            Api.send("DELETE", "vhost-limits", vhost, "max-connections")


@broken(MANAGED, "message-too-large", "MAX_MESSAGE_SIZE")
async def a_broker_with_a_small_max_message_size(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url) as (_, setup):
        yield changed(setup, MAX_MESSAGE_SIZE=2_000_000)


@broken(MANAGED, "frame-size", "frame_max")
async def a_broker_with_small_frames(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url) as (_, setup):
        yield setup


@broken(MANAGED, "management-refused", "http://127.0.0.1")
async def a_wrong_password_of_the_management_api(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url) as (_, setup):
        yield setup._replace(management=Api.url.replace("guest:guest", "guest:wrong"))


# Exchanges, queues and bindings


@broken(MANAGED, "exchange-differs", "nameko-rpc")
async def an_exchange_of_another_type(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url, topology=False) as (vhost, setup):
        Api.send("PUT", "exchanges", vhost, "nameko-rpc", type="direct", durable=True)
        yield setup


@broken(MANAGED, "used-as-it-is", "stock.events")
async def an_event_exchange_of_an_old_nameko(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url) as (vhost, setup):
        old = {"type": "topic", "durable": True, "auto_delete": True}
        Api.send("PUT", "exchanges", vhost, "stock.events", **old)
        yield setup


@broken(MANAGED, "queue-differs", QUEUE)
async def a_queue_that_is_not_durable(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url, topology=False) as (vhost, setup):
        Api.queue(vhost, QUEUE, durable=False)
        yield setup


@broken(MANAGED, "queue-is-classic", QUEUE)
async def a_classic_queue_where_quorum_is_configured(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url) as (_, setup):
        yield changed(setup, QUEUE_OPTIONS={"rpc-*": {"type": "quorum"}})


@broken(MANAGED, "delays-lose-messages", DELAYED)
async def a_delay_queue_of_an_older_aiorpc(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url, topology=False) as (vhost, setup):
        Api.queue(vhost, DELAYED, **DELAYING)
        yield setup


@broken(MANAGED, "binding-missing", QUEUE)
async def a_queue_without_its_binding(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url, topology=False) as (vhost, setup):
        Api.queue(vhost, QUEUE)
        yield setup


@broken(MANAGED, "binding-foreign", QUEUE)
async def a_queue_with_the_binding_of_another_service(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url) as (vhost, setup):
        Api.bind(vhost, "nameko-rpc", QUEUE, "stock.*")
        yield setup


# Consumers and messages


@broken(MANAGED, "consumers-missing", QUEUE)
async def a_service_that_does_not_run(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url) as (_, setup):
        yield setup


# Policies


@asynccontextmanager
async def _policy(url: str, **definition: Any) -> AsyncIterator[Setup]:
    """A policy for every queue. The service's queue for calls exists, that of its event not yet."""
    async with _vhost(url, topology=False) as (vhost, setup):
        Api.policy(vhost, ".*", **definition)
        Api.queue(vhost, QUEUE)
        yield setup


MANAGED += [
    Broken(finding, queue, partial(_policy, **definition))
    for finding, queue, definition in (
        ("messages-expire", QUEUE, {"message-ttl": 1000}),
        ("messages-expire", EVENTS, {"message-ttl": 1000}),
        ("queue-expires", QUEUE, {"expires": 60_000}),
        ("queue-is-limited", QUEUE, {"max-length": 10}),
        ("dead-letter-exchange-missing", QUEUE, {"dead-letter-exchange": "nowhere"}),
    )
]


@broken(MANAGED, "consumer-timeout-short", QUEUE)
async def a_consumer_timeout_below_that_of_calls(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url, topology=False) as (vhost, setup):
        Api.queue(vhost, QUEUE, **{"x-queue-type": "quorum", "x-consumer-timeout": 10_000})
        yield setup


@broken(MANAGED, "delivery-limit-low", QUEUE)
async def a_low_delivery_limit(url: str) -> AsyncIterator[Setup]:
    async with _vhost(url, topology=False) as (vhost, setup):
        Api.queue(vhost, QUEUE, **{"x-queue-type": "quorum", "x-delivery-limit": 5})
        yield setup


@setups(MANAGED)
async def test_the_doctor_finds_it_with_the_management_api(
    setup: Broken, managed: ManagedRabbit
) -> None:
    await expect(setup, managed.url)


async def test_a_user_without_the_tag_gets_not_checked(managed: ManagedRabbit) -> None:
    async with _vhost(managed.url) as (_, setup):
        Api.send("PUT", "users", "visitor", password="v", tags="management")
        url = Api.url.replace("guest:guest", "visitor:v")
        findings = await diagnosed(setup.config, Shop, management=url)
    found = {each.name: each for each in findings}
    assert found["permissions"].severity is Severity.NOT_CHECKED
    assert "administrator" in found["permissions"].what


async def test_a_look_prolongs_no_life(managed: ManagedRabbit) -> None:
    """With the management API, the doctor asks AMQP about no queue. Without, it leaves out those
    that expire."""

    class Reader:
        name = "reader"

        @consume(Queue("passing", expires=1800))
        async def read(self, payload: Any) -> None: ...

    async with _vhost(managed.url) as (vhost, setup):
        Api.queue(vhost, "passing", **{"x-expires": 1_800_000})
        with_api = await diagnosed(setup.config, Reader, management=Api.url)
        without = await diagnosed(setup.config, Reader)
    for findings in (with_api, without):
        looked_at = [each.subject for each in findings if each.name in {"consumers", "flags"}]
        assert "passing" not in looked_at


# From classic to quorum


@pytest.mark.skipif(shutil.which("curl") is None, reason="the commands need curl")
@pytest.mark.parametrize("exchange", ["nameko-rpc", "stock.events"])
async def test_the_commands_move_a_queue_to_quorum_without_losing_a_message(
    exchange: str, managed: ManagedRabbit
) -> None:
    async with _vhost(managed.url) as (vhost, setup):
        name = QUEUE
        if exchange != "nameko-rpc":
            name = EVENTS
            Api.send("PUT", "exchanges", vhost, exchange, type="topic", durable=True)
            Api.queue(vhost, name)
            Api.bind(vhost, exchange, name, "empty")
        key = "shop.order" if exchange == "nameko-rpc" else "empty"
        options = {"QUEUE_OPTIONS": {name: {"type": "quorum"}}}
        findings = await diagnosed({**setup.config, **options}, *setup.services, management=Api.url)
        (finding,) = [each for each in findings if each.name == "queue-is-classic"]
        async with open_transport(resolve({**setup.config, **SMALL}), name="tests") as transport:
            moved = asyncio.Event()
            publishing = asyncio.create_task(_publish_until(moved, transport, exchange, key))
            try:
                await _run(finding.commands)
            finally:
                moved.set()
                sent = await publishing
            assert sent > 0
            assert Api.send("GET", "queues", vhost, name).json()["type"] == "quorum"
            received = await _receive(transport, Queue(name, passive=True), sent)
        assert {*received} == {*range(sent)}
        after = await diagnosed({**setup.config, **options}, *setup.services, management=Api.url)
        assert "queue-is-classic" not in {each.name for each in after}


async def _publish_until(end: asyncio.Event, transport: Transport, exchange: str, key: str) -> int:
    """Publish mandatory messages one after the other until *end*; return their number."""
    number = 0
    while not end.is_set():
        message = Message(body=str(number).encode())
        outgoing = Outgoing(exchange=exchange, routing_key=key, message=message, mandatory=True)
        await transport.publish(outgoing)
        number += 1
    return number


async def _run(commands: Any) -> None:
    """Run the commands of a finding in a shell, as they are but for the login."""
    plugin = "rabbitmq-plugins "  # enabled already; needs the account of the node
    lines = [each for each in commands if not each.startswith((plugin, "#"))]
    script = "\n".join(["set -e", *lines]).replace("USER:PASSWORD", "guest:guest")
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", script], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"


async def _receive(transport: Transport, queue: Queue, number: int) -> list[int]:
    received: list[int] = []

    def take(delivery: Delivery) -> None:
        received.append(int(delivery.message.body))
        delivery.ack()

    async with await transport.subscribe(queue, take):
        await eventually(lambda: len({*received}) >= number)
    return received


async def test_flags_need_only_the_tag_monitoring(managed: ManagedRabbit) -> None:
    async with _vhost(managed.url) as (vhost, setup):
        Api.send("PUT", "users", "watcher", password="w", tags="monitoring")
        Api.permit(vhost, "watcher", "", "", "")
        management = with_parts(Api.url, scheme="http", login="watcher:w", path="")
        findings = await diagnosed(setup.config, *setup.services, management=management)
    assert (QUEUE, "exists, of the type classic") in {
        (each.subject, each.what) for each in findings
    }


async def test_a_policy_gives_a_delay_queue_its_guarantee(managed: ManagedRabbit) -> None:
    guarantee = {"dead-letter-strategy": "at-least-once", "overflow": "reject-publish"}
    async with _vhost(managed.url, topology=False) as (vhost, setup):
        Api.queue(vhost, DELAYED, **DELAYING)
        Api.policy(vhost, "retry-", **guarantee)

        async def is_fine() -> bool:
            findings = await diagnosed(setup.config, *setup.services, management=Api.url)
            names = {each.name for each in findings}
            assert DELAYED in {each.subject for each in findings}
            return "delays-lose-messages" not in names

        await eventually(is_fine)
