"""Streams: calls whose answer is many items, over every transport."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pytest

from aiorpc import (
    AioRpcError,
    Call,
    ClusterProxy,
    ClusterRpcProxy,
    ConfigurationError,
    ConnectionLost,
    DependencyProvider,
    Handler,
    IncorrectSignature,
    MalformedReply,
    Overloaded,
    RemoteError,
    RpcProxy,
    RpcTimeout,
    ServiceContainer,
    WorkerContext,
    event_handler,
    rpc,
)
from aiorpc.config import resolve
from aiorpc.entrypoints import streams
from aiorpc.testing.connections import cut
from aiorpc.transports import open_transport
from aiorpc.transports.base import Delivery, Outgoing
from aiorpc.wire.message import Exchange, Message, Queue
from tests.support.transports import Inbox
from tests.support.waiting import eventually


@dataclass
class Row:
    number: int
    text: str = "row"


class Ended(DependencyProvider[None]):
    """Records how each worker ended."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    @asynccontextmanager
    async def provide(self, worker_ctx: WorkerContext) -> AsyncIterator[None]:
        try:
            yield None
        except BaseException as exc:
            self.seen.append(f"rolled back: {type(exc).__name__}")
            raise
        else:
            self.seen.append("committed")


@dataclass
class Stage:
    config: dict[str, Any]
    name: str = field(default_factory=lambda: f"streams_{uuid.uuid4().hex[:8]}")
    #: How the workers ended.
    ended: list[str] = field(default_factory=list)
    #: The number of items that generators yielded.
    yielded: int = 0
    runs: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    middleware: list[Any] = field(default_factory=list)

    @property
    def service(self) -> Any:
        stage = self

        class Service:
            name = stage.name
            end = Ended(stage.ended)

            @rpc(expected_exceptions=ValueError)
            async def count(self, n: int, fail_at: int = -1) -> AsyncGenerator[int]:
                stage.runs += 1
                try:
                    for number in range(n):
                        if number == fail_at:
                            raise ValueError(f"no {number}")
                        stage.yielded += 1
                        yield number
                finally:
                    stage.closed.set()

            @rpc
            async def rows(self, n: int) -> AsyncIterator[Row]:
                for number in range(n):
                    yield Row(number)

            @rpc
            async def waits(self) -> AsyncGenerator[str]:
                try:
                    yield "first"
                    await stage.held.wait()
                    yield "last"
                finally:
                    stage.closed.set()

            @rpc(max_concurrency=1, max_waiting=0)
            async def alone(self) -> AsyncGenerator[str]:
                yield "first"
                await stage.held.wait()
                yield "last"

            @rpc
            async def large(self, n: int, size: int) -> AsyncGenerator[str]:
                for _ in range(n):
                    stage.yielded += 1
                    yield "x" * size

            @rpc
            async def changes(self) -> AsyncGenerator[dict[str, int]]:
                row: dict[str, int] = {}
                for number in range(3):
                    row["n"] = number
                    yield row

            @rpc
            async def odd(self) -> AsyncGenerator[object]:
                yield 1
                yield object()

            @rpc
            async def one(self) -> int:
                stage.runs += 1
                return 1

        return Service

    @asynccontextmanager
    async def served(self, **options: Any) -> AsyncIterator[ClusterProxy]:
        async with (
            ServiceContainer(self.service, self.config, middleware=self.middleware),
            ClusterRpcProxy(self.config, timeout=10, **options) as cluster,
        ):
            yield cluster


@pytest.fixture
def stage(broker_config: dict[str, Any]) -> Stage:
    return Stage({**broker_config, "DISCOVERY": False, "SHUTDOWN_TIMEOUT": 1})


async def read(stream: AsyncIterator[Any], got: list[Any] | None = None) -> None:
    async for item in stream:
        if got is not None:
            got.append(item)


async def test_a_stream_gives_its_items_in_order(stage: Stage) -> None:
    async with stage.served() as cluster:
        service = cluster[stage.name]
        assert [item async for item in service.count.stream(1000)] == list(range(1000))
        assert [item async for item in service.count.stream(n=0)] == []
        assert stage.ended == ["committed", "committed"]


async def test_a_typed_stream_is_called_like_the_method(stage: Stage) -> None:
    async with stage.served() as cluster:
        typed = cluster.typed(stage.service)
        assert [row async for row in typed.rows(2)] == [Row(0), Row(1)]
        quick = typed.rows.with_options(timeout=5)
        assert [row async for row in quick(2)] == [Row(0), Row(1)]


