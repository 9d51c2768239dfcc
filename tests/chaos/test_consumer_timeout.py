"""
A method that runs longer than the broker's `consumer_timeout`. RabbitMQ before 4.3 closes the
channel, and redelivers all its requests. RabbitMQ 4.3 cancels the consumer of a quorum queue, and
redelivers the late request only.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack

import aio_pika
import pytest

from aiorpc import ClusterRpcProxy, ServiceContainer, rpc
from tests.servers import Rabbit

pytestmark = [pytest.mark.rabbitmq, pytest.mark.alone, pytest.mark.long]

#: Seconds of the broker's timeout, and of a method that ends before a second timeout.
TIMEOUT, LONG = 1.0, 1.6


@pytest.fixture
def impatient(node: Rabbit) -> Iterator[Rabbit]:
    """The broker, with a short `consumer_timeout` that it checks often."""

    def set_times(timeout: float, tick: float) -> None:
        times = {"consumer_timeout": timeout, "channel_tick_interval": tick}
        setting = ", ".join(
            f"application:set_env(rabbit, {name}, {int(seconds * 1000)})"
            for name, seconds in times.items()
        )
        node.ctl("eval", f"{setting}.")

    set_times(TIMEOUT, 0.2)
    yield node
    set_times(1800.0, 60.0)


async def test_neighbours_of_a_late_method_run_once_in_a_process(
    impatient: Rabbit, caplog: pytest.LogCaptureFixture
) -> None:
    name_, runs = f"late_{secrets.token_hex(4)}", Counter[tuple[int, int]]()

    def service(server: int) -> type:
        class Service:
            name = name_

            @rpc
            async def work(self, number: int, hold: float) -> int:
                runs[server, number] += 1
                await asyncio.sleep(hold)  # the time that the method takes
                return number

        return Service

    async with await aio_pika.connect(impatient.url) as connection:
        arguments = {"x-queue-type": "quorum"}
        channel = await connection.channel()
        await channel.declare_queue(f"rpc-{name_}", durable=True, arguments=arguments)
    config = {"AMQP_URI": impatient.url}
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(ClusterRpcProxy(config, timeout=20))
        for server in range(2):
            await stack.enter_async_context(ServiceContainer(service(server), config))
        work = cluster[name_].work

        async def flow(first: int) -> list[int]:
            return [await work(number, 0.15) for number in range(first, first + 20)]

        late = work.call_async(-1, LONG)
        flows = await asyncio.gather(*(flow(each * 100) for each in range(1, 11)))
        assert await late.result() == -1
    assert sum(map(len, flows)) == 200
    assert set(runs.values()) == {1}
    assert "consumer_timeout" in caplog.text
