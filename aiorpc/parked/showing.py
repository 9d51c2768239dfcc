"""
Shows one parked message whole, with its secrets masked. Pure functions.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from ..config import Settings
from ..config.redaction import redact
from ..context import EMPTY
from ..wire.message import Message
from ..wire.names import ADDED_PREFIXES
from .bodies import Bodies, Body
from .messages import ParkedMessage

__all__ = ["Shown", "ShownMessage", "contents_of", "shown_of"]


class ShownMessage(msgspec.Struct, kw_only=True):
    """A message as people see it: ``body`` is decoded, or else ``body_base64`` has the bytes."""

    properties: dict[str, Any]
    headers: dict[str, Any]
    bytes: int
    body: Any = None
    body_text: str | None = None
    body_base64: str | None = None
    body_trouble: str = ""


class Shown(ShownMessage, kw_only=True):
    """A parked message as people see it."""

    queue: str
    messages: int
    position: int
    id: str
    method: str
    error: str
    reason: str
    stack: str | None
    parked_at: datetime | None
    from_queue: str
    exchange: str | None
    routing_key: str | None
    redelivered: bool


def shown_of(parked: ParkedMessage, messages: int, settings: Settings) -> Shown:
    """
    Return what people may see of *parked*: sensitive arguments are masked, and secrets by name.

    Args:
        messages: how many messages its queue has.
    """
    parking = parked.parking
    return Shown(
        queue=parked.queue,
        messages=messages,
        position=parked.position,
        id=parked.id,
        method=parking.method,
        error=parking.error,
        reason=parking.reason,
        stack=parking.stack,
        parked_at=parking.at,
        from_queue=parking.queue,
        exchange=parking.exchange,
        routing_key=parking.routing_key,
        redelivered=parked.delivery.redelivered,
        **contents_of(parked.message, settings, parking.sensitive, parked.unreadable),
    )


def contents_of(
    message: Message,
    settings: Settings,
    sensitive: Sequence[Sequence[str]] = (),
    unreadable: str = "",
) -> dict[str, Any]:
    """
    Return what people may see of *message*: the fields of :class:`ShownMessage`.

    Args:
        sensitive: the paths of sensitive arguments in the body.
        unreadable: why the message cannot be read, if it cannot.
    """
    body = Body(trouble=unreadable) if unreadable else Bodies(settings).shown(message, sensitive)
    is_decoded = body.value is not msgspec.UNSET
    is_binary = not is_decoded and body.text is None and not sensitive
    return {
        "properties": _properties_of(message),
        "headers": _headers_of(message),
        "bytes": len(message.body),
        "body": body.value if is_decoded else None,
        "body_text": body.text,
        "body_base64": base64.b64encode(message.body).decode() if is_binary else None,
        "body_trouble": body.trouble,
    }


def _headers_of(message: Message) -> dict[str, Any]:
    """Return the headers, with the secrets in context data masked."""
    return {
        name: value if name.startswith(ADDED_PREFIXES) else redact(name, value)
        for name, value in (message.headers or EMPTY).items()
    }


def _properties_of(message: Message) -> dict[str, Any]:
    names = (
        *("content_type", "content_encoding", "message_id", "correlation_id", "reply_to"),
        *("type", "app_id", "user_id", "timestamp", "priority", "expiration"),
    )
    found = {name: getattr(message, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}