async def test_a_list_of_a_generator_that_never_waits_leaves_the_loop_to_others(
    stage: Stage,
) -> None:
    async with stage.served() as cluster:
        listed = asyncio.ensure_future(cluster[stage.name].count.with_options(timeout=1)(1 << 60))
        await eventually(lambda: stage.yielded > 0)
        listed.cancel()
        async with asyncio.timeout(5):
            await stage.closed.wait()
        assert stage.yielded < 1 << 20


async def test_a_plain_call_of_a_stream_gives_a_list(stage: Stage) -> None:
    async with stage.served() as cluster:
        assert await cluster[stage.name].count(3) == [0, 1, 2]
        assert await cluster[stage.name].count.call_async(3) == [0, 1, 2]


async def test_a_list_that_is_too_large_is_an_error_as_soon_as_it_is(stage: Stage) -> None:
    stage.config["MAX_MESSAGE_SIZE"] = 100_000
    async with stage.served() as cluster:
        with pytest.raises(RemoteError, match="call the method as a stream"):
            await cluster[stage.name].large(1_000_000, 1000)
        assert stage.yielded < 200
        total = sum([len(item) async for item in cluster[stage.name].large.stream(200, 1000)])
        assert total == 200_000


async def test_an_error_follows_the_items_before_it(stage: Stage) -> None:
    got: list[int] = []
    async with stage.served() as cluster:
        with pytest.raises(RemoteError, match="no 600"):
            await read(cluster[stage.name].count.stream(1000, fail_at=600), got)
        assert got == list(range(600))
        assert stage.ended == ["rolled back: ValueError"]


async def test_an_item_that_cannot_be_encoded_is_an_error_of_the_method(stage: Stage) -> None:
    got: list[int] = []
    async with stage.served() as cluster:
        with pytest.raises(RemoteError, match="UnserializableValueError"):
            await read(cluster[stage.name].odd.stream(), got)
        assert got == [1]
        assert stage.ended == ["rolled back: UnserializableValueError"]


async def test_an_item_is_what_it_was_when_the_method_yielded_it(stage: Stage) -> None:
    async with stage.served() as cluster:
        rows = [row async for row in cluster[stage.name].changes.stream()]
        assert rows == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_a_stream_travels_in_any_serializer(stage: Stage) -> None:
    stage.config |= {"ACCEPT": ["json", "yaml"]}
    async with stage.served() as cluster:
        method = cluster[stage.name].count.with_options(serializer="yaml")
        assert [item async for item in method.stream(300)] == list(range(300))


# The end, early


async def test_leaving_the_loop_closes_the_generator_and_rolls_back(stage: Stage) -> None:
    async with stage.served() as cluster:
        async for item in cluster[stage.name].count.stream(1 << 60):
            if item == 10:
                break
        left = monotonic()
        async with asyncio.timeout(5):
            await stage.closed.wait()
        await eventually(lambda: stage.ended == ["rolled back: CancelledError"])
        assert monotonic() - left < 1
        assert await cluster[stage.name].one() == 1


@pytest.mark.parametrize("how", ["aclose", "async with", "cancel"])
async def test_a_stream_can_be_cancelled(stage: Stage, how: str) -> None:
    async with stage.served() as cluster:
        stream = cluster[stage.name].waits.stream()
        if how == "aclose":
            assert await anext(stream) == "first"
            await stream.aclose()
            await stream.aclose()
        elif how == "async with":
            async with stream:
                assert await anext(stream) == "first"
        else:
            assert await anext(stream) == "first"
            task = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with asyncio.timeout(5):
            await stage.closed.wait()
        assert [item async for item in stream] == []


async def test_a_client_that_closes_cancels_its_streams(stage: Stage) -> None:
    async with ServiceContainer(stage.service, stage.config):
        proxy = ClusterRpcProxy(stage.config, timeout=10)
        cluster = await proxy.start()
        stream = cluster[stage.name].waits.stream()
        assert await anext(stream) == "first"
        await proxy.aclose()
        async with asyncio.timeout(5):
            await stage.closed.wait()
        with pytest.raises(ConnectionLost, match="after 1 items: the client was closed"):
            await anext(stream)
        await eventually(lambda: stage.ended == ["rolled back: CancelledError"])


