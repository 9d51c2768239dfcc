"""Messages that end the process that works on them: counted, parked, answered."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from aiorpc import (
    Call,
    ClusterRpcProxy,
    ConnectionLost,
    DeliveryUncertain,
    Exchange,
    Handler,
    Queue,
    ServiceContainer,
    consume,
    event_dispatcher,
    event_handler,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.entrypoints import parking
from aiorpc.entrypoints.attempts import Attempts
from aiorpc.exceptions import UnserializableValueError
from aiorpc.testing.connections import cut
from aiorpc.transports import open_transport
from aiorpc.transports.base import Delivery, Outgoing, Transport
from aiorpc.transports.memory.transport import MemoryTransport
from aiorpc.wire.copies import attempts_of, counted
from aiorpc.wire.message import Message
from aiorpc.wire.names import parked_queue
from aiorpc.wire.protocol import Wire

MOST = 2


@pytest.fixture
def config(broker_config: dict[str, Any]) -> dict[str, Any]:
    return {**broker_config, "MAX_ATTEMPTS": MOST, "SHUTDOWN_TIMEOUT": 0, "DISCOVERY": False}


@asynccontextmanager
async def connected(config: dict[str, Any]) -> AsyncIterator[Transport]:
    async with open_transport(resolve(config), name="a test") as transport:
        yield transport


async def take(transport: Transport, queue: Queue) -> Delivery:
    """The next message of *queue*, unsettled."""
    taken: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()

    def received(delivery: Delivery) -> None:
        if not taken.done():
            taken.set_result(delivery)

    await transport.subscribe(queue, received, prefetch=1)
    return await asyncio.wait_for(taken, 10)


async def take_and_vanish(config: dict[str, Any], queue: Queue) -> Message:
    """Do as a process that is killed while it works on the message."""
    async with connected(config) as transport:
        return (await take(transport, queue)).message


def service_for(name_: str, runs: list[Call], **options: Any) -> type:
    """A service that answers ``method``, and never answers ``die``."""

    class Service:
        name = name_
        dying: asyncio.Event

        @rpc(**options)
        async def method(self, value: str) -> str:
            return f"ran {value}"

        @rpc
        async def die(self) -> None:
            self.dying.set()
            await asyncio.Event().wait()

    Service.dying = asyncio.Event()
    return Service


def recorder(runs: list[Call]) -> Any:
    async def record(call: Call, handler: Handler) -> Any:
        runs.append(call)
        try:
            return await handler(call)
        except DeliveryUncertain:  # the service refused it
            runs.remove(call)
            raise

    return record


@pytest.fixture
def name() -> str:
    return f"poisoned_{uuid.uuid4().hex[:8]}"


async def test_a_request_that_ends_its_process_is_parked_and_its_caller_gets_an_error(
    config: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[Call] = []
    service = service_for(name, runs)
    async with connected(config) as onlooker:
        await onlooker.declare(queues=[Wire.of(resolve(config)).rpc_queue(name)])
        async with ClusterRpcProxy(config, timeout=20) as cluster:
            reply = cluster[name].die.call_async()
            for _ in range(1 + MOST):
                service.dying.clear()
                async with ServiceContainer(
                    service, config, middleware=[recorder(runs)]
                ) as container:
                    await asyncio.wait_for(service.dying.wait(), 10)
                    cut(container.transport)
            assert len(runs) == 1 + MOST
            assert [call.redelivered for call in runs] == [False, True, True]
            with caplog.at_level(logging.ERROR, "aiorpc.attempts"):
                async with ServiceContainer(service, config, middleware=[recorder(runs)]):
                    with pytest.raises(DeliveryUncertain, match=r"parked in queue rpc-.*\.parked"):
                        await reply
                    assert await cluster[name].method("on") == "ran on"
            assert len(runs) == 2 + MOST
        (line,) = [record for record in caplog.records if record.name == "aiorpc.attempts"]
        assert f"{name}.die: delivered 3 times" in line.getMessage()
        delivery = await take(onlooker, Queue(f"rpc-{name}.parked"))
        message = delivery.message
        assert message.body == b'{"args":[],"kwargs":{}}'
        assert message.headers is not None
        assert message.headers["x-original-exchange"] == "nameko-rpc"
        assert message.headers["x-original-routingKey"] == f"{name}.die"
        assert message.headers["aiorpc-method"] == f"{name}.die"
        assert message.headers["x-exception-message"].startswith("DeliveryUncertain: ")
        assert message.expiration is None
        delivery.ack()
        await onlooker.delete(f"rpc-{name}.parked")


async def test_a_request_that_ends_its_process_at_its_first_step_is_parked_once(
    config: dict[str, Any], name: str
) -> None:
    """Like a crash of a C library: the loop does not turn between the start and the end."""
    starts: list[str] = []
    dying = asyncio.Event()

    class Service:
        container: ServiceContainer

        @rpc
        async def die(self) -> None:
            cut(self.container.transport)
            starts.append("die")
            dying.set()
            await asyncio.Event().wait()

    service: Any = type("Service", (Service,), {"name": name})
    queue = Wire.of(resolve(config)).rpc_queue(name)
    async with connected(config) as onlooker:
        await onlooker.declare(queues=[queue])
        async with ClusterRpcProxy(config, timeout=20) as cluster:
            reply = cluster[name].die.call_async()
            for _ in range(1 + MOST):
                dying.clear()
                service.container = ServiceContainer(service, config)
                async with service.container:
                    await asyncio.wait_for(dying.wait(), 10)
            service.container = ServiceContainer(service, config)
            async with service.container:
                with pytest.raises(DeliveryUncertain, match="parked in queue"):
                    await reply
        assert len(starts) == 1 + MOST
        for left, where in ((0, queue.name), (1, f"{queue.name}.parked")):
            state = await onlooker.inspect(where, 5)
            assert state is not None
            assert (where, state.messages) == (where, left)
        await onlooker.delete(f"{queue.name}.parked")


async def test_a_request_that_is_delivered_again_runs_once_more_and_is_answered(
    config: dict[str, Any], name: str
) -> None:
    runs: list[Call] = []
    queue = Wire.of(resolve(config)).rpc_queue(name)
    async with connected(config) as onlooker, ClusterRpcProxy(config, timeout=10) as cluster:
        await onlooker.declare(queues=[queue])
        reply = cluster[name].method.with_options(context_data={"who": "me"}).call_async("it")
        await take_and_vanish(config, queue)
        async with ServiceContainer(service_for(name, runs), config, middleware=[recorder(runs)]):
            assert await reply == "ran it"
        (call,) = runs
        assert call.redelivered
        assert dict(call.context.data) == {"who": "me"}
        state = await onlooker.inspect(queue.name, 5)
        assert state is not None
        assert state.messages == 0


async def test_a_request_and_its_copy_run_as_one(name: str) -> None:
    """A process that crashes between the copy and the ack of its original leaves both."""
    name_, began = name, list[str]()
    running, may_end = asyncio.Event(), asyncio.Event()

    class Service:
        name = name_

        @rpc
        async def method(self, value: str) -> str:
            began.append(value)
            running.set()
            await may_end.wait()
            return f"ran {value}"

        @rpc
        async def last(self) -> None: ...

    config = {"AMQP_URI": f"memory://{name}"}
    queue = Wire.of(resolve(config)).rpc_queue(name)
    async with connected(config) as own, ClusterRpcProxy(config, timeout=10) as cluster:
        assert isinstance(own, MemoryTransport)
        await own.declare(queues=[queue])
        reply = cluster[name].method.call_async("it")
        original = await take_and_vanish(config, queue)
        exchange, key = queue.exchange.name, f"{name}.method"
        copy = counted(original, exchange, key, "a copy", 0, None)
        await own.publish(Outgoing(exchange=exchange, routing_key=key, message=copy), 5)
        async with connected(config) as crashing:
            await take(crashing, queue)
            await take(crashing, queue)
        own.channel.confirming = False
        async with ServiceContainer(Service, config, transport=own):
            await cluster[name].last()  # now the service has read its copies of both
            own.channel.confirming = True
            own.channel.settle_all()
            await asyncio.wait_for(running.wait(), 10)
            may_end.set()
            assert await reply == "ran it"
        assert began == ["it"]


async def test_an_at_most_once_request_that_is_redelivered_does_not_run(
    config: dict[str, Any], name: str
) -> None:
    runs: list[Call] = []
    queue = Wire.of(resolve(config)).rpc_queue(name)
    service = service_for(name, runs, delivery="at_most_once")
    async with connected(config) as onlooker, ClusterRpcProxy(config, timeout=10) as cluster:
        await onlooker.declare(queues=[queue])
        reply = cluster[name].method.call_async("it")
        await take_and_vanish(config, queue)
        async with ServiceContainer(service, config, middleware=[recorder(runs)]):
            with pytest.raises(DeliveryUncertain, match="redelivered by the broker"):
                await reply
        assert runs == []


async def test_drains_do_not_count_as_attempts(config: dict[str, Any], name: str) -> None:
    """A host may stop more often than MAX_ATTEMPTS while it works on a request."""
    runs: list[Call] = []
    service = service_for(name, runs)
    queue = Wire.of(resolve(config)).rpc_queue(name)
    async with connected(config) as onlooker, ClusterRpcProxy(config, timeout=20) as cluster:
        await onlooker.declare(queues=[queue])
        reply = cluster[name].die.call_async()
        for _ in range(2 * MOST + 2):
            service.dying.clear()
            async with ServiceContainer(service, config, middleware=[recorder(runs)]):
                await asyncio.wait_for(service.dying.wait(), 10)
        assert len(runs) == 2 * MOST + 2
        delivery = await take(onlooker, queue)
        assert attempts_of(delivery.message) in (0, None)
        assert not reply.done()
        delivery.ack()
        reply.cancel()


async def test_an_event_is_parked_only_for_the_handler_whose_process_it_ends(
    config: dict[str, Any], name: str
) -> None:
    dying, heard = asyncio.Event(), asyncio.Event()

    class Killed:
        @event_handler(name, "happened")
        async def handle(self, payload: Any) -> None:
            dying.set()
            await asyncio.Event().wait()

    class Beside:
        count = 0

        @event_handler(name, "happened")
        async def handle(self, payload: Any) -> None:
            type(self).count += 1
            heard.set()

    killed = type("Killed", (Killed,), {"name": f"{name}_killed"})
    beside = type("Beside", (Beside,), {"name": f"{name}_beside"})
    queue = f"evt-{name}-happened--{name}_killed.handle"
    async with (
        connected(config) as onlooker,
        ServiceContainer(beside, config),
        event_dispatcher(config) as dispatch,
    ):
        async with ServiceContainer(killed, config):
            pass  # the queue is there
        await dispatch(name, "happened", {"id": 7})
        for _ in range(1 + MOST):
            dying.clear()
            async with ServiceContainer(killed, config) as container:
                await asyncio.wait_for(dying.wait(), 10)
                cut(container.transport)
        dying.clear()
        async with ServiceContainer(killed, config):
            delivery = await take(onlooker, Queue(f"{queue}.parked"))
        assert not dying.is_set()
        assert delivery.message.body == b'{"id":7}'
        assert delivery.message.headers is not None
        assert delivery.message.headers["x-original-exchange"] == f"{name}.events"
        delivery.ack()
        await asyncio.wait_for(heard.wait(), 5)
        assert beside.count == 1
        await onlooker.delete(f"{queue}.parked")


async def test_a_plain_message_is_counted_too(config: dict[str, Any], name: str) -> None:
    queue = Queue(name, Exchange(name), "key")
    got: asyncio.Queue[Call] = asyncio.Queue()

    class Consuming:
        @consume(queue)
        async def handle(self, payload: Any) -> None: ...

    async def record(call: Call, handler: Handler) -> Any:
        got.put_nowait(call)

    service = type("Consuming", (Consuming,), {"name": name})
    async with connected(config) as onlooker:
        await onlooker.declare(queues=[queue])
        message = Message(body=b'"x"', user_id="guest", headers={"CC": [name], "mine": 1})
        await onlooker.publish(Outgoing(exchange=name, routing_key="key", message=message), 5)
        await take_and_vanish(config, queue)
        async with ServiceContainer(service, config, middleware=[record]):
            call = await asyncio.wait_for(got.get(), 5)
        assert call.redelivered
        assert call.context.data == {"mine": 1}
        await onlooker.delete(name)


async def test_a_message_is_parked_in_a_queue_that_exists_with_other_arguments(
    config: dict[str, Any], name: str
) -> None:
    queue = Queue(name)
    there = Queue(f"{name}.parked", arguments={"x-message-ttl": 600_000})

    class Consuming:
        @consume(queue)
        async def handle(self, payload: Any) -> None: ...

    service = type("Consuming", (Consuming,), {"name": name})
    async with connected(config) as onlooker:
        await onlooker.declare(queues=[queue, there])
        message = Message(body=b'"x"', headers={"aiorpc-attempts": MOST})
        await onlooker.publish(Outgoing(exchange="", routing_key=name, message=message), 5)
        await take_and_vanish(config, queue)
        async with ServiceContainer(service, config):
            delivery = await take(onlooker, there)
        assert delivery.message.body == b'"x"'
        delivery.ack()
        await onlooker.delete(name)
        await onlooker.delete(there.name)


@pytest.mark.parametrize("known", [None, 1])
def test_a_message_that_cannot_be_copied_is_worked_on_or_requeued(
    known: int | None,
) -> None:
    done: list[str] = []

    def refuse(outgoing: Outgoing) -> bool:
        assert outgoing.settled is not None
        outgoing.settled(UnserializableValueError("no"))
        return True

    headers = {} if known is None else {"aiorpc-attempts": known}
    delivery: Any = SimpleNamespace(
        message=Message(body=b"", headers=headers),
        redelivered=True,
        stale=False,
        exchange="",
        routing_key="q",
        answer=refuse,
        requeue=lambda: done.append("requeued"),
    )
    host: Any = SimpleNamespace(settings=resolve({"AMQP_URI": "memory://", "MAX_ATTEMPTS": 5}))
    attempts = Attempts(host, Queue("q"), lambda delivery: done.append("worked on"))
    assert attempts.takes(delivery)
    attempts.requeue(delivery)
    assert done == ["worked on", "requeued"]


def test_a_copy_whose_confirm_is_lost_is_not_worked_on_beside_its_original() -> None:
    """The original was not acked, so the broker redelivers it with its connection."""
    done: list[str] = []
    sent: list[Outgoing] = []
    delivery: Any = SimpleNamespace(
        message=Message(body=b""),
        redelivered=True,
        stale=False,
        exchange="",
        routing_key="q",
        answer=sent.append,
    )
    host: Any = SimpleNamespace(settings=resolve({"AMQP_URI": "memory://", "MAX_ATTEMPTS": 5}))
    attempts = Attempts(host, Queue("q"), lambda delivery: done.append("worked on"))
    assert attempts.takes(delivery)
    delivery.stale = True
    (copy,) = sent
    assert copy.settled is not None
    copy.settled(ConnectionLost("lost before the confirm"))
    arrived: Any = SimpleNamespace(
        message=copy.message, redelivered=False, stale=False, ack=lambda: done.append("acked")
    )
    assert attempts.takes(arrived)
    assert done == ["acked"]


async def test_a_message_of_a_queue_with_a_long_name_is_parked(
    config: dict[str, Any], name: str
) -> None:
    queue = Queue(name.ljust(252, "q"))
    there = parked_queue(queue.name)

    class Consuming:
        @consume(queue)
        async def handle(self, payload: Any) -> None: ...

    service = type("Consuming", (Consuming,), {"name": name})
    async with connected(config) as onlooker:
        await onlooker.declare(queues=[queue])
        message = Message(body=b'"x"', headers={"aiorpc-attempts": MOST})
        await onlooker.publish(Outgoing(exchange="", routing_key=queue.name, message=message), 5)
        await take_and_vanish(config, queue)
        async with ServiceContainer(service, config):
            delivery = await take(onlooker, there)
        assert delivery.message.body == b'"x"'
        delivery.ack()
        await onlooker.delete(queue.name)
        await onlooker.delete(there.name)


async def test_a_message_whose_parking_fails_is_rejected_and_the_service_continues(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []

    async def fail(*_: Any) -> None:
        raise ValueError("no such luck")

    delivery: Any = SimpleNamespace(
        message=Message(body=b"", headers={"aiorpc-attempts": 5}),
        redelivered=True,
        stale=False,
        exchange="",
        routing_key="q",
        reject=lambda requeue: done.append(f"rejected, {requeue=}"),
    )
    spawned: list[Any] = []
    host: Any = SimpleNamespace(
        service_name="shop",
        settings=resolve({"AMQP_URI": "memory://", "MAX_ATTEMPTS": 5}),
        transport=SimpleNamespace(publish=fail),
        spawn=lambda background, name, settles=False: spawned.append(background),
    )
    assert Attempts(host, Queue("q"), lambda delivery: done.append("worked on")).takes(delivery)
    await spawned[0]
    assert done == ["rejected, requeue=False"]
    assert "cannot be parked (no such luck) and is rejected" in caplog.text


async def test_the_caller_of_a_request_whose_parking_fails_gets_an_error(
    config: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Call] = []
    service = service_for(name, runs)
    async with ClusterRpcProxy(config, timeout=10) as cluster:
        async with ServiceContainer(service, config):
            pass  # the queue is there
        reply = cluster[name].die.call_async()
        for _ in range(1 + MOST):
            service.dying.clear()
            async with ServiceContainer(service, config) as container:
                await asyncio.wait_for(service.dying.wait(), 10)
                cut(container.transport)
        monkeypatch.setattr(parking, "_send", fails)
        async with ServiceContainer(service, config, middleware=[recorder(runs)]):
            with pytest.raises(DeliveryUncertain, match="rejected, because it could not be parke"):
                await reply
            assert await cluster[name].method("on") == "ran on"
    assert [call.method for call in runs] == ["method"]


async def fails(*_: Any) -> None:
    raise ValueError("no such luck")
