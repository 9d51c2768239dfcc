"""
Counts the messages and consumers of queues. Does I/O through ``link``.
"""

from __future__ import annotations

import asyncio

import aiormq

from ...wire.message import name_fault
from ..base import QueueState
from .errors import Refused, errors, quietly
from .link import REPLY_TIMEOUT, Link
from .methods import QueueDeclare
from .supervisor import Supervisor

__all__ = ["Inspector"]

#: Seconds after which an inspection does not delay others. RabbitMQ 4 does not answer for a queue
#: whose node is down.
PROMPT = 0.5


class Inspector:
    """Inspects queues on one channel, and reopens the channel after a missing queue closed it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._channel: aiormq.Channel | None = None
        self._channel_link: Link | None = None
        self._looks: dict[str, asyncio.Task[QueueState | None]] = {}
        self._lock = asyncio.Lock()

    async def inspect(self, queue: str, timeout: float) -> QueueState | None:
        """See :meth:`..base.Transport.inspect`."""
        if name_fault(queue):
            return QueueState(queue, exists=False)
        if self._supervisor.link is None:
            return None
        look = self._looks.get(queue)
        if look is None:
            look = self._looks[queue] = asyncio.create_task(self._look(queue))
            look.add_done_callback(lambda _: self._looks.pop(queue, None))
        # The task outlives its caller: other callers may wait for the same answer, and
        # cancelling a passive declare would close the channel.
        done, _ = await asyncio.wait([look], timeout=timeout)
        return look.result() if done and not look.cancelled() else None

    async def close(self) -> None:
        """Cancel the running inspections."""
        looks = list(self._looks.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def _look(self, queue: str) -> QueueState | None:
        asking: asyncio.Task[QueueState] | None = None
        try:
            async with self._lock:
                link = self._supervisor.link
                if link is None:
                    return None
                channel = await self._ready(link)
                asking = asyncio.create_task(_ask(channel, queue))
                done, _ = await asyncio.wait([asking], timeout=PROMPT)
                if not done:
                    self._channel = None  # the next inspection opens another channel
            state = await asking
            if self._channel is not channel:
                await link.farewell(channel.close)
            return state
        except Refused as refused:
            if refused.unavailable:
                return QueueState(queue, exists=True, trouble=refused.text)
            return QueueState(queue, exists=False) if refused.code == 404 else None
        except (ConnectionError, TimeoutError):
            return None
        finally:
            if asking is not None and not asking.done():
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

    async def _ready(self, link: Link) -> aiormq.Channel:
        channel = self._channel
        if channel is None or channel.is_closed or self._channel_link is not link:
            channel = self._channel = await link.channel()
            self._channel_link = link
        return channel


async def _ask(channel: aiormq.Channel, queue: str) -> QueueState:
    with quietly(), errors():
        # aiormq's own timeout may ignore a cancellation on Python 3.11 (bpo-37658, `wait_for`).
        async with asyncio.timeout(REPLY_TIMEOUT):
            declared = await channel.rpc(QueueDeclare(queue=queue, passive=True))
    return QueueState(
        queue,
        exists=True,
        messages=declared.message_count or 0,
        consumers=declared.consumer_count or 0,
    )
