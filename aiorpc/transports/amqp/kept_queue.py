"""
The queue of a subscription with ``keep``. If its messages are lost, because it was deleted or its
node is down, another queue replaces it. Does I/O through ``link`` and ``topology``.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ...logs import logger
from ...wire.message import Queue
from ...wire.names import replacement_queue
from ..incoming import ConsumerOptions
from .errors import Refused
from .link import Link
from .topology import delete_queue, queue_exists

__all__ = ["KeptQueue"]

log = logger(__name__)

#: Seconds to wait for the state of the queue after a reconnect. RabbitMQ 4 answers for a queue
#: whose node is down after 60 s and more.
LOOK = 3.0


class KeptQueue:
    """
    Finds out whether the queue is lost, and names its replacement.

    The replacement has the exchange and the routing key of the first queue, so later messages
    arrive there. An old queue may come back with its node, and would get the same messages: it is
    deleted as soon as that is possible.

    Attributes:
        consumed: whether the queue was consumed before.
        lost: whether the broker cancelled its consumer: the queue is lost, for whatever reason.
    """

    def __init__(self, options: ConsumerOptions) -> None:
        self.consumed = self.lost = False
        self._keep = options.keep
        self._first = options.queue.name
        self._number = 1
        self._old: set[str] = set()

    async def checked(self, link: Link, queue: Queue) -> tuple[Queue, bool]:
        """
        Return the queue to declare on *link*, and whether it replaces the lost *queue*. A queue
        that was deleted keeps its name.

        Raises:
            Refused, ConnectionError: the broker did not describe the queue.
        """
        if not (self._keep and self.consumed):
            return queue, False
        if not self.lost:
            try:
                async with asyncio.timeout(LOOK):
                    exists = await queue_exists(link, queue.name)
                return queue, not exists
            except TimeoutError:
                if link.lost.done():
                    raise
            except Refused as refused:
                if not refused.unavailable:
                    raise
        self.lost = False
        self._old.add(queue.name)
        self._number += 1
        name = replacement_queue(self._first, self._number)
        return replace(queue, name=name, passive=False), True

    async def delete_old(self, link: Link) -> None:
        """Delete the replaced queues. Keep the names of queues that cannot be deleted yet."""
        for name in list(self._old):
            try:
                await delete_queue(link, name)
            except (Refused, OSError) as error:
                if not (isinstance(error, Refused) and not error.unavailable):
                    log.debug("cannot delete queue %s yet: %s", name, error)
                    continue
            self._old.discard(name)
