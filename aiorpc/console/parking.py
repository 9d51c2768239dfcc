"""
Looks at parked messages for the page, and replays them. Awaits the transport and, if there is one,
the management API.

A look takes messages from their queue and gives them back, so RabbitMQ marks them as redelivered.
It is made only when a page asks for it. A queue that counts looks as failed deliveries is not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import msgspec

from ..config import Settings
from ..exceptions import ConfigurationError, ConnectionLost
from ..management import Management
from ..parked.messages import Selection
from ..parked.queues import FoundQueues, ParkedQueue, find_queues
from ..parked.reading import Look, find, look
from ..parked.settling import Replay, Settled
from ..parked.showing import Shown, shown_of
from ..transports.base import Transport

__all__ = ["ParkedLook", "ParkedMessages"]

#: Messages of one queue that a page reads at most, and of which it lists each.
MOST = 500
#: Seconds for one look, and for one replay; then the replay ends after the messages on their way.
LOOKING, REPLAYING = 30.0, 120.0
#: Seconds that a replay may take to end when the console stops.
ENDING = 5.0


class ParkedLook(msgspec.Struct):
    """One parked queue. *look* lists none of its messages if *cost* says what reading costs."""

    look: Look
    cost: str
    note: str


class ParkedMessages:
    """
    The parked queues of one virtual host. One page at a time reads or replays: two would take
    messages from each other.

    Args:
        settings: of the broker, and with the serializers of the bodies.
        management: lists all queues; ``None``: only those of the services that answer are found.
        wait: seconds to wait for the answers of services.
    """

    def __init__(
        self, transport: Transport, settings: Settings, management: Management | None, wait: float
    ) -> None:
        self._transport, self._settings = transport, settings
        self._management = management
        self._wait = wait
        self._turn = asyncio.Lock()
        self._replaying: asyncio.Task[Settled] | None = None
        self._stop: Callable[[], None] = lambda: None

    async def queues(self) -> FoundQueues:
        """Return the parked queues, with the number of their messages. Reads no message."""
        async with self._bounded():
            return await self._found()

    async def messages(self, queue: str) -> ParkedLook:
        """
        Read the first messages of *queue*.

        Raises:
            ConfigurationError: there is no such queue, or it cannot be read.
            ConnectionLost: the broker does not answer.
        """
        async with self._bounded():
            known = await self._one(queue)
            limit = 0 if known.cost else MOST
            seen = await look(self._transport, known.name, limit, Selection(), each=True)
        if seen is None:
            raise ConfigurationError(f"queue {queue!r} was deleted just now")
        return ParkedLook(seen, known.cost, known.note)

    async def message(self, queue: str, name: str) -> Shown:
        """Return the message *name* of *queue*, with its secrets masked. Raises as above."""
        async with self._bounded():
            known = await self._one(queue)
            _require_free(known)
            async with self._transport.reader(known.name) as reader:
                parked = await find(reader, known.messages, Selection(names=(name,)))
        return shown_of(parked, known.messages, self._settings)

    async def replay(self, queue: str, wanted: Selection) -> Settled:
        """
        Send the *wanted* messages of *queue* to where they came from, and return what happened. A
        message is deleted when the broker has confirmed its copy. A cancelled caller, such as a
        closed page, does not end the replay.

        Raises:
            ConfigurationError, ConnectionLost: as above; or another page reads or replays.
        """
        is_asked = self._replaying is not None and not self._replaying.done()
        if is_asked or self._turn.locked():
            raise ConfigurationError("another page reads or replays: try again when it has ended")
        name = "aiorpc console: replay"
        self._replaying = task = asyncio.create_task(self._replay(queue, wanted), name=name)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _replay(self, queue: str, wanted: Selection) -> Settled:
        async with self._turn:
            async with self._limited():
                known = await self._one(queue)
            _require_free(known)
            replay = Replay(self._transport, known.name, wanted)
            self._stop = replay.stop
            limit = asyncio.get_running_loop().call_later(REPLAYING, replay.stop)
            try:
                return await replay.run()
            finally:
                limit.cancel()

    async def aclose(self) -> None:
        """End a replay after the messages that are on their way. Bounded."""
        self._stop()
        if self._replaying is not None:
            await asyncio.wait((self._replaying,), timeout=ENDING)
            self._replaying.cancel()
            await asyncio.wait((self._replaying,))

    @asynccontextmanager
    async def _bounded(self) -> AsyncGenerator[None]:
        async with self._limited(), self._turn:
            yield

    @asynccontextmanager
    async def _limited(self) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(LOOKING):
                yield
        except TimeoutError:
            raise ConnectionLost(
                f"{self._transport.url} did not show its parked messages within {LOOKING:g} s, or "
                "another page reads or replays: try again"
            ) from None

    async def _found(self, *names: str) -> FoundQueues:
        listed = None
        if self._management is not None:
            queues = await self._management.queues(self._settings.broker_urls[0].vhost)
            listed = {queue.name: queue for queue in queues}
        return await find_queues(self._transport, names, self._wait, listed)

    async def _one(self, queue: str) -> ParkedQueue:
        if "*" in queue:
            raise ConfigurationError(f"{queue!r} is a pattern: name one queue")
        found = await self._found(queue)
        if not found.queues:
            raise ConfigurationError(f"there is no parked queue {queue!r}")
        return found.queues[0]


def _require_free(queue: ParkedQueue) -> None:
    if queue.cost:
        raise ConfigurationError(
            f"{queue.cost} The console does not read it: use `aiorpc parked`, which asks first"
        )
