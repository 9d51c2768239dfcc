"""
``QUEUE_OPTIONS``: options of queues, by the names of the queues. Pure functions and values.

Imports ``exceptions`` and msgspec only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import msgspec

from ..exceptions import ConfigurationError

__all__ = ["QueueOptions", "options_for"]

#: 49 days, the longest time that each version of RabbitMQ accepts.
_Duration = Annotated[float, msgspec.Meta(ge=0, le=4294967)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class QueueOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``QUEUE_OPTIONS``. Durations are in seconds. None: RabbitMQ's default."""

    #: Whether somebody else declares the queue and its exchange. Then aiorpc declares neither.
    passive: bool | None = None
    #: Whether aiorpc binds the queue to its exchange. None: it does.
    bind: bool | None = None
    type: Literal["classic", "quorum"] | None = None
    message_ttl: _Duration | None = None
    max_length: _Count | None = None
    max_length_bytes: _Count | None = None
    overflow: Literal["drop-head", "reject-publish", "reject-publish-dlx"] | None = None
    single_active_consumer: bool | None = None
    #: The highest priority of messages, in a classic queue.
    max_priority: Annotated[int, msgspec.Meta(ge=1, le=255)] | None = None
    #: Failed deliveries of a message at most, in a quorum queue.
    delivery_limit: _Count | None = None
    dead_letter_exchange: str | None = None
    #: Further arguments of ``queue.declare``.
    arguments: dict[str, Any] = {}

    def __or__(self, other: QueueOptions) -> QueueOptions:
        """Return these options, overridden by those that *other* sets."""
        changes = {
            name: value
            for name in self.__struct_fields__
            if name != "arguments" and (value := getattr(other, name)) is not None
        }
        changes["arguments"] = {**self.arguments, **other.arguments}
        return msgspec.structs.replace(self, **changes)

    def for_queue(self, name: str, *, shared: bool) -> dict[str, Any]:
        """
        Return the arguments of ``queue.declare`` for the queue *name*.

        Args:
            shared: whether the queue is durable, and neither exclusive nor deleted with its
                consumer. RabbitMQ has no other quorum queues.

        Raises:
            ConfigurationError: a quorum queue would have an argument of classic queues.
        """
        if shared and self.type == "quorum" and self.max_priority is not None:
            raise ConfigurationError(
                f"QUEUE_OPTIONS: queue {name!r} is a quorum queue and has a max_priority, which "
                "only classic queues have. Leave it out: RabbitMQ 4 has priorities in quorum queues"
            )
        return {**dict(self._arguments(shared)), **self.arguments}

    def _arguments(self, shared: bool) -> Iterator[tuple[str, Any]]:
        if shared and self.type is not None:
            yield "x-queue-type", self.type
        if shared and self.type != "classic" and self.delivery_limit is not None:
            yield "x-delivery-limit", self.delivery_limit
        if self.message_ttl is not None:
            yield "x-message-ttl", round(self.message_ttl * 1000)
        if self.single_active_consumer:
            yield "x-single-active-consumer", True
        for argument, value in (
            ("x-max-length", self.max_length),
            ("x-max-length-bytes", self.max_length_bytes),
            ("x-overflow", self.overflow),
            ("x-max-priority", self.max_priority),
            ("x-dead-letter-exchange", self.dead_letter_exchange),
        ):
            if value is not None:
                yield argument, value


def options_for(queue: str, options: Mapping[str, QueueOptions]) -> QueueOptions | None:
    """
    Return the options of *queue*: those of all patterns that match its name. A later pattern
    overrides an earlier one. ``None`` if no pattern matches.
    """
    found: QueueOptions | None = None
    for pattern, each in options.items():
        if fnmatchcase(queue, pattern):
            found = each if found is None else found | each
    return found
