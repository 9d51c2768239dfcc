"""
Answers requests with streams: sends the items of async generators, as fast as their callers take
them. Awaits the generators and their callers; sends through the transport.

The caller says how many items it buffers, and how many its program has taken. The service sends at
most so many items ahead, and at most ``MOST_BYTES`` of them: then the generator waits. Items that
the generator yields without waiting travel in one message.

A request for a stream is acked when its method starts, because a stream may take longer than the
broker waits for an ack. So the method runs at most once. The ack follows the broker's confirm of
the first message: if this process ends before, the broker redelivers the request, and its caller
gets an error. The end of the stream follows the close of the dependencies.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, NoReturn

from ..call import Call
from ..exceptions import AioRpcError, ConnectionLost, IncorrectSignature, UnserializableValueError
from ..extensions import Ending, Host, Outcome
from ..logs import logger
from ..transports.base import Outgoing, State
from ..wire.message import Message
from ..wire.streams import decode_taken, silence_of
from .answers import ServedRequest
from .cancellations import Cancellations, Key

__all__ = ["AGAIN", "Collected", "Stream", "StreamCall", "Streams", "no_items", "no_stream"]

log = logger("aiorpc.rpc")

#: The largest number of bytes of items that are sent ahead of the caller.
MOST_BYTES = 1 << 20
#: A message leaves when it has so many bytes of items, or so many items.
FULL_BYTES, FULL = 32_768, 256
#: Seconds between two signs of life without heartbeats.
ALIVE = 10.0


#: The error for a request that was sent or delivered before.
AGAIN = ConnectionLost(
    "the request of the stream was sent or delivered before, and a stream never runs again: it may "
    "have run in part"
)


def no_stream(method: str) -> IncorrectSignature:
    """Return the error for a request for a stream of *method*, which returns one result."""
    return IncorrectSignature(
        f"{method} returns one result and is not a stream: call it without stream"
    )


def no_items(result: Any) -> NoReturn:
    """
    Raises:
        RuntimeError: a middleware answered a stream with *result*.
    """
    raise RuntimeError(
        f"a middleware answered a stream with a {type(result).__name__}: call the handler with the "
        "call that it got, or raise an error"
    )


class Answering(ABC):
    """Takes the items of a generator, for one caller."""

    @abstractmethod
    async def consume(self, items: AsyncIterator[Any]) -> Any:
        """
        Take all *items* while the dependencies are open, and return the result of the call. An
        error or a cancellation ends the generator, and the dependencies roll back.
        """


class StreamCall(Call, frozen=True, eq=False):
    """A call of an async generator. *answering* takes its items; ``None``: they become a list."""

    answering: Answering | None = None

    async def finish(self, items: AsyncGenerator[Any]) -> Any:
        """Take all *items*, and close the generator."""
        if self.listener is not None:
            items = _told(self, items)
        async with aclosing(items):
            if self.answering is not None:
                return await self.answering.consume(items)
            return [item async for item in items]


async def _told(call: Call, items: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    """Yield *items*, and tell *call* of the first one and of the end."""
    first = True
    async with aclosing(items):
        async for item in items:
            if first:
                call.tell("aiorpc.stream.first_item")
                first = False
            yield item
    call.tell("aiorpc.stream.end")


def _stop_if_cancelled(task: asyncio.Task[Any] | None) -> None:
    """Raise ``CancelledError`` if the generator of *task* caught it: nobody takes its items."""
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Collected(Answering):
    """Answers a caller that wants one result with the list of all items."""

    def __init__(self, host: Host, request: ServedRequest) -> None:
        self._host = host
        self._request = request.message
        self._limit = host.settings.max_message_size

    async def consume(self, items: AsyncIterator[Any]) -> list[Any]:
        collected: list[Any] = []
        size = 0
        task = asyncio.current_task()
        async for item in items:
            _stop_if_cancelled(task)
            collected.append(item)
            if len(collected) % FULL == 0:
                await asyncio.sleep(0)  # the generator may never wait
            if self._limit is None:
                continue
            body, _ = self._host.wire.streams.item(self._request, item)
            size += len(body)
            if size > self._limit:
                raise UnserializableValueError(
                    f"the list of the first {len(collected)} items of this stream has over "
                    f"{self._limit} bytes (MAX_MESSAGE_SIZE): call the method as a stream, with "
                    "`async for item in proxy.method.stream(...)`"
                )
        return collected


class _Mandatory(Outgoing, eq=False, kw_only=True):
    """A message that has to reach the caller of *stream*."""

    stream: Stream

    def conclude(self, error: AioRpcError | None) -> None:
        if error is not None:
            self.stream.unreached(error)


class Stream(Answering):
    """
    The answer to one request: the items of a generator.

    Args:
        queue: the queue of this instance for messages of callers.
    """

    def __init__(self, host: Host, request: ServedRequest, queue: str) -> None:
        self._host = host
        self._request = request
        self._name = f"{host.service_name}.{request.method}"
        self._queue = queue
        self._window = request.window
        self._alive_every = every = host.settings.heartbeat or ALIVE
        self._silence = silence_of(request.message, every)
        limit = host.settings.max_message_size
        #: Room for the brackets and commas around the items.
        self._full_bytes = FULL_BYTES if limit is None else min(FULL_BYTES, limit - 2 * FULL)
        self._items: list[bytes] = []
        self._size = 0
        self._joined = True
        #: The number of items in earlier messages.
        self._sent = 0
        self._taken = 0
        #: For each message on its way: the number of items up to its end, and its bytes.
        self._ahead: deque[tuple[int, int]] = deque()
        self._ahead_bytes = 0
        self._room: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._wrote_at = 0.0
        #: Why the stream ends before its generator.
        self.broken: AioRpcError | None = None
        self.begun = False

    # Items

    async def consume(self, items: AsyncIterator[Any]) -> None:
        if not self.begun:
            self._begin()
        elif self._sent or self._items:
            raise RuntimeError(
                f"{self._name}: a middleware called its handler again, and the caller has items of "
                "the earlier run: do not repeat a stream after its first item"
            )
        encode, request = self._host.wire.streams.item, self._request.message
        task = asyncio.current_task()
        async for item in items:
            _stop_if_cancelled(task)
            body, self._joined = encode(request, item)
            if self._items and self._size + len(body) > self._full_bytes:
                self._flush()
            self._items.append(body)
            self._size += len(body)
            if not self._joined or len(self._items) >= FULL or self._size >= self._full_bytes:
                self._flush()
                await asyncio.sleep(0)  # the generator may never wait
                if self._host.transport.congested:
                    await self._host.transport.drained()
            elif len(self._items) == 1:
                self._loop.call_soon(self._flush_soon)
            if not self._has_room():
                self._flush()
                await self._until_room()
        self._flush()

    def encode(self, result: Any) -> None:
        """
        Check that the method ran; *result* has no items.

        Raises:
            RuntimeError: a middleware answered in its place.
        """
        if not self.begun:
            no_items(result)

    def _begin(self) -> None:
        self.begun = True
        self._heard_at = self._loop.time()
        request, streams = self._request, self._host.wire.streams
        opening = streams.open(request.message, self._queue, self._alive_every)
        request.delivery.answer(self._mandatory(opening))
        self._timer = self._loop.call_later(self._alive_every, self._stay_alive)

    def _has_room(self) -> bool:
        ahead = self._sent + len(self._items) - self._taken
        return ahead < self._window and self._ahead_bytes + self._size < MOST_BYTES

    async def _until_room(self) -> None:
        while not self._has_room():
            self._room = self._loop.create_future()
            await self._room

    def _flush(self) -> None:
        """Send the items that wait."""
        items = self._items
        if not items or self.broken is not None:
            return
        self._items, size, self._size = [], self._size, 0
        request = self._request.message
        self._send(self._host.wire.streams.items(request, items, self._sent, self._joined))
        self._sent += len(items)
        self._ahead.append((self._sent, size))
        self._ahead_bytes += size

    def _flush_soon(self) -> None:
        """Send the items that wait, because the generator waits."""
        try:
            self._flush()
        except AioRpcError as error:
            self.broken = error
            self._request.cancel()

    # The caller

    def taken(self, taken: int) -> None:
        """Send more items: the caller's program has taken this many."""
        self._heard_at = self._loop.time()
        self._taken = max(self._taken, min(taken, self._sent))
        while self._ahead and self._ahead[0][0] <= self._taken:
            self._ahead_bytes -= self._ahead.popleft()[1]
        if self._room is not None and not self._room.done() and self._has_room():
            self._room.set_result(None)

    def fail(self, why: str) -> None:
        """Cancel the method: its caller cannot get the rest."""
        if self.broken is None:
            self.broken = ConnectionLost(f"the stream ended after {self._sent} items: {why}")
            self._request.cancel()

    def _stay_alive(self) -> None:
        now, every = self._loop.time(), self._alive_every
        self._timer = self._loop.call_later(every, self._stay_alive)
        if now - self._heard_at > self._silence:
            log.info("%s: its caller is silent; the stream is cancelled", self._name)
            self.fail("its caller was silent")
        elif now - self._wrote_at >= every / 2:
            alive = self._host.wire.streams.alive(self._request.message, self._sent)
            self._host.transport.send(self._mandatory(alive))

    def _mandatory(self, message: Message) -> Outgoing:
        self._wrote_at = self._loop.time()
        exchange, reply_to = self._host.wire.rpc_exchange.name, self._request.message.reply_to or ""
        return _Mandatory(
            exchange=exchange, routing_key=reply_to, message=message, mandatory=True, stream=self
        )

    def _send(self, message: Message) -> None:
        self._wrote_at = self._loop.time()
        exchange, reply_to = self._host.wire.rpc_exchange.name, self._request.message.reply_to or ""
        outgoing = Outgoing(exchange=exchange, routing_key=reply_to, message=message, confirm=False)
        self._host.transport.send(outgoing)

    def unreached(self, error: AioRpcError) -> None:
        """Cancel the method: a message did not reach its caller. It may be the first one."""
        self._request.delivery.ack()
        self.fail(f"its caller cannot be reached: {error}")

    # The end

    def end(self, outcome: Outcome) -> None:
        """Tell the caller how the method ended. An error follows the items before it."""
        if self._timer is not None:
            self._timer.cancel()
        ending, error = outcome.ending, self.broken or outcome.error
        if ending is Ending.ABANDONED:
            error = ConnectionLost(f"the stream ended after {self._sent} items: the service stops")
        elif ending is Ending.CANCELLED and error is None:
            return
        replies, request = self._host.wire.replies, self._request.message
        if error is None:
            reply = replies.result(request, None)
        else:
            refusal = ending is not Ending.RAISED or self.broken is not None
            reply = replies.error(request, error, refusal=refusal, secrets=outcome.secrets)
        try:
            self._flush()
            self._send(self._host.wire.streams.end(reply, self._sent))
        except Exception as exc:  # noqa: BLE001 - the caller gets every error as its answer
            text = f"{type(error).__name__}, which cannot be sent: {type(exc).__name__}"
            reply = replies.error(request, AioRpcError(text))
            self._send(self._host.wire.streams.end(reply, self._sent))


