"""
Sends the items of a remote method that is a stream: as lines of JSON, or as server-sent events.
Awaits the stream and the client. A client that hangs up ends the stream at the service.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from ..calling.streams import RpcStream
from .exchange import StreamCut
from .hangups import UntilHangUp
from .responses import EventStream, ItemStream, ServerSentEvent

__all__ = ["send_items"]


async def send_items(
    stream: RpcStream[Any],
    encode: Callable[[Any], bytes],
    failed: Callable[[Exception], Any],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """
    Send the response. It has begun when the first item is there, or for events after 15 s.

    Args:
        encode: returns an item as JSON.
        failed: logs an error in the stream, and returns what a client may see of it.

    Raises:
        StreamCut: the stream failed between its lines. The server then cuts the connection, so the
            client does not take the response as whole.
        Exception: the stream failed before the response began.
    """
    sender = _Sender(send)
    response: ItemStream
    if any(name == b"accept" and b"text/event-stream" in value for name, value in scope["headers"]):
        response = EventStream(_events(stream, encode, failed, sender))
    else:
        response = ItemStream(_lines(stream, encode))
        response.headers["content-type"] = "application/x-ndjson"
    async with UntilHangUp(receive), stream:
        try:
            await response(scope, receive, sender)
        except Exception as error:
            if not sender.started:
                raise
            failed(error)
            raise StreamCut(f"the stream failed after its first item: {error}") from None


class _Sender:
    """Sends parts of a response, and knows whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        self.started = True
        await self._send(message)


async def _lines(stream: RpcStream[Any], encode: Callable[[Any], bytes]) -> AsyncGenerator[bytes]:
    while items := await stream.batch():
        yield b"".join(encode(item) + b"\n" for item in items)


async def _events(
    stream: RpcStream[Any],
    encode: Callable[[Any], bytes],
    failed: Callable[[Exception], Any],
    sender: _Sender,
) -> AsyncGenerator[ServerSentEvent]:
    try:
        async for item in stream:
            yield ServerSentEvent(encode(item).decode())
    except Exception as error:
        if not sender.started:
            raise
        yield ServerSentEvent(failed(error), event="problem")
