"""
Encodes and decodes the messages of a stream. Pure functions: nothing here awaits or does I/O.

A stream is a call whose answer is many items. Its request has the header ``aiorpc-stream`` with the
number of items that the caller buffers. The service answers on the caller's reply queue, with the
request's ``correlation_id``, and these values of ``aiorpc-stream``:

``open``
    The method runs. ``reply_to`` is the queue for the caller's messages to this instance, and
    ``aiorpc-alive`` the seconds between two signs of life. The request has its own.
``items``
    A reply whose result is a list of items. ``aiorpc-item`` is the number of earlier items.
``alive``
    The method runs, and has no item. ``aiorpc-item`` is the number of items: the caller sees by it
    that the broker dropped one.
``end``
    The last message: a reply without a result, or with the error. ``aiorpc-item`` is the number of
    items.

The caller sends ``taken`` (how many items its program took) to the queue of the instance, also as a
sign of life. Nameko and older versions of aiorpc ignore these headers, and answer with a reply that
has none.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..context import EMPTY
from ..exceptions import MalformedRequest
from .content import Content
from .message import Message
from .names import ALIVE_EVERY, ITEM, STREAM
from .serializers import JSON

__all__ = [
    "ALIVE",
    "END",
    "ITEMS",
    "OPEN",
    "StreamMessages",
    "decode_taken",
    "encode_taken",
    "position_of",
    "silence_of",
    "stream_kind",
]

#: The longest interval of a peer, in seconds, that we believe.
MOST_SILENT = 3600
OPEN, ITEMS, ALIVE, END, TAKEN = "open", "items", "alive", "end", "taken"


def stream_kind(message: Message) -> str | None:
    """Return the kind of a *message* of a stream; ``None`` for an ordinary reply."""
    kind = message.headers.get(STREAM) if message.headers else None
    return kind if type(kind) is str else None


def position_of(message: Message) -> int:
    """Return the number of items that the service sent before *message*; -1 if it does not say."""
    item = message.headers.get(ITEM) if message.headers else None
    return item if type(item) is int else -1


def silence_of(message: Message, every: float) -> float:
    """
    Return the seconds after which the peer that sent *message* is lost, if our own signs of life
    come *every* so many seconds: two intervals of the slower side.
    """
    peers: Any = message.headers.get(ALIVE_EVERY) if message.headers else None
    known = type(peers) in (int, float) and 0 < peers <= MOST_SILENT
    return 2 * max(every, peers if known else every)


def encode_taken(reply_to: str, correlation_id: str, taken: int) -> Message:
    """Return the message that tells a service how many items of a stream were taken."""
    return Message(
        body=JSON.encode([reply_to, correlation_id, taken]),
        headers={STREAM: TAKEN},
        persistent=False,
    )


def decode_taken(message: Message) -> tuple[tuple[str, str], int]:
    """
    Return the ``reply_to`` and ``correlation_id`` of a stream's request, and the items taken.

    Raises:
        MalformedRequest: *message* is not such a message.
    """
    match JSON.decode(message.body):
        case [str(reply_to), str(correlation_id), int(taken)]:
            return (reply_to, correlation_id), taken
    raise MalformedRequest("expected [reply_to, correlation_id, items]")


class StreamMessages:
    """Encodes the service's messages of streams for one configuration."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def item(self, request: Message, item: Any) -> tuple[bytes, bool]:
        """
        Encode *item* now, because the method may change it later.

        Returns:
            The bytes, and whether :meth:`items` can join them with others.

        Raises:
            UnserializableValueError: it cannot be encoded.
        """
        serializer = self._content.answering(request)
        if serializer.content_type == JSON.content_type:
            return serializer.encode(item), True
        return serializer.encode({"result": [item], "error": None}), False

    def items(self, request: Message, items: list[bytes], position: int, joined: bool) -> Message:
        """Return the message with *items*; *position* is the number of earlier items."""
        body = b'{"result":[%b],"error":null}' % b",".join(items) if joined else items[0]
        return self._message(request, ITEMS, body, {ITEM: position})

    def open(self, request: Message, queue: str, every: float) -> Message:
        """
        Return the message that the method runs. *queue* is for the caller's messages. *every*: the
        seconds between two signs of life.
        """
        message = self._message(request, OPEN, b"", {ALIVE_EVERY: every})
        message.reply_to = queue
        return message

    def alive(self, request: Message, position: int) -> Message:
        """Return the message that the method still runs; *position* is the number of items."""
        return self._message(request, ALIVE, b"", {ITEM: position})

    @staticmethod
    def end(reply: Message, position: int) -> Message:
        """Return *reply*, with or without an error, as the last message of a stream."""
        return msgspec.structs.replace(
            reply, headers={STREAM: END, ITEM: position}, persistent=False
        )

    def _message(
        self, request: Message, kind: str, body: bytes, more: dict[str, Any] | None = None
    ) -> Message:
        serializer = self._content.answering(request)
        return Message(
            body=body,
            content_type=serializer.content_type,
            content_encoding=serializer.content_encoding,
            headers={STREAM: kind, **(more or EMPTY)},
            persistent=False,
            correlation_id=request.correlation_id,
        )
