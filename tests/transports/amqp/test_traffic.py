"""
A busy connection to RabbitMQ: what may not be mixed is not mixed,
who has to wait waits within their time, and the end of the connection lets everybody go.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Iterator
from typing import Any

import aiormq
import pamqp.commands as spec
import pytest

from aiorpc import ClusterRpcProxy, RpcTimeout, ServiceContainer, rpc
from aiorpc.exceptions import ConnectionLost
from aiorpc.transports.base import Delivery, State
from tests.support.amqp import connected, from_broker, through_proxy
from tests.support.amqp_proxy import proxied
from tests.support.breakable import reaches
from tests.support.transports import Bench, Inbox, Outcome, to
from tests.support.waiting import eventually

PATIENCE = 5.0

METHOD, HEADER, BODY = 1, 2, 3
PUBLISH = spec.Basic.Publish.index.to_bytes(4, "big")
ACK = spec.Basic.Ack.index.to_bytes(4, "big")


def frames(sent: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, channel and payload of each whole frame that a client sent."""
    at = len(b"AMQP\0\0\x09\x01")
    while at + 7 < len(sent):
        kind, channel, size = struct.unpack_from(">BHI", sent, at)
        payload = sent[at + 7 : at + 7 + size]
        at += size + 8
        if at <= len(sent):
            yield kind, channel, payload


def contents(sent: bytes) -> list[bytes]:
    """The bodies that a client published; each has to stand in one piece on its channel."""
    found: list[bytes] = []
    owed: dict[int, int | None] = {}  # bytes of body; None before the header
    bodies: dict[int, bytes] = {}
    for kind, channel, payload in frames(sent):
        if kind == METHOD:
            assert channel not in owed, "a method stands in the middle of a message"
            if payload.startswith(PUBLISH):
                owed[channel], bodies[channel] = None, b""
        elif kind == HEADER:
            assert owed.pop(channel) is None
            owed[channel] = int.from_bytes(payload[4:12], "big")
        elif kind == BODY:
            bodies[channel] += payload
            owed[channel] = (owed[channel] or 0) - len(payload)
        if owed.get(channel) == 0:
            del owed[channel]
            found.append(bodies.pop(channel))
    assert not owed
    return found


async def test_nothing_stands_in_the_middle_of_a_message(bench: Bench) -> None:
    """Answers, acks and aiormq's own methods share a channel; large bodies take many frames."""
    async with through_proxy(bench.config) as (proxy, transport), connected(bench.config) as other:
        requests, replies, answers = bench.queue(), bench.queue(), Inbox()
        await other.subscribe(replies, answers)
        answered: list[Delivery] = []

        def received(delivery: Delivery) -> None:
            number = int(delivery.message.body)
            if number % 3:
                delivery.answer(to(replies, bytes([number]) * (300_000 if number % 2 else 5)))
            else:
                delivery.ack()
            answered.append(delivery)

        subscription = await transport.subscribe(requests, received, prefetch=4)
        large = [bytes([100 + number]) * 300_000 for number in range(10)]
        await asyncio.gather(
            *(other.publish(to(requests, str(number).encode())) for number in range(40)),
            *(transport.publish(to(replies, body, mandatory=True), PATIENCE) for body in large),
            *(transport.inspect(bench.name(), PATIENCE) for _ in range(5)),
        )
        await eventually(lambda: len(answered) == 40)
        await subscription.cancel()
        expected = [bytes([n]) * (300_000 if n % 2 else 5) for n in range(40) if n % 3] + large
        assert sorted(await answers.bodies(len(expected))) == sorted(expected)
        assert sorted(contents(proxy.sent)) == sorted(expected)
        assert any(payload.startswith(ACK) for _, _, payload in frames(proxy.sent))