async def test_a_generator_that_catches_its_cancellation_ends_at_its_next_item(
    stage: Stage,
) -> None:
    class Stubborn:
        name = f"{stage.name}_stubborn"
        end = Ended(stage.ended)

        @rpc
        async def items(self) -> AsyncGenerator[int]:
            yield 0
            while True:
                with suppress(asyncio.CancelledError):
                    await stage.held.wait()
                yield 1

    async with (
        ServiceContainer(Stubborn, stage.config),
        ClusterRpcProxy(stage.config, timeout=10) as cluster,
    ):
        async with cluster[Stubborn.name].items.stream() as stream:
            assert await anext(stream) == 0
        await eventually(lambda: stage.ended == ["rolled back: CancelledError"])


async def test_a_stream_that_nobody_iterates_sends_nothing(stage: Stage) -> None:
    async with stage.served() as cluster:
        stream = cluster[stage.name].count.stream(1)
        await stream.aclose()
        del stream
        assert await cluster[stage.name].one() == 1
        assert stage.runs == 1


# Back pressure


async def test_a_slow_reader_pauses_the_generator(stage: Stage) -> None:
    stage.config["STREAM_WINDOW"] = 20
    async with stage.served() as cluster:
        stream = cluster[stage.name].count.stream(1 << 60)
        assert [await anext(stream) for _ in range(5)] == list(range(5))
        await cluster[stage.name].one()
        assert stage.yielded <= 5 + 20 + 1
        assert [await anext(stream) for _ in range(500)] == list(range(5, 505))
        await stream.aclose()


async def test_at_most_a_mebibyte_of_items_is_sent_ahead(stage: Stage) -> None:
    async with stage.served() as cluster:
        stream = cluster[stage.name].large.stream(100, 100_000)
        assert len(await anext(stream)) == 100_000
        await cluster[stage.name].one()
        assert stage.yielded <= 13
        assert sum([len(item) async for item in stream]) == 9_900_000


async def test_an_item_may_be_larger_than_what_is_sent_ahead(stage: Stage) -> None:
    async with stage.served() as cluster:
        stream = cluster[stage.name].large.stream(3, 3_000_000)
        assert [len(item) async for item in stream] == [3_000_000] * 3


async def test_items_travel_in_messages_within_the_limit(stage: Stage) -> None:
    stage.config["MAX_MESSAGE_SIZE"] = 4096
    async with stage.served() as cluster:
        stream = cluster[stage.name].large.stream(100, 1000)
        assert [len(item) async for item in stream] == [1000] * 100
        assert [item async for item in cluster[stage.name].count.stream(2000)] == list(range(2000))


# Deadlines


async def test_a_stream_keeps_its_place_of_max_concurrency_until_its_end(stage: Stage) -> None:
    async with stage.served() as cluster:
        alone = cluster[stage.name].alone
        stream = alone.stream()
        assert await anext(stream) == "first"
        with pytest.raises(Overloaded):
            await anext(alone.stream())
        stage.held.set()
        assert [item async for item in stream] == ["last"]
        assert [item async for item in alone.stream()] == ["first", "last"]


async def test_the_deadline_bounds_the_whole_stream(stage: Stage) -> None:
    got: list[str] = []
    async with stage.served() as cluster:
        with pytest.raises(RpcTimeout, match=r"not at its end after 0\.3\d* s, and 1 items"):
            await read(cluster[stage.name].waits.with_options(timeout=0.3).stream(), got)
        assert got == ["first"]
        async with asyncio.timeout(5):
            await stage.closed.wait()


async def test_idle_timeout_bounds_each_item(stage: Stage) -> None:
    async with stage.served() as cluster:
        method = cluster[stage.name].waits.with_options(timeout=None, idle_timeout=0.2)
        with pytest.raises(RpcTimeout, match=r"no item came within 0.2 s \(idle_timeout\)"):
            await read(method.stream())
        async with asyncio.timeout(5):
            await stage.closed.wait()
        with pytest.raises(ConfigurationError, match="idle_timeout"):
            method.with_options(idle_timeout="1")


# Loss


async def test_a_lost_connection_of_the_caller_ends_the_stream(stage: Stage) -> None:
    async with (
        ServiceContainer(stage.service, stage.config),
        ClusterRpcProxy(stage.config, timeout=None) as cluster,
    ):
        stream = cluster[stage.name].waits.stream()
        assert await anext(stream) == "first"
        restore = cut(cluster[stage.name].waits._client.transport)
        with pytest.raises(ConnectionLost, match="ended after 1 items: the connection was lost"):
            await anext(stream)
        restore()
        async with asyncio.timeout(5):
            await stage.closed.wait()


