"""
A vhost whose default queue type is quorum, on a RabbitMQ of its own. Nothing in the configuration
asks for quorum queues, and each durable queue is one. No promise depends on who asked.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiorpc import (
    BROADCAST,
    SINGLETON,
    ClusterRpcProxy,
    Queue,
    Retry,
    ServiceContainer,
    consume,
    event_dispatcher,
    event_handler,
    rpc,
    timer,
)
from aiorpc.config import resolve
from aiorpc.transports import open_transport
from aiorpc.transports.base import Outgoing, State, Transport
from aiorpc.wire.message import Message
from tests.chaos.node_shell import NodeShell, binary, set_default_queue_type
from tests.servers import Rabbit
from tests.support.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.rabbitmq, pytest.mark.alone]

QUORUM = {"x-queue-type": "quorum"}
GUARANTEE = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


class Vhost:
    """
    Attributes:
        name: the name of the vhost, and of the service of the test.
        ran: how often each handler ran.
    """

    def __init__(self, name: str, url: str, shell: NodeShell) -> None:
        self.name = name
        self.config = {"AMQP_URI": f"{url}{name}"}
        self.shell = shell
        self.ran = Counter[str]()

    @property
    def events(self) -> str:
        return f"evt-{self.name}-happened--{self.name}.handle"

    def delay_queue(self, source: str = "", **arguments: object) -> Queue:
        source = source or self.events
        after = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": source}
        name = f"{source}.retry-100ms"
        return Queue(name, arguments={"x-message-ttl": 100, **after, **arguments})

    def service(self) -> type:
        ran = self.ran

        class Service:
            name = self.name

            @rpc
            async def add(self, left: int, right: int) -> int:
                return left + right

            @rpc
            async def items(self) -> AsyncIterator[int]:
                for number in range(3):
                    yield number

            @event_handler(name, "happened", retry=Retry(delays=[0.1]))
            async def handle(self, payload: object) -> None:
                ran["handle"] += 1
                raise ValueError("no luck")

            @event_handler(name, "happened", handler_type=SINGLETON)
            async def one(self, payload: object) -> None:
                ran["one"] += 1

            @event_handler(name, "happened", handler_type=BROADCAST, reliable_delivery=False)
            async def each(self, payload: object) -> None:
                ran["each"] += 1

            @event_handler(name, "happened", handler_type=BROADCAST, broadcast_identifier="a")
            async def kept(self, payload: object) -> None:
                ran["kept"] += 1

            @event_handler(name, "happened", reliable_delivery=False)
            async def passing(self, payload: object) -> None:
                ran["passing"] += 1

            @timer(0.1, singleton=True)
            async def tick(self) -> None:
                ran["tick"] += 1

        return Service

    async def everything_works(self, onlooker: Transport) -> None:
        """A service answers, handles events, retries and parks one, and fires its timer."""

        async def parked() -> bool:
            state = await onlooker.inspect(f"{self.events}.parked", 5)
            return state is not None and bool(state.messages)

        once = ("one", "each", "kept", "passing")
        async with (
            ClusterRpcProxy(self.config, timeout=10) as cluster,
            event_dispatcher(self.config) as dispatch,
        ):
            remote: Any = cluster[self.name]
            assert await remote.add(1, 2) == 3
            assert [item async for item in remote.items.stream()] == [0, 1, 2]
            await dispatch(self.name, "happened", 1)
            await eventually(lambda: self.ran["handle"] == 2 and self.ran["tick"] > 1)
            await eventually(lambda: [self.ran[each] for each in once] == [1] * len(once))
            await eventually(parked)


@pytest.fixture(scope="module")
def shell(node: Rabbit) -> NodeShell:
    return NodeShell(node)


@pytest.fixture
async def vhost(node: Rabbit, shell: NodeShell) -> AsyncIterator[Vhost]:
    name, actor = f"default_{secrets.token_hex(4)}", binary("a test")
    every = ", ".join([binary(".*")] * 3)
    user, place = binary("guest"), binary(name)
    permit = f"rabbit_auth_backend_internal:set_permissions({user}, {place}, {every}, {actor})"
    await shell.evaluate(f"rabbit_vhost:add({place}, {actor}), {permit}")
    await set_default_queue_type(shell, name, "quorum")
    yield Vhost(name, node.url, shell)
    await shell.evaluate(f"rabbit_vhost:delete({place}, {actor})")


@pytest.fixture
async def onlooker(vhost: Vhost) -> AsyncIterator[Transport]:
    async with open_transport(resolve(vhost.config), name="a test") as transport:
        yield transport


async def test_every_part_of_a_service_works(
    vhost: Vhost, onlooker: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiorpc")
    async with ServiceContainer(vhost.service(), vhost.config):
        await vhost.everything_works(onlooker)
        # Refused if they exist with other arguments.
        await onlooker.declare(
            queues=[vhost.delay_queue(**GUARANTEE, **{"x-queue-type": "quorum"})]
        )
        unlimited = {"x-queue-type": "quorum", "x-delivery-limit": -1}
        await onlooker.declare(queues=[Queue(f"{vhost.events}.parked", arguments=unlimited)])
    assert "used as it is" not in caplog.text


async def test_delay_queues_of_an_older_aiorpc_are_used_as_they_are(
    vhost: Vhost, onlooker: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    await onlooker.declare(queues=[vhost.delay_queue()])
    caplog.set_level(logging.INFO, "aiorpc")
    async with ServiceContainer(vhost.service(), vhost.config):
        await vhost.everything_works(onlooker)
    assert caplog.text.count("used as it is") == 1
    assert f"queue {vhost.events}.retry-100ms exists with another" in caplog.text


async def test_classic_queues_are_used_as_they_are_and_logged_once(
    vhost: Vhost, shell: NodeShell, onlooker: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    """The default queue type of a vhost changes, while its services run."""
    caplog.set_level(logging.INFO, "aiorpc")
    await set_default_queue_type(shell, vhost.name, "classic")
    async with ServiceContainer(vhost.service(), vhost.config) as container:
        await vhost.everything_works(onlooker)
        await set_default_queue_type(shell, vhost.name, "quorum")
        for _ in range(2):
            vhost.ran.clear()
            changed = asyncio.Queue[State]()
            remove = container.transport.on_state(changed.put_nowait)
            close = f"close_all_user_connections({binary('guest')}, {binary('a test')})"
            await shell.evaluate(f"rabbit_networking:{close}")
            assert await changed.get() is State.CONNECTING
            remove()
            await vhost.everything_works(onlooker)
    lines = Counter(each for each in caplog.messages if "used as it is" in each)
    assert set(lines.values()) == {1}
    assert len(lines) == 5, lines  # calls, three handlers, the last tick


async def test_queues_beside_a_queue_have_its_type_whatever_the_default_is(
    vhost: Vhost, onlooker: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    """A queue without a limit of looks and without a guarantee would lose messages."""
    classic, limited = f"{vhost.name}.classic", f"{vhost.name}.limited"
    passing = f"evt-{vhost.name}-happened--{vhost.name}.passing"

    class Service:
        name = vhost.name

        @event_handler(name, "happened", reliable_delivery=False, retry=Retry(delays=[0.1]))
        async def passing(self, payload: object) -> None:
            raise ValueError("no luck")

        @consume(Queue(classic, arguments={"x-queue-type": "classic"}), retry=Retry(delays=[0.1]))
        async def of_classic(self, payload: object) -> None:
            raise ValueError("no luck")

        @consume(Queue(limited, arguments={"x-max-length": 9}), retry=Retry(delays=[0.1]))
        async def of_limited(self, payload: object) -> None:
            raise ValueError("no luck")

    caplog.set_level(logging.INFO, "aiorpc")
    async with ServiceContainer(Service, vhost.config), event_dispatcher(vhost.config) as dispatch:
        await dispatch(vhost.name, "happened", 1)
        for name in (classic, limited):
            await onlooker.publish(
                Outgoing(exchange="", routing_key=name, message=Message(body=b"1")), PATIENCE
            )
        await eventually(lambda: caplog.text.count("is parked in queue") == 3)
        for name, arguments in ((passing, {}), (classic, {}), (limited, QUORUM)):
            unlimited = {"x-delivery-limit": -1} if arguments else {}
            guarantee = GUARANTEE if arguments else {}
            kind = {"x-queue-type": "classic", **arguments}
            await onlooker.declare(
                queues=[
                    Queue(f"{name}.parked", arguments={**kind, **unlimited}),
                    vhost.delay_queue(name, **kind, **guarantee),
                ]
            )
    assert "used as it is" not in caplog.text
