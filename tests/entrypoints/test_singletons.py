"""``singleton=True``: one instance fires each tick. Over every transport."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from aiorpc import ServiceContainer, cron, timer
from aiorpc.config import resolve
from aiorpc.entrypoints import singletons
from aiorpc.exceptions import ConfigurationError
from aiorpc.transports import open_transport
from aiorpc.transports.base import Transport
from aiorpc.wire.message import Message
from aiorpc.wire.names import singleton_right, singleton_ticks
from tests.support.breakable import Link, breakable
from tests.support.transports import Inbox, Outgoing, holds
from tests.support.waiting import eventually

#: An interval with few runs before a test looks, and many within its patience.
SHORT = 0.05
#: An interval without a tick during a test, except a late one.
LONG = 7200.0


@dataclass
class Cluster:
    """Instances of a service with one singleton method, and what they ran."""

    config: dict[str, Any]
    stack: AsyncExitStack
    name: str = field(default_factory=lambda: f"singleton_{uuid.uuid4().hex[:8]}")
    #: The instance of each run.
    runs: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def service(self, instance: str, entrypoint: Any) -> type:
        class Service:
            name = self.name

            @entrypoint
            async def method(service) -> None:
                self.runs.append(instance)
                self.running.add(instance)
                await self.go_on.wait()
                self.running.discard(instance)

        return Service

    async def start(
        self, instance: str, entrypoint: Any = None, transport: Transport | None = None
    ) -> ServiceContainer:
        service = self.service(instance, entrypoint or timer(SHORT, singleton=True))
        container = ServiceContainer(service, self.config, transport=transport)
        await container.start()
        self.stack.push_async_callback(container.stop)
        return container

    async def link(self) -> Link:
        link = await self.stack.enter_async_context(breakable(self.config))
        await link.transport.start(5)
        return link

    async def record(self, *bodies: bytes, kind: str = "timer") -> None:
        """Put messages into the queue of the last tick."""
        queue = singleton_ticks(f"{kind}-{self.name}.method")
        async with open_transport(resolve(self.config)) as transport:
            await transport.declare(queues=[queue])
            for body in bodies:
                message = Message(body=body)
                await transport.publish(
                    Outgoing(exchange="", routing_key=queue.name, message=message)
                )

    async def recorded(self, transport: Transport, kind: str = "timer") -> float:
        """Return the recorded tick."""
        inbox = Inbox(ack=False)
        queue = singleton_ticks(f"{kind}-{self.name}.method")
        async with await transport.subscribe(queue, inbox, prefetch=1):
            delivery = await inbox.next()
        delivery.requeue()
        tick: float = json.loads(delivery.message.body)["tick"]
        return tick

    async def ran(self, *instances: str) -> None:
        """Wait until the next runs were in *instances*."""
        begin = len(self.runs)
        await eventually(lambda: set(self.runs[begin:]) >= {*instances})


@pytest.fixture
async def cluster(
    broker_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cluster]:
    monkeypatch.setattr(singletons, "ASK_EVERY", 0.05)
    async with AsyncExitStack() as stack:
        anchor = await stack.enter_async_context(open_transport(resolve(broker_config)))
        cluster = Cluster(broker_config, stack)
        cluster.go_on.set()
        stack.push_async_callback(_delete, anchor, cluster.name)
        yield cluster


async def _delete(transport: Transport, name: str) -> None:
    for kind in ("timer", "cron"):
        for end in ("", "-2"):
            await transport.delete(singleton_ticks(f"{kind}-{name}.method{end}").name)


async def test_one_instance_fires_and_another_takes_over_when_it_stops(cluster: Cluster) -> None:
    first = await cluster.start("first")
    await cluster.ran("first")
    await cluster.start("second")
    third = await cluster.start("third")
    await cluster.ran("first")
    assert {*cluster.runs} == {"first"}
    await first.stop()
    await eventually(lambda: {*cluster.runs} > {"first"})
    (heir,) = {*cluster.runs} - {"first"}
    await cluster.ran(heir)
    assert cluster.runs == sorted(cluster.runs, key=["first", heir].index)
    assert third.health().ok


async def test_two_instances_on_one_connection_fire_once(cluster: Cluster) -> None:
    link = await cluster.link()
    first = await cluster.start("first", transport=link.transport)
    await cluster.start("second", transport=link.transport)
    await eventually(lambda: len(cluster.runs) > 3)
    assert len({*cluster.runs}) == 1
    (holder,) = {*cluster.runs}
    if holder == "first":
        await first.stop()
        await cluster.ran("second")


async def test_ticks_are_at_multiples_of_the_interval_and_each_is_fired_once(
    cluster: Cluster,
) -> None:
    begin = time.time()
    for instance in ("first", "second", "third"):
        await cluster.start(instance)
    await eventually(lambda: len(cluster.runs) > 5)
    assert len(cluster.runs) <= (time.time() - begin) / SHORT + 1


async def test_an_instance_that_loses_its_connection_loses_the_right(cluster: Cluster) -> None:
    link = await cluster.link()
    await cluster.start("first", transport=link.transport)
    await cluster.ran("first")
    await cluster.start("second")
    await link.cut()
    await cluster.ran("second")
    lost = len(cluster.runs)
    link.heal()
    await link.reconnected()
    await cluster.ran("second")
    await cluster.ran("second")
    assert "first" not in cluster.runs[lost:]


async def test_a_connection_that_is_lost_during_a_run_starts_no_run_of_the_same_tick(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aiorpc.singleton")
    cluster.go_on.clear()
    link = await cluster.link()
    tick = timer(LONG, eager=True, singleton=True)
    await cluster.start("first", tick, transport=link.transport)
    await eventually(lambda: cluster.running)
    await link.break_connection()
    await link.reconnected()
    await cluster.start("second", tick)
    cluster.go_on.set()
    await eventually(lambda: not cluster.running)
    await eventually(lambda: caplog.text.count("holds the right") == 2)
    await asyncio.sleep(2 * SHORT)  # a wrong run would start at once
    assert cluster.runs == ["first"]


async def test_a_holder_without_an_answer_does_not_fire_and_another_fires_the_tick(
    cluster: Cluster,
) -> None:
    """As a process that was paused: its connection looks open, and the broker has given it up."""
    link = await cluster.link()
    await cluster.start("first", transport=link.transport)
    await cluster.ran("first")
    await cluster.start("second")
    link.mute()
    await asyncio.sleep(2 * SHORT)  # a tick passes
    fired = len(cluster.runs)
    await asyncio.sleep(2 * SHORT)  # another one, which nobody may fire
    assert len(cluster.runs) == fired
    await link.cut()
    await cluster.ran("second")
    link.heal()
    await link.reconnected()
    assert "first" not in cluster.runs[fired:]


async def test_the_tick_is_recorded_before_the_method_runs(cluster: Cluster) -> None:
    cluster.go_on.clear()
    begin = time.time()
    await cluster.start("first", timer(LONG, eager=True, singleton=True))
    await eventually(lambda: cluster.running)
    reader = await cluster.link()
    tick = await cluster.recorded(reader.transport)
    assert tick % LONG == 0
    assert begin - LONG < tick <= time.time()
    cluster.go_on.set()


async def test_an_eager_timer_fires_at_once_only_if_no_instance_fired_before(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aiorpc.singleton")
    tick = timer(LONG, eager=True, singleton=True)
    first = await cluster.start("first", tick)
    await cluster.ran("first")
    await cluster.start("second", tick)
    await first.stop()
    await eventually(lambda: caplog.text.count("holds the right") == 2)
    await asyncio.sleep(2 * SHORT)  # a wrong run would start at once
    assert cluster.runs == ["first"]


async def test_the_right_is_kept_until_the_run_of_a_stopping_instance_ends(
    cluster: Cluster,
) -> None:
    cluster.go_on.clear()
    first = await cluster.start("first")
    await eventually(lambda: cluster.running)
    await cluster.start("second")
    stopping = asyncio.ensure_future(first.stop())
    await asyncio.sleep(4 * SHORT)  # in which the second instance asks, and ticks pass
    assert cluster.runs == ["first"]
    cluster.go_on.set()
    await stopping
    await cluster.ran("second")


async def test_ticks_during_a_long_run_become_one_run_at_its_end(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.go_on.clear()
    await cluster.start("first")
    await eventually(lambda: cluster.running)
    await asyncio.sleep(4 * SHORT)  # at least three ticks pass
    cluster.go_on.set()
    await eventually(lambda: len(cluster.runs) == 2, 1)
    assert "tick(s) skipped until" in caplog.text


def ticks_of_method(catch_up: bool) -> Any:
    return cron("0 0 * * *", singleton=True, catch_up=catch_up)


async def test_ticks_that_nobody_could_fire_are_skipped_and_counted(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.record(json.dumps({"tick": time.time() - 86400 * 5}).encode(), kind="cron")
    await cluster.start("first", ticks_of_method(catch_up=False))
    await eventually(lambda: "5 tick(s) skipped" in caplog.text)
    assert cluster.runs == []


async def test_a_cron_that_catches_up_fires_once_for_all_of_them(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.record(json.dumps({"tick": time.time() - 86400 * 5}).encode(), kind="cron")
    caplog.set_level("INFO", "aiorpc.singleton")
    first = await cluster.start("first", ticks_of_method(catch_up=True))
    await cluster.ran("first")
    assert "4 tick(s) skipped" in caplog.text
    await first.stop()
    caplog.clear()
    await cluster.start("second", ticks_of_method(catch_up=True))
    await eventually(lambda: "holds the right" in caplog.text)
    await asyncio.sleep(2 * SHORT)  # a wrong run would start at once
    assert cluster.runs == ["first"]
    reader = await cluster.link()
    assert await cluster.recorded(reader.transport, "cron") % 86400 == 0


async def test_no_tick_is_fired_at_or_before_the_recorded_one(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Because the clock of the last holder may be ahead of ours."""
    ahead = time.time() + 600
    await cluster.record(json.dumps({"tick": ahead}).encode())
    await cluster.start("first")
    await eventually(lambda: "is 600 s ahead of the clock" in caplog.text)
    reader = await cluster.link()
    assert await cluster.recorded(reader.transport) == ahead
    assert cluster.runs == []


