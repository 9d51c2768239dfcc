"""
Shows one parked message whole, with its secrets masked. Pure functions.
"""

from __future__ import annotations

import base64
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

__all__ = ["Shown", "shown_of"]


class Shown(msgspec.Struct):
    """A message as people see it: ``body`` is decoded, or else ``body_base64`` has the bytes."""

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
    properties: dict[str, Any]
    headers: dict[str, Any]
    bytes: int
    body: Any = None
    body_text: str | None = None
    body_base64: str | None = None
    body_trouble: str = ""


def shown_of(parked: ParkedMessage, messages: int, settings: Settings) -> Shown:
    """
    Return what people may see of *parked*: sensitive arguments are masked, and secrets by name.

    Args:
        messages: how many messages its queue has.
    """
    message, parking = parked.message, parked.parking
    body = Body(trouble=parked.unreadable)
    if not parked.unreadable:
        body = Bodies(settings).shown(message, parking.sensitive)
    is_decoded = body.value is not msgspec.UNSET
    is_binary = not is_decoded and body.text is None and not parking.sensitive
    return Shown(
        parked.queue,
        messages,
        parked.position,
        parked.id,
        parking.method,
        parking.error,
        parking.reason,
        parking.stack,
        parking.at,
        parking.queue,
        parking.exchange,
        parking.routing_key,
        parked.delivery.redelivered,
        _properties_of(message),
        _headers_of(message),
        len(message.body),
        body.value if is_decoded else None,
        body.text,
        base64.b64encode(message.body).decode() if is_binary else None,
        body.trouble,
    )


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
