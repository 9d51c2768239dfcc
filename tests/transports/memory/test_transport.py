"""What only ``memory://`` does; the contract of every transport has its own folder."""

from __future__ import annotations

import asyncio
import gc
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from aiorpc.exceptions import ConfigurationError, ConnectionLost, Unroutable
from aiorpc.testing.connections import cut
from aiorpc.transports.base import Delivery, Outgoing, State
from aiorpc.transports.memory import transport as module
from aiorpc.transports.memory.broker import MemoryBroker
from aiorpc.transports.memory.transport import MemoryTransport
from aiorpc.wire.message import Exchange, Message, Queue
from tests.support.waiting import eventually


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def to(queue: str, body: bytes = b"", **options: Any) -> Outgoing:
    return Outgoing(exchange="", routing_key=queue, message=Message(body=body), **options)


async def turns(count: int = 3) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_transports_of_one_name_share_a_broker(name: str) -> None:
    async with (
        MemoryTransport(name) as one,
        MemoryTransport(name) as same,
        MemoryTransport(f"{name}-other") as other,
    ):
        await one.declare(queues=[Queue("q")])
        await same.publish(to("q", mandatory=True))
        with pytest.raises(Unroutable):
            await other.publish(to("q", mandatory=True))


async def test_the_broker_ends_with_its_last_transport(name: str) -> None:
    async with MemoryTransport(name) as first, MemoryTransport(name) as second:
        await first.declare(queues=[Queue("q")])
        await first.aclose()
        assert (await second.inspect("q")) is not None
        broker = second.broker
        assert set(broker.queues) == {"q"}
    assert broker.queues == {}
    with pytest.raises(ConnectionLost):
        _ = second.broker
    async with MemoryTransport(name) as third:
        state = await third.inspect("q")
        assert state is not None
        assert not state.exists


def test_a_name_in_use_in_another_event_loop_is_a_configuration_error(name: str) -> None:
    async def refused() -> None:
        transport = MemoryTransport(name)
        with pytest.raises(ConfigurationError, match="another event loop of this process"):
            await transport.start()
        assert transport.state is State.CLOSED

    async def elsewhere() -> None:
        async with MemoryTransport(name):
            await asyncio.to_thread(asyncio.run, refused())

    asyncio.run(elsewhere())
    asyncio.run(elsewhere())  # loops that ended do not count


async def test_a_closed_transport_leaves_no_broker_task_or_timer(name: str) -> None:
    loop = asyncio.get_running_loop()

    async def use() -> weakref.ref[MemoryBroker]:
        transport, other = MemoryTransport(name), MemoryTransport(name)
        await transport.start()
        await other.start()
        came = asyncio.Event()

        def received(delivery: Delivery) -> None:
            came.set()  # and it stays unacked

        await other.subscribe(Queue("consumed", Exchange("x", "fanout")), received, prefetch=1)
        await other.declare(queues=[Queue("expiring", expires=3600.0)])
        for queue in ("consumed", "expiring"):
            for _ in range(3):
                late = to(queue, expires_at=loop.time() + 3600)
                late.message.expiration = 3_600_000
                transport.send(late)
        await came.wait()
        cut(transport)
        transport.send(to("consumed", expires_at=loop.time() + 3600))
        broker = weakref.ref(other.broker)
        await transport.aclose()
        await other.aclose()
        return broker

    gc.collect()
    tasks = asyncio.all_tasks()
    broker = await use()
    gc.collect()
    assert broker() is None
    assert asyncio.all_tasks() == tasks
    timers = [handle for handle in getattr(loop, "_scheduled", ()) if not handle.cancelled()]
    assert [handle for handle in timers if handle.when() > loop.time() + 1800] == []