class Streams:
    """
    The running streams of one service.

    Args:
        cancellations: has the queue of this instance for messages of callers.
    """

    def __init__(self, host: Host, cancellations: Cancellations[ServedRequest]) -> None:
        self._host = host
        self._cancellations = cancellations
        self._running: dict[Key, Stream] = {}
        cancellations.other = self._received
        self._stop_listening: Callable[[], None] | None = None

    def open(self, request: ServedRequest) -> Stream | Collected:
        """Return what takes the items for *request*."""
        if not (request.window and request.message.reply_to and self._cancellations.queue):
            return Collected(self._host, request)
        stream = Stream(self._host, request, self._cancellations.queue)
        self._running[request.key] = stream
        if self._stop_listening is None:
            self._stop_listening = self._host.transport.on_state(self._on_state)
        return stream

    def close(self, request: ServedRequest, stream: Stream | Collected, outcome: Outcome) -> bool:
        """
        End the *stream* of *request* with *outcome*. Return False if its method has not started, or
        its caller gets a list: then the request is answered, or requeued, as others are.
        """
        if isinstance(stream, Collected):
            return False
        if self._running.get(request.key) is stream:  # a peer may use an id twice
            del self._running[request.key]
        if not self._running and self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
        if not stream.begun:
            return False
        stream.end(outcome)
        return True

    def joins(self, request: ServedRequest) -> None:
        """The request of a stream that runs was redelivered."""
        stream = self._running.get(request.key)
        if stream is not None and stream.begun:
            request.delivery.ack()

    def _received(self, message: Message) -> None:
        key, taken = decode_taken(message)
        stream = self._running.get(key)
        if stream is not None:
            stream.taken(taken)

    def _on_state(self, state: State) -> None:
        if state not in (State.CONNECTED, State.BLOCKED):
            for stream in list(self._running.values()):
                if stream.begun:
                    stream.fail("the service lost its connection")
