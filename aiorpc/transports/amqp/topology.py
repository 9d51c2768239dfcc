"""
Declares exchanges and queues, and deletes queues.

RabbitMQ closes the channel when it refuses a request. So each request has a separate channel, or
uses the consumer's channel before it consumes. Does I/O through ``link``; may import aiormq.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NamedTuple

import aiormq
from aiormq.abc import ChannelFrame
from pamqp.base import Frame

from ...exceptions import ConfigurationError
from ...logs import logger
from ...wire.message import Exchange, Queue
from .errors import Refused, errors, quietly, refusal
from .link import CLOSE_TIMEOUT, Link
from .methods import ExchangeDeclare, QueueBind, QueueDeclare, QueueDelete

__all__ = [
    "Topology",
    "accept_queue",
    "answered",
    "declare_ahead",
    "declare_queue",
    "delete_queue",
    "misdeclared",
    "queue_exists",
    "type_of",
    "unknown_type",
    "version_of",
]

log = logger(__name__)

#: Seconds to wait for the reason why a channel is closing; aiormq needs a few loop turns.
_CLOSED_WITHIN = 1.0


class Topology:
    """The declared exchanges and queues, which are declared again after every reconnect."""

    def __init__(self) -> None:
        self._exchanges: dict[str, Exchange] = {}
        self._queues: dict[str, Queue] = {}
        #: What was logged about queues that exist with other arguments.
        self._logged = set[_Difference]()

    async def declare(
        self, link: Link, exchanges: Iterable[Exchange], queues: Iterable[Queue]
    ) -> tuple[Exchange, ...]:
        """
        Declare *exchanges* and *queues*, and remember them. Return the declared exchanges.

        Raises:
            Refused: an exchange or queue exists with other flags, or the user may not declare it.
            ConnectionError, TimeoutError: the link is lost.
        """
        exchanges, queues = tuple(exchanges), tuple(queues)
        asked = queues
        while True:
            try:
                await _declare_all(link, exchanges, queues)
            except Refused as refused:
                accepted = (
                    tuple(accept_exchange(each, refused) for each in exchanges),
                    tuple(accept_queue(each, refused, self._logged) for each in queues),
                )
                if accepted == (exchanges, queues):
                    raise
                exchanges, queues = accepted
            else:
                break
        self._exchanges.update((exchange.name, exchange) for exchange in exchanges)
        self._queues.update((queue.name, queue) for queue in asked)
        return exchanges

    async def restore(self, link: Link) -> None:
        """Declare everything again. Log and skip the exchanges and queues that fail."""
        for exchange in list(self._exchanges.values()):
            await self._try(link, f"exchange {exchange.name!r}", (exchange,), ())
        for queue in list(self._queues.values()):
            await self._try(link, f"queue {queue.name!r}", (), (queue,))

    async def _try(
        self, link: Link, what: str, exchanges: tuple[Exchange, ...], queues: tuple[Queue, ...]
    ) -> None:
        try:
            await self.declare(link, exchanges, queues)
        except (Refused, TimeoutError) as error:
            if link.lost.done():
                raise
            log.error("%s could not be declared again on %s: %s", what, link.url, error)

    def forget(self, queue: str) -> None:
        """Do not declare *queue* after the next reconnect."""
        self._queues.pop(queue, None)


async def declare_queue(link: Link, queue: Queue) -> None:
    """
    Declare *queue* with its exchange and binding.

    Raises:
        Refused, ConnectionError, TimeoutError: as :meth:`Topology.declare`.
    """
    await _declare_all(link, (), (queue,))


async def type_of(link: Link, queue: Queue) -> str:
    """
    Declare *queue* without its binding. Return ``quorum`` if it is a quorum queue, else
    ``classic``: also if RabbitMQ does not say, for example because it refuses *queue*.

    A classic queue can be declared again as a classic queue. If the queue is another one, or would
    be another one by the vhost's default, the refusal names its type (RabbitMQ 3.10 to 4.3).

    Raises:
        Refused: the queue is unavailable.
        ConnectionError, TimeoutError: the link is lost.
    """
    queue = replace(queue, exchange=Exchange())
    again = replace(queue, passive=False, arguments={**queue.arguments, _TYPE: "classic"})
    try:
        await _declare_all(link, (), (queue, again))
    except Refused as refused:
        if refused.unavailable:
            raise
        if re.search(_IS_QUORUM, refused.text):
            return "quorum"
    return "classic"


async def queue_exists(link: Link, queue: str) -> bool:
    """
    Return whether *queue* exists.

    Raises:
        Refused: the queue exists, and is exclusive to another connection (405) or unavailable.
        ConnectionError, TimeoutError: the link is lost.
    """
    try:
        async with link.passing_channel() as channel:
            await channel.rpc(QueueDeclare(queue=queue, passive=True))
    except Refused as refused:
        if refused.missing:
            return False
        raise
    return True


async def delete_queue(link: Link, queue: str) -> None:
    """
    Delete *queue*, if it exists.

    Raises:
        Refused, ConnectionError, TimeoutError: the queue could not be deleted.
    """
    async with link.passing_channel() as channel, asyncio.timeout(CLOSE_TIMEOUT):
        await channel.rpc(QueueDelete(queue=queue))


async def declare_ahead(channel: aiormq.Channel, queue: Queue) -> None:
    """
    Declare *queue*, its exchange and its binding without waiting for an answer (``nowait``). The
    broker reports only an error, and closes *channel*: the next request on *channel* fails. See
    :func:`answered`.
    """
    frames = [
        *_exchange_frames(queue.exchange, ahead=True),
        *_queue_frames(_fitting(channel, queue), ahead=True),
    ]
    await channel.write_queue.put(
        ChannelFrame.marshall(channel_number=channel.number, frames=frames)
    )


@asynccontextmanager
async def answered(channel: aiormq.Channel) -> AsyncGenerator[None]:
    """
    Raise the broker's reason if the broker closes *channel* during the block: before, between or
    after the block's requests.

    Raises:
        Refused, ConnectionError: as :meth:`Topology.declare`.
    """
    try:
        with quietly(), errors():
            yield
    except ConnectionError:
        # aiormq fails a request on a closing channel without the broker's reason.
        closing = channel.closing
        await asyncio.wait([closing], timeout=_CLOSED_WITHIN)
        if closing.done() and not closing.cancelled():
            refused = refusal(closing.exception())
            if refused.code:
                raise refused from None
        raise


async def _declare_all(link: Link, exchanges: Iterable[Exchange], queues: Iterable[Queue]) -> None:
    async with link.passing_channel() as channel:
        for exchange in exchanges:
            await _declare_exchange(channel, exchange)
        for queue in queues:
            await _declare_queue(channel, queue)


async def _declare_exchange(channel: aiormq.Channel, exchange: Exchange) -> None:
    for frame in _exchange_frames(exchange):
        await channel.rpc(frame)


async def _declare_queue(channel: aiormq.Channel, queue: Queue) -> None:
    await _declare_exchange(channel, queue.exchange)
    for frame in _queue_frames(_fitting(channel, queue)):
        await channel.rpc(frame)


#: The argument that limits the failed deliveries of each message.
_LIMIT = "x-delivery-limit"


def _fitting(channel: aiormq.Channel, queue: Queue) -> Queue:
    """
    Return *queue* without a delivery limit of -1, if the broker does not know it. Before RabbitMQ
    4.0, a quorum queue with this limit deletes a message at its first requeue (3.10), and one
    without the argument has no limit.
    """
    if queue.arguments.get(_LIMIT) != -1 or version_of(channel) >= (4,):
        return queue
    return replace(queue, arguments={k: v for k, v in queue.arguments.items() if k != _LIMIT})


def version_of(channel: aiormq.Channel) -> tuple[int, ...]:
    """Return the broker's version, such as ``(4, 3, 6)``; ``()`` if it does not say."""
    version = str(channel.connection.server_properties.get("version"))
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def _exchange_frames(exchange: Exchange, *, ahead: bool = False) -> Iterator[Frame]:
    if exchange.name:  # the default exchange cannot be declared
        yield ExchangeDeclare(
            exchange=exchange.name,
            exchange_type=exchange.type,
            durable=exchange.durable,
            auto_delete=exchange.auto_delete,
            passive=exchange.passive,
            arguments=dict(exchange.arguments),
            nowait=ahead,
        )