async def test_messages_that_are_no_ticks_are_deleted(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    bodies = (b"", b"{}", b"[]", b"\xff", b'{"tick": "soon"}', b'{"tick": NaN}', b'{"tick": 1e300}')
    # Without the argument, the queue keeps all of them: an operator may declare it so.
    queue = singleton_ticks(f"timer-{cluster.name}.method")
    link = await cluster.link()
    await link.transport.declare(queues=[type(queue)(queue.name)])
    await cluster.record(*bodies)
    await cluster.start("first")
    await cluster.ran("first")
    assert caplog.text.count("is no tick") == len(bodies)


async def test_a_quorum_queue_keeps_the_last_tick_over_many_holders(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A quorum queue of RabbitMQ 4 drops a message after 20 deliveries."""
    link = await cluster.link()
    queue = singleton_ticks(f"cron-{cluster.name}.method")
    quorum = type(queue)(queue.name, arguments={"x-queue-type": "quorum"})
    await link.transport.declare(queues=[quorum])
    tick = time.time() // 86400 * 86400
    await cluster.record(json.dumps({"tick": tick}).encode(), kind="cron")
    caplog.set_level("INFO", "aiorpc.singleton")
    for number in range(22):
        container = await cluster.start("first", ticks_of_method(catch_up=False))
        await eventually(lambda count=number: caplog.text.count("holds the right") > count)
        await container.stop()
    assert await cluster.recorded(link.transport, "cron") == tick


async def test_two_singletons_on_one_method_have_two_rights(cluster: Cluster) -> None:
    def both(method: Any) -> Any:
        return timer(SHORT, singleton=True)(timer(LONG, eager=True, singleton=True)(method))

    await cluster.start("first", both)
    other = await cluster.link()
    rights = [singleton_right(f"timer-{cluster.name}.method{end}") for end in ("", "-2")]

    async def are_held() -> bool:
        return all([await other.transport.claim(right) is None for right in rights])

    await eventually(are_held)
    await holds(other.transport, singleton_ticks(f"timer-{cluster.name}.method-2"), 1)


async def test_a_deleted_queue_of_the_last_tick_is_declared_again(cluster: Cluster) -> None:
    await cluster.start("first")
    await cluster.ran("first")
    other = await cluster.link()
    await other.transport.delete(singleton_ticks(f"timer-{cluster.name}.method").name)
    fired = len(cluster.runs)
    await eventually(lambda: len(cluster.runs) > fired + 2)


@pytest.mark.parametrize("catch_up", [True, False])
async def test_a_service_stops_while_it_waits_for_the_broker(
    cluster: Cluster, catch_up: bool
) -> None:
    link = await cluster.link()
    container = await cluster.start("first", ticks_of_method(catch_up), transport=link.transport)
    await link.cut()
    async with asyncio.timeout(5):
        await container.stop()


def test_an_unknown_option_of_a_timer_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="singleton"):
        timer(5, singelton=True)