async def test_closing_is_bounded_while_senders_never_pause(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT", 0.1)
    transport = MemoryTransport(name)

    async def send() -> None:
        while True:
            await transport.publish(to("missing"))

    senders = [asyncio.create_task(send()) for _ in range(500)]
    await asyncio.sleep(0)
    await transport.start()
    async with asyncio.timeout(5):
        # The second call waits for the first one.
        first = asyncio.create_task(transport.aclose())
        await asyncio.sleep(0)
        await transport.aclose()
        assert transport.state is State.CLOSED
        await first
        ended = await asyncio.gather(*senders, return_exceptions=True)
    assert {type(error) for error in ended} == {ConnectionLost}


async def test_a_transport_that_was_never_closed_can_be_collected(name: str) -> None:
    transport = MemoryTransport(name)
    await transport.start()
    await transport.subscribe(Queue("q"), lambda delivery: None)
    broker = weakref.ref(transport.broker)
    del transport
    gc.collect()
    assert broker() is None


async def test_messages_and_answers_wait_while_the_broker_is_blocked(
    name: str,
) -> None:
    async with MemoryTransport(name) as client, MemoryTransport(name) as server:
        states: list[State] = []
        client.on_state(states.append)
        requests: list[Delivery] = []
        replies: list[Delivery] = []
        settled: list[Any] = []
        await server.subscribe(Queue("requests"), requests.append, prefetch=1)
        await client.subscribe(Queue("replies"), replies.append)
        await client.publish(to("requests", b"1"))
        await client.publish(to("requests", b"2"))
        await turns()
        server.broker.set_blocked(True)
        assert (client.state, server.state) == (State.BLOCKED, State.BLOCKED)
        client.send(to("requests", b"3", settled=settled.append))
        at = asyncio.get_running_loop().time() + 0.01
        client.send(to("requests", b"late", settled=settled.append, expires_at=at))
        requests[0].answer(to("replies", b"one", confirm=False))
        await eventually(lambda: settled)  # by then the message that expires has expired
        assert (len(requests), replies) == (1, [])
        assert [type(error) for error in settled] == [ConnectionLost]
        server.broker.set_blocked(False)
        await turns()
        assert [each.message.body for each in replies] == [b"one"]
        assert [each.message.body for each in requests] == [b"1", b"2"]
        assert settled[1:] == [None]
        assert states == [State.BLOCKED, State.CONNECTED]
        # A transport that connects while the broker is blocked is blocked too.
        server.broker.set_blocked(True)
        async with MemoryTransport(name) as late:
            assert late.state is State.BLOCKED


async def test_an_answer_held_while_blocked_is_sent_after_a_lost_connection(
    name: str,
) -> None:
    async with MemoryTransport(name) as client, MemoryTransport(name) as server:
        requests: list[Delivery] = []
        replies: list[Delivery] = []
        await server.subscribe(Queue("requests"), requests.append)
        await client.subscribe(Queue("replies"), replies.append)
        await client.publish(to("requests"))
        await turns()
        server.broker.set_blocked(True)
        requests[0].answer(to("replies", b"answer"))
        cut(server)()
        assert server.state is State.BLOCKED
        client.broker.set_blocked(False)
        await turns()
        assert [each.message.body for each in replies] == [b"answer"]
        assert [each.redelivered for each in requests] == [False, True]


async def test_a_flood_of_messages_lets_other_tasks_run(name: str) -> None:
    async with MemoryTransport(name) as transport:
        came = 0

        def received(delivery: Delivery) -> None:
            nonlocal came
            came += 1
            delivery.ack()
            transport.send(to("q"))  # for ever

        await transport.subscribe(Queue("q"), received)
        for _ in range(1000):
            transport.send(to("q"))
        seen = []
        for _ in range(5):
            await asyncio.sleep(0)
            seen.append(came)
        steps = [after - before for before, after in zip([0, *seen], seen, strict=False)]
        assert 0 < max(steps) <= 256


async def test_expired_dead_letters_do_not_circulate(name: str) -> None:
    round_trip = {"x-dead-letter-exchange": "", "x-message-ttl": 0}
    async with MemoryTransport(name) as transport:
        await transport.declare(
            queues=[
                Queue("a", arguments={**round_trip, "x-dead-letter-routing-key": "b"}),
                Queue("b", arguments={**round_trip, "x-dead-letter-routing-key": "a"}),
            ]
        )
        await transport.publish(to("a", b"dizzy"))
        assert [len(queue.ready) for queue in transport.broker.queues.values()] == [0, 0]


async def test_a_rejected_message_circulates_through_a_waiting_queue(
    name: str,
) -> None:
    async with MemoryTransport(name) as transport:
        came: asyncio.Queue[Delivery] = asyncio.Queue()
        back = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "work"}
        aside = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "wait"}
        await transport.declare(queues=[Queue("wait", arguments={**back, "x-message-ttl": 1})])
        await transport.subscribe(Queue("work", arguments=aside), came.put_nowait)
        await transport.publish(to("work"))
        for attempt in range(4):
            delivery = await asyncio.wait_for(came.get(), 5)
            deaths = (delivery.message.headers or {}).get("x-death", [])
            assert [(each["queue"], each["count"]) for each in deaths] == [
                ("wait", attempt),
                ("work", attempt),
            ][: 2 * bool(attempt)]
            delivery.reject(requeue=False)