def _queue_frames(queue: Queue, *, ahead: bool = False) -> Iterator[Frame]:
    arguments = dict(queue.arguments)
    if queue.expires is not None:
        arguments["x-expires"] = round(queue.expires * 1000)
    yield QueueDeclare(
        queue=queue.name,
        durable=queue.durable,
        exclusive=queue.exclusive,
        auto_delete=queue.auto_delete,
        passive=queue.passive,
        arguments=arguments,
        nowait=ahead,
    )
    if queue.exchange.name:  # every queue is bound to the default exchange by its name
        yield QueueBind(
            queue=queue.name,
            exchange=queue.exchange.name,
            routing_key=queue.routing_key,
            nowait=ahead,
        )


class _Difference(NamedTuple):
    """What RabbitMQ says of a queue or an exchange that exists with another flag."""

    flag: str
    kind: str
    name: str


_DIFFERENCE = r"inequivalent arg '([^']*)' for (queue|exchange) '(.*?)' in vhost"


#: May differ in every queue, because an operator may change the default type of the vhost. RabbitMQ
#: (3.10 to 4.3) reports flags and most other arguments first.
_TYPE = "x-queue-type"
_IS_QUORUM = rf"inequivalent arg '{_TYPE}' .* current is (?:the value )?'quorum'"


