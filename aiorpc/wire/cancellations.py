"""
Encodes and decodes the messages by which a caller cancels its call. Pure functions: nothing here
awaits or does I/O.

Nameko never sees these messages: their exchange is ours alone.
"""

from __future__ import annotations

from ..exceptions import MalformedRequest
from .message import Message, expiration_of
from .names import UNBOUNDED_CANCEL
from .serializers import JSON

__all__ = ["decode_cancellation", "encode_cancellation"]


def encode_cancellation(reply_to: str, correlation_id: str, left: float | None) -> Message:
    """
    The message that cancels one call.

    Args:
        reply_to, correlation_id: those of the request.
        left: seconds until the deadline of the call; ``None`` if it has none.
    """
    lifetime = UNBOUNDED_CANCEL if left is None else min(left, UNBOUNDED_CANCEL)
    return Message(
        body=JSON.encode([reply_to, correlation_id, lifetime]),
        persistent=False,
        expiration=expiration_of(lifetime),
    )


def decode_cancellation(message: Message) -> tuple[tuple[str, str], float]:
    """
    The call's ``reply_to`` and ``correlation_id``, and the seconds until its deadline.

    Raises:
        MalformedRequest: *message* cancels no call.
    """
    match JSON.decode(message.body):
        case [str(reply_to), str(correlation_id), int(lifetime) | float(lifetime)]:
            return (reply_to, correlation_id), min(float(lifetime), UNBOUNDED_CANCEL)
    raise MalformedRequest("expected [reply_to, correlation_id, seconds]")