async def test_an_invalid_x_death_header_is_replaced(name: str) -> None:
    async with MemoryTransport(name) as transport:
        dead: asyncio.Queue[Delivery] = asyncio.Queue()
        await transport.subscribe(Queue("dead"), dead.put_nowait)
        grave = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
        await transport.declare(queues=[Queue("q", arguments={**grave, "x-message-ttl": 0})])
        outgoing = to("q")
        outgoing.message.headers = {"x-death": ["made", {"up": 1}]}
        await transport.publish(outgoing)
        headers = (await asyncio.wait_for(dead.get(), 5)).message.headers or {}
        assert [death["queue"] for death in headers["x-death"]] == ["q"]


async def test_arguments_without_effect_and_transient_queues_are_logged(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with MemoryTransport(name) as transport:
        await transport.declare(queues=[Queue("a", arguments={"x-max-length-bytes": 10})])
        assert "x-max-length-bytes has no effect" in caplog.text
        await transport.declare(queues=[Queue("b", durable=False)])
        assert "neither durable nor exclusive" in caplog.text
        caplog.clear()
        await transport.declare(queues=[Queue("c", arguments={"x-queue-type": "quorum"})])
        await transport.declare(queues=[Queue("a", arguments={"x-max-length-bytes": 10})])
        assert caplog.text == ""


async def test_reserved_and_empty_names_are_configuration_errors(name: str) -> None:
    async with MemoryTransport(name) as transport:
        there = Exchange("amq.topic", "topic")
        await transport.declare([there], [Queue("q", there, "#")])
        with pytest.raises(ConfigurationError, match="amq"):
            await transport.declare([Exchange("amq.mine")])
        with pytest.raises(ConfigurationError, match="no name"):
            await transport.declare(queues=[Queue("")])


async def test_what_cannot_be_restored_is_logged_and_the_rest_is_restored(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with MemoryTransport(name) as transport, MemoryTransport(name) as other:
        came = asyncio.Event()

        def arguments(reconnects: int) -> dict[str, Any]:
            if reconnects:
                raise RuntimeError("no arguments")
            return {}

        await transport.subscribe(Queue("taken"), lambda delivery: None)
        await transport.subscribe(Queue("bad"), lambda delivery: None, arguments=arguments)
        await transport.subscribe(Queue("good"), lambda delivery: came.set())
        restore = cut(transport)
        await other.delete("taken")
        await other.declare(queues=[Queue("taken", auto_delete=True)])
        restore()
        assert "auto_delete" in caplog.text
        assert "no arguments" in caplog.text
        await other.publish(to("good"))
        await asyncio.wait_for(came.wait(), 5)


async def test_a_handler_may_cut_block_or_raise(name: str) -> None:
    """Cancelling, deleting, breaking the connection and closing, each inside a delivery."""
    async with MemoryTransport(name) as keeper:
        for deed in ("drop", "block", "raise"):
            async with MemoryTransport(name) as transport:
                came: list[bytes] = []
                cuts: list[Callable[[], None]] = []

                def received(
                    delivery: Delivery,
                    deed: str = deed,
                    transport: MemoryTransport = transport,
                    came: list[bytes] = came,
                    cuts: list[Callable[[], None]] = cuts,
                ) -> None:
                    came.append(delivery.message.body)
                    if len(came) == 2:
                        if deed == "drop":
                            cuts.append(cut(transport))
                        elif deed == "block":
                            transport.broker.set_blocked(True)
                        else:
                            raise RuntimeError("deed")
                    delivery.ack()

                queue = f"q-{deed}"
                await transport.subscribe(Queue(queue), received)
                for body in (b"a", b"b", b"c"):
                    keeper.send(to(queue, body))
                await turns()
                keeper.broker.set_blocked(False)
                for restore in cuts:
                    restore()
                await turns()
                expected = {"drop": [b"a", b"b", b"b", b"c"]}.get(deed, [b"a", b"b", b"c"])
                assert came == expected, deed


async def test_no_message_is_lost_if_a_handler_raises_a_base_exception(name: str) -> None:
    """The event loop handles what is not an ``Exception``, such as ``KeyboardInterrupt``."""
    async with MemoryTransport(name) as transport:
        came: list[bytes] = []
        raised: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: raised.append(context["exception"]))

        class Interrupt(BaseException):
            pass

        def received(delivery: Delivery) -> None:
            came.append(delivery.message.body)
            if delivery.message.body == b"a":
                raise Interrupt

        await transport.subscribe(Queue("one"), received)
        await transport.subscribe(Queue("other"), received)
        transport.send(to("one", b"a"))
        transport.send(to("one", b"b"))
        transport.send(to("other", b"c"))
        await turns()
        assert [type(error) for error in raised] == [Interrupt]
        assert sorted(came) == [b"a", b"b", b"c"]