@pytest.fixture
def request_acked(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Is set when the broker has read the ack of a stream's request."""
    acked = asyncio.Event()

    class Opening(streams._Mandatory, eq=False, kw_only=True):
        def conclude(self, error: AioRpcError | None) -> None:
            super().conclude(error)
            if error is None:
                acked.set()

    def opening(**fields: Any) -> Opening:
        # With `settled`, the transport calls `conclude` also without an error.
        return Opening(settled=lambda _: None, **fields)

    monkeypatch.setattr(streams, "_Mandatory", opening)
    return acked


async def test_a_lost_connection_of_the_service_ends_the_stream(
    stage: Stage, request_acked: asyncio.Event
) -> None:
    async with (
        ServiceContainer(stage.service, stage.config) as container,
        ClusterRpcProxy(stage.config, timeout=None) as cluster,
    ):
        stream = cluster[stage.name].waits.stream()
        assert await anext(stream) == "first"
        async with asyncio.timeout(5):
            await request_acked.wait()
        restore = cut(container.transport)
        async with asyncio.timeout(5):
            await stage.closed.wait()
        restore()
        with pytest.raises(ConnectionLost, match=r"the service (lost its|cannot be reached)"):
            await anext(stream)
        assert stage.ended == ["rolled back: CancelledError"]


async def test_a_service_that_stops_ends_a_stream_that_does_not_end(stage: Stage) -> None:
    stage.config["SHUTDOWN_TIMEOUT"] = 0.2
    async with ClusterRpcProxy(stage.config, timeout=None) as cluster:
        async with ServiceContainer(stage.service, stage.config):
            stream = cluster[stage.name].waits.stream()
            assert await anext(stream) == "first"
        with pytest.raises(ConnectionLost, match="ended after 1 items: the service stops"):
            await anext(stream)


async def test_a_service_that_stops_finishes_its_streams(stage: Stage) -> None:
    async with ClusterRpcProxy(stage.config, timeout=10) as cluster:
        container = ServiceContainer(stage.service, stage.config)
        await container.start()
        stream = cluster[stage.name].count.stream(2000)
        assert await anext(stream) == 0
        stopping = asyncio.ensure_future(container.stop())
        assert [item async for item in stream] == list(range(1, 2000))
        await stopping


class Peer:
    """A service or a caller that speaks the protocol by hand."""

    def __init__(self, stage: Stage, transport: Any) -> None:
        self.stage = stage
        self.transport = transport
        self.reply_to = uuid.uuid4().hex
        self.inbox = Inbox()

    async def asks(self, method: str, body: bytes, *, listens: bool = True, **headers: Any) -> None:
        """Send a request for a stream, and listen to its answers."""
        queue = Queue(self.reply_to, Exchange("nameko-rpc", "topic"), self.reply_to, exclusive=True)
        if listens:
            await self.transport.subscribe(queue, self.inbox)
        message = Message(
            body=body,
            headers={"aiorpc-stream": 100, **headers},
            reply_to=self.reply_to,
            correlation_id="c",
        )
        await self.transport.publish(
            Outgoing(
                exchange="nameko-rpc", routing_key=f"{self.stage.name}.{method}", message=message
            ),
            5,
        )

    async def serves(self, *answers: Message) -> None:
        """Answer each request with *answers*."""

        def received(delivery: Delivery) -> None:
            delivery.ack()
            for answer in answers:
                message = Message(body=answer.body, headers=answer.headers)
                message.correlation_id = delivery.message.correlation_id
                message.reply_to = answer.reply_to
                self.transport.send(
                    Outgoing(
                        exchange="nameko-rpc",
                        routing_key=delivery.message.reply_to or "",
                        message=message,
                        confirm=False,
                    )
                )

        exchange = Exchange("nameko-rpc", "topic")
        queue = Queue(f"rpc-{self.stage.name}", exchange, f"{self.stage.name}.*", auto_delete=True)
        await self.transport.subscribe(queue, received)


@pytest.fixture
async def peer(stage: Stage) -> AsyncIterator[Peer]:
    async with open_transport(resolve(stage.config), name="a peer") as transport:
        yield Peer(stage, transport)


def items(body: bytes, item: object) -> Message:
    return Message(body=body, headers={"aiorpc-stream": "items", "aiorpc-item": item})


OPEN = Message(body=b"", headers={"aiorpc-stream": "open"}, reply_to="nowhere")


@pytest.mark.parametrize(
    ("answers", "error", "said"),
    [
        ([items(b'{"result":[1,2],"error":null}', 0)] * 2, ConnectionLost, "item 2 did not arrive"),
        ([items(b'{"result":[1],"error":null}', "0")], ConnectionLost, "item 0 did not arrive"),
        (
            [
                items(b'{"result":[1,2],"error":null}', 0),
                Message(body=b"", headers={"aiorpc-stream": "alive", "aiorpc-item": 2}),
                Message(body=b"", headers={"aiorpc-stream": "alive", "aiorpc-item": 3}),
            ],
            ConnectionLost,
            "item 2 did not arrive",
        ),
        ([items(b'{"result":5,"error":null}', 0)], MalformedReply, "the items are a int"),
        ([items(b"{", 0)], MalformedReply, "cannot be read"),
        (
            [
                Message(
                    body=b'{"result":null,"error":null}',
                    headers={"aiorpc-stream": "end", "aiorpc-item": 1},
                )
            ],
            ConnectionLost,
            "item 0 did not arrive, item 1 did",
        ),
        ([Message(body=b'{"result":[1],"error":null}')], MalformedReply, "does not know streams"),
        pytest.param(
            [OPEN, OPEN],
            ConnectionLost,
            "its process has ended.* Open the stream again|was silent",
            marks=pytest.mark.slow,  # a heartbeat is one second
        ),
    ],
)
async def test_what_a_peer_can_answer(
    stage: Stage, peer: Peer, answers: list[Message], error: type[Exception], said: str
) -> None:
    stage.config["HEARTBEAT"] = 1
    await peer.serves(*answers)
    async with ClusterRpcProxy(stage.config, timeout=10) as cluster:
        with pytest.raises(error, match=said):
            await read(cluster[stage.name].method.stream())


@pytest.mark.slow  # it waits for heartbeats, whose unit is a second
async def test_a_silent_caller_ends_its_stream(stage: Stage, peer: Peer) -> None:
    stage.config["HEARTBEAT"] = 1
    async with ServiceContainer(stage.service, stage.config):
        await peer.asks("waits", b'{"args":[],"kwargs":{}}')
        async with asyncio.timeout(6):
            await stage.closed.wait()
        assert stage.ended == ["rolled back: CancelledError"]


async def test_a_stream_ends_at_once_if_its_caller_has_no_queue(stage: Stage, peer: Peer) -> None:
    async with ServiceContainer(stage.service, stage.config):
        await peer.asks("waits", b'{"args":[],"kwargs":{}}', listens=False)
        async with asyncio.timeout(5):  # the first sign of life would come after 10 s
            await stage.closed.wait()
        assert stage.ended == ["rolled back: CancelledError"]


@pytest.mark.parametrize("window", [-5, "5", True, 10**9])
async def test_any_window_of_a_peer_is_bounded(stage: Stage, peer: Peer, window: object) -> None:
    stage.config["SHUTDOWN_TIMEOUT"] = 0.2
    async with ServiceContainer(stage.service, stage.config):
        await peer.asks("large", b'{"args":[100, 100000],"kwargs":{}}', **{"aiorpc-stream": window})
        message = (await peer.inbox.next()).message
        if type(window) is not int:
            assert message.body.startswith(b'{"result":["xxx')  # as for a plain call
            return
        assert message.headers == {"aiorpc-stream": "open", "aiorpc-alive": 10}
        await peer.inbox.next()
        await eventually(lambda: stage.yielded >= (1 if window == -5 else 11))
        assert stage.yielded <= 12


async def test_a_request_for_a_stream_never_runs_again(stage: Stage, peer: Peer) -> None:
    async with ServiceContainer(stage.service, stage.config):
        await peer.asks("count", b'{"args":[3],"kwargs":{}}', **{"aiorpc-resent": True})
        body = (await peer.inbox.next()).message.body
        assert b'"exc_type":"ConnectionLost"' in body
        assert b"never runs again" in body
        assert stage.runs == 0


async def test_a_method_with_one_result_is_not_a_stream(stage: Stage) -> None:
    async with stage.served() as cluster:
        with pytest.raises(IncorrectSignature, match="returns one result and is not a stream"):
            await read(cluster[stage.name].one.stream())
        assert stage.runs == 0


@pytest.mark.slow  # it waits for heartbeats, whose unit is a second
async def test_the_slower_heartbeat_of_the_two_sides_holds(stage: Stage) -> None:
    stage.config["HEARTBEAT"] = 1
    slow = {**stage.config, "HEARTBEAT": 30}
    async with (
        ServiceContainer(stage.service, stage.config),
        ClusterRpcProxy(slow, timeout=10) as cluster,
    ):
        stream = cluster[stage.name].waits.stream()
        assert await anext(stream) == "first"
        asyncio.get_running_loop().call_later(2.5, stage.held.set)
        assert await anext(stream) == "last"


@pytest.mark.slow  # it waits for heartbeats, whose unit is a second
async def test_signs_of_life_keep_a_quiet_stream(stage: Stage) -> None:
    stage.config["HEARTBEAT"] = 1
    async with stage.served() as cluster:
        stream = cluster[stage.name].waits.stream()
        assert await anext(stream) == "first"
        asyncio.get_running_loop().call_later(2.5, stage.held.set)
        assert await anext(stream) == "last"


# Around a stream


async def test_a_middleware_lasts_as_long_as_the_stream(stage: Stage) -> None:
    said: list[str] = []

    def watching(side: str) -> Any:
        async def watch(call: Call, handler: Handler) -> Any:
            said.append(f"{side} begins {call.method}")
            try:
                return await handler(call)
            finally:
                said.append(f"{side} ends")

        return watch

    stage.middleware = [watching("service")]
    async with stage.served(middleware=[watching("caller")]) as cluster:
        stream = cluster[stage.name].waits.stream()
        assert await anext(stream) == "first"
        assert said == ["caller begins waits", "service begins waits"]
        stage.held.set()
        assert [item async for item in stream] == ["last"]
    assert said[2:] == ["service ends", "caller ends"]


@pytest.mark.parametrize("side", ["caller", "service"])
async def test_a_middleware_cannot_repeat_a_stream_after_its_first_item(
    stage: Stage, side: str
) -> None:
    async def repeats(call: Call, handler: Handler) -> Any:
        try:
            return await handler(call)
        except Exception:
            return await handler(call)

    if side == "service":
        stage.middleware = [repeats]
    got: list[int] = []
    error = "called its handler again" if side == "service" else "no 3"
    async with stage.served(middleware=[repeats] if side == "caller" else []) as cluster:
        with pytest.raises(RemoteError, match=error):
            await read(cluster[stage.name].count.stream(5, fail_at=3), got)
        assert got == [0, 1, 2]
        assert stage.runs == 1
        with pytest.raises(RemoteError, match="no 0"):
            await read(cluster[stage.name].count.stream(5, fail_at=0), got)
        assert stage.runs == 3


async def test_a_middleware_cannot_answer_in_place_of_a_stream(stage: Stage) -> None:
    async def answers(call: Call, handler: Handler) -> Any:
        return [1, 2]

    stage.middleware = [answers]
    async with stage.served() as cluster:
        with pytest.raises(RemoteError, match="a middleware answered a stream with a list"):
            await read(cluster[stage.name].count.stream(5))
        assert await cluster[stage.name].count(5) == [1, 2]


async def test_a_service_passes_a_stream_on(stage: Stage) -> None:
    class Passing:
        name = f"{stage.name}_passing"
        source = RpcProxy(stage.name)

        @rpc
        async def twice(self, n: int) -> AsyncGenerator[int]:
            async for item in self.source.count.stream(n):
                yield 2 * item

    async with stage.served() as cluster, ServiceContainer(Passing, stage.config):
        got = [item async for item in cluster[Passing.name].twice.stream(1000)]
        assert got == list(range(0, 2000, 2))
        async for item in cluster[Passing.name].twice.stream(1 << 60):
            if item == 4:
                break
        stage.closed.clear()
        await eventually(lambda: stage.ended[-1] == "rolled back: CancelledError")


async def test_many_streams_share_a_client(stage: Stage) -> None:
    async with stage.served() as cluster:

        async def total(n: int) -> int:
            return sum([item async for item in cluster[stage.name].count.stream(n)])

        totals = await asyncio.gather(*(total(n) for n in range(50)))
        assert totals == [sum(range(n)) for n in range(50)]


def test_only_rpc_methods_may_be_async_generators() -> None:
    with pytest.raises(ConfigurationError, match="is an async generator"):

        class Service:
            name = "x"

            @event_handler("a", "b")
            async def handle(self, payload: int) -> AsyncGenerator[int]:
                yield payload