def _difference(refused: Refused) -> _Difference | None:
    found = re.search(_DIFFERENCE, refused.text) if refused.code == 406 else None
    return None if found is None else _Difference(*found.groups())


def accept_exchange(exchange: Exchange, refused: Refused) -> Exchange:
    """
    Return *exchange* with the broker's ``auto_delete``, if the broker refused only this flag and it
    may differ. Otherwise return *exchange* itself.
    """
    if not exchange.accept_existing or _difference(refused) != (
        "auto_delete",
        "exchange",
        exchange.name,
    ):
        return exchange
    there = not exchange.auto_delete
    log.info(
        "exchange %s exists with auto_delete=%s, and is used as it is; AUTO_DELETE_EVENT_EXCHANGES "
        "is what aiorpc declares",
        exchange.name,
        there,
    )
    return replace(exchange, auto_delete=there)


def accept_queue(queue: Queue, refused: Refused, logged: set[_Difference] | None = None) -> Queue:
    """
    Return *queue* as a passive queue, if the broker refused only a difference that is allowed.
    :func:`accept_exchange` handles its exchange. Otherwise return *queue* itself. Log a difference
    that is not in *logged*, and add it.
    """
    exchange = accept_exchange(queue.exchange, refused)
    if exchange is not queue.exchange:
        return replace(queue, exchange=exchange)
    difference = _difference(refused)
    if difference is None or difference[1:] != ("queue", queue.name):
        return queue
    if difference.flag != _TYPE and not queue.accept_existing:
        return queue
    if not difference.flag.startswith("x-") or "'stream'" in refused.text:
        # A queue that is not durable, or deleted with its consumer, loses messages. A stream keeps
        # acked messages.
        return queue
    logged = set() if logged is None else logged
    if difference not in logged:
        logged.add(difference)
        flag = difference.flag
        log.info("queue %s exists with another %s, and is used as it is", queue.name, flag)
    return replace(queue, passive=True)


_UNKNOWN_TYPE = "unknown exchange type"


def unknown_type(link: Link, exchanges: Iterable[Exchange]) -> Refused | None:
    """
    Return why the broker closed the connection *link*, if it has no exchanges of the type of one of
    *exchanges*.
    """
    refused = link.refused
    if refused is None:
        return None
    known = any(f"{_UNKNOWN_TYPE} '{each.type}'" in refused.text for each in exchanges)
    return refused if known else None


def misdeclared(what: str, refused: Refused) -> ConfigurationError:
    """Return the error for *what*, whose declaration was *refused*, with advice."""
    difference = _difference(refused)
    if difference is not None and f"{difference.kind} {difference.name!r}" not in what:
        what = f"{what}: its {difference.kind} {difference.name!r}"
    if refused.unavailable:
        advice = "its node is down: start the node, or use quorum queues, which need a majority"
        return ConfigurationError(f"{what}: {advice} ({refused})", may_pass=refused.may_pass)
    advice = {
        406: "it exists with other flags or arguments, and RabbitMQ never changes those: use the "
        "same ones, or delete it first",
        403: "the user lacks the permission to configure it, or its name is reserved",
        404: "the exchange or queue that it refers to does not exist: declare it first, or leave "
        "out passive",
        405: "it is exclusive to another connection",
        530: "the connection needs one more channel than the broker permits: raise channel_max in "
        "the broker's configuration, or host fewer handlers in one process",
    }.get(refused.code, "the broker refuses it")
    if _UNKNOWN_TYPE in refused.text:  # 406 since RabbitMQ 4, and before a closed connection
        advice = "the broker has no exchanges of this type: correct the type, or enable its plugin"
    elif "invalid arg" in refused.text:
        advice = "the broker does not take one of its arguments: correct the argument"
    elif refused.code == 406 and refused.may_pass:
        advice = "a limit of the broker is reached: raise the limit, or delete what nobody uses"
    return ConfigurationError(f"{what}: {advice} ({refused})", may_pass=refused.may_pass)