async def test_aiormqs_watchdog_lives_on_what_it_is_fed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ sends no heartbeats while it has something to say, and the lane takes all of it."""
    # aiormq would give up after six seconds of hearing nothing: now after two.
    monkeypatch.setattr(aiormq.Connection, "HEARTBEAT_GRACE_MULTIPLIER", 1)
    states: list[State] = []
    async with connected(bench.config, HEARTBEAT=1) as transport:
        queue, inbox = bench.queue(), Inbox()
        await transport.subscribe(queue, inbox)
        stop_listening = transport.on_state(states.append)
        loop = asyncio.get_running_loop()
        end = loop.time() + 4
        while loop.time() < end:
            await transport.publish(to(queue), PATIENCE)
            await inbox.next()
        stop_listening()
    assert states == []


@pytest.mark.alone  # milliseconds count
async def test_callers_wait_within_their_deadline_while_the_socket_takes_no_more(
    bench: Bench,
) -> None:
    class Service:
        name = bench.name()

        @rpc
        async def size(self, text: str) -> int:
            return len(text)

    bench.queues.append(f"rpc-{Service.name}")
    async with (
        ServiceContainer(Service, bench.config),
        proxied(bench.config["AMQP_URI"]) as proxy,
        ClusterRpcProxy({**bench.config, "AMQP_URI": proxy.url}, timeout=20) as cluster,
    ):
        size = cluster[Service.name].size
        assert await size("first") == 5
        proxy.reading.clear()
        # More than the kernel's buffers hold, and then what may wait in ours.
        filling = [size.call_async("x" * 1_000_000) for _ in range(20)]
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(RpcTimeout, match="takes no more data"):
            await size.with_options(timeout=0.3)("too late to be sent")
        assert 0.29 < loop.time() - started < 0.5
        patient = asyncio.create_task(size("patient"))
        await asyncio.sleep(0)
        assert not patient.done()
        proxy.reading.set()
        assert await patient == len("patient")
        assert [await reply for reply in filling] == [1_000_000] * 20
        assert b"patient" in proxy.sent
        assert b"too late to be sent" not in proxy.sent


@pytest.mark.parametrize("how", ["hung up", "closed by the broker"])
async def test_the_end_of_a_connection_lets_everybody_go_who_waits(bench: Bench, how: str) -> None:
    """Far sooner than by their own patience with a broker that says nothing."""
    async with through_proxy(bench.config) as (proxy, transport):
        queue, declared, subscribed, looked_at = (bench.queue() for _ in range(4))
        subscription = await transport.subscribe(queue, Inbox())
        await transport.publish(to(queue), PATIENCE)
        proxy.muted = True  # what the broker answers from here on is lost

        async def outcome(doing: Awaitable[Any]) -> Any:
            try:
                return await doing
            except ConnectionLost as error:
                return error

        doing = {
            "publish": transport.publish(to(queue, b"unanswered")),
            "declare": transport.declare(queues=[declared]),
            "subscribe": transport.subscribe(subscribed, Inbox()),
            "inspect": transport.inspect(looked_at.name, 60),
            "cancel": subscription.cancel(),
        }
        tasks = {what: asyncio.create_task(outcome(each)) for what, each in doing.items()}
        await eventually(lambda: b"unanswered" in proxy.sent)
        assert not tasks["publish"].done()
        assert not tasks["declare"].done()
        assert not tasks["subscribe"].done()
        proxy.muted = False
        if how == "hung up":
            proxy.hang_up()
        else:
            close = spec.Connection.Close(
                reply_code=320, reply_text="CONNECTION_FORCED", class_id=0, method_id=0
            )
            proxy.inject(from_broker(close))
        async with asyncio.timeout(PATIENCE):
            outcomes = {what: await task for what, task in tasks.items()}
        assert isinstance(outcomes["publish"], ConnectionLost)
        assert outcomes["declare"] == ()  # done again on the next connection
        assert outcomes["inspect"] is None
        await transport.publish(to(subscribed, mandatory=True), PATIENCE)
        await transport.publish(to(declared, mandatory=True), PATIENCE)


async def test_the_end_of_a_connection_lets_those_go_who_wait_for_it_to_drain(bench: Bench) -> None:
    async with through_proxy(bench.config) as (proxy, transport):
        queue, outcome = bench.queue(), Outcome()
        await transport.declare(queues=[queue])
        proxy.reading.clear()
        sent = 0
        while not transport.congested:
            transport.send(to(queue, bytes(100_000), settled=outcome))
            sent += 1
        drained = asyncio.create_task(transport.drained())
        await asyncio.sleep(0)
        assert not drained.done()
        proxy.hang_up()
        async with asyncio.timeout(PATIENCE):
            await drained
        assert [type(error) for error in await outcome.all(sent)] == [ConnectionLost] * sent
        proxy.reading.set()
        await reaches(transport, State.CONNECTED)
        await transport.publish(to(queue, mandatory=True), PATIENCE)
