"""
Applies ``QUEUE_OPTIONS`` to the queues of ``@rpc`` and ``@event_handler``. Pure functions.
"""

from __future__ import annotations

from dataclasses import replace

from ..config import QueueOptions, options_for
from .message import Exchange, Queue

__all__ = ["configured", "has_type", "is_shared", "of_same_type", "of_type"]

_TYPE = "x-queue-type"


def configured(queue: Queue, options: dict[str, QueueOptions]) -> Queue:
    """
    Return *queue* with the options that the configuration has for it.

    Raises:
        ConfigurationError: the options contradict one another.
    """
    found = options_for(queue.name, options) if options else None
    if found is None:
        return queue
    exchange = queue.exchange
    if found.bind is False:
        exchange = Exchange()
    elif found.passive:
        exchange = replace(exchange, passive=True)
    return replace(
        queue,
        exchange=exchange,
        passive=found.passive or queue.passive,
        arguments={**queue.arguments, **found.for_queue(queue.name, shared=is_shared(queue))},
    )


def is_shared(queue: Queue) -> bool:
    """
    Return whether *queue* is durable, and neither exclusive nor deleted with its consumer. All
    other queues are classic.
    """
    return queue.durable and not (queue.exclusive or queue.auto_delete)


def has_type(queue: Queue) -> bool:
    """Return whether *queue* is declared with a type."""
    return _TYPE in queue.arguments


def of_type(queue: Queue, kind: str) -> Queue:
    """Return *queue* with the type *kind*."""
    return replace(queue, arguments={**queue.arguments, _TYPE: kind})


def of_same_type(queue: Queue, source: str, options: dict[str, QueueOptions]) -> Queue:
    """
    Return *queue* with the configured type of the queue *source*, and without its other options,
    such as ``message_ttl``.
    """
    found = options_for(source, options) if options else None
    return queue if found is None or found.type is None else of_type(queue, found.type)
