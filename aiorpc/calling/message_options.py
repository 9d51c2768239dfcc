"""
The options of an event or a message: those of its dispatcher or publisher, and those of one
message. Values only; nothing here awaits or does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self, TypedDict

import msgspec

from ..checks import FLAG, MAPPING, MOMENT, PRIORITY, SECONDS, SHORT_TEXT, TEXT, check, optional
from ..context import EMPTY, FAR
from ..exceptions import ConfigurationError
from ..wire.message import expiration_of
from .options import check_options

__all__ = ["MessageKeywords", "MessageOptions"]


class MessageKeywords(TypedDict, total=False):
    """
    The options of events and messages. A declaration sets them for all messages, and a call of
    ``dispatch`` or ``publish`` for one. ``headers`` are merged.

    Attributes:
        headers: further AMQP headers.
        mandatory: raise ``Unroutable`` if no queue takes the message.
        expiration: seconds after which the broker discards the message, if nobody has read it.
        serializer: the name of the serializer that encodes the payload.
        persistent: whether the message survives a restart of the broker.
        priority: the AMQP priority, 0 to 255.
        message_id: the id of one message; by default, each message gets an id of its own. None: the
            message has no id.
    """

    headers: Mapping[str, Any]
    mandatory: bool | None
    expiration: float | None
    serializer: str | None
    persistent: bool
    priority: int
    correlation_id: str | None
    reply_to: str | None
    message_id: str | None
    timestamp: datetime | None
    type: str | None
    user_id: str | None
    app_id: str | None
    content_type: str | None
    content_encoding: str | None


_SHORT = optional(SHORT_TEXT)
_KINDS = {
    "headers": MAPPING,
    "mandatory": optional(FLAG),
    "expiration": optional(SECONDS),
    "serializer": optional(TEXT),
    "persistent": FLAG,
    "priority": PRIORITY,
    "correlation_id": _SHORT,
    "reply_to": _SHORT,
    "message_id": _SHORT,
    "timestamp": optional(MOMENT),
    "type": _SHORT,
    "user_id": _SHORT,
    "app_id": _SHORT,
    "content_type": _SHORT,
    "content_encoding": _SHORT,
}


class MessageOptions(msgspec.Struct, frozen=True):
    """Options of events and messages, checked. ``expiration`` is in milliseconds here."""

    headers: Mapping[str, Any] = EMPTY
    mandatory: bool = False
    serializer: str | None = None
    #: AMQP properties, by the names of :class:`~aiorpc.wire.message.Message`.
    properties: Mapping[str, Any] = EMPTY

    @classmethod
    def declared(cls, owner: str, options: Mapping[str, Any]) -> Self:
        """
        Return the *options* of all messages of *owner*; see :meth:`replaced`.

        Raises:
            ConfigurationError: the messages would have one id, and an inbox runs an id once.
        """
        declared = cls().replaced(owner, options)
        if declared.properties.get("message_id") is not None:
            raise ConfigurationError(
                f"message_id of {owner} would be the id of all its messages, and an inbox runs "
                "only the first message with an id: give each message its id, "
                "dispatch(..., message_id=...) or publish(..., message_id=...)"
            )
        return declared

    def replaced(self, owner: str, changes: Mapping[str, Any]) -> Self:
        """
        Return the options with *changes*.

        Args:
            owner: the function that takes the options, for errors.

        Raises:
            TypeError: *changes* names an option that does not exist.
            ConfigurationError: the value of an option is wrong.
        """
        if not changes:
            return self
        check_options(owner, changes, _KINDS)
        check(owner, changes, _KINDS)
        properties = dict(changes)
        headers = properties.pop("headers", EMPTY)
        mandatory = properties.pop("mandatory", None)
        serializer = properties.pop("serializer", None)
        if (expiration := properties.get("expiration")) is not None:
            properties["expiration"] = expiration_of(expiration) if expiration < FAR else None
        return type(self)(
            {**self.headers, **headers},
            self.mandatory if mandatory is None else mandatory,
            self.serializer if serializer is None else serializer,
            {**self.properties, **properties},
        )
