"""
Makes the response of a method's result, and sends streams: texts, bytes, server-sent events, or
lines of JSON. Awaits the items of a stream and the client; no other I/O.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..wire.objects import fields_of

__all__ = ["EventStream", "ItemStream", "ServerSentEvent", "checked", "json_of", "response_of"]

#: Seconds of silence after which a stream of events sends a comment. Proxies cut silent responses.
KEEP_ALIVE = 15.0

_JSON = "application/json"

_WITHOUT_BODY = frozenset((204, 304))

#: RFC 9110: the name of a header, and what its value may not contain.
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def response_of(result: Any, *, events: bool = False) -> Response:
    """
    Return the response for *result*: a response, a body, ``(status, body)``, or ``(status, headers,
    body)``, as in Nameko. A str is plain text; bytes are bytes; None has no body; an async iterator
    is a stream; every other body is encoded as JSON. A bool is no status.

    Args:
        events: whether the items of a stream are server-sent events.

    Raises:
        TypeError: the body cannot be encoded.
    """
    if isinstance(result, Response):
        return result
    status, headers, body = None, None, result
    if type(result) is tuple and 2 <= len(result) <= 3 and _is_int(result[0]):
        status, headers, body = result[0], (result[1] if len(result) == 3 else None), result[-1]
    response = _response_of(body, status, events)
    for name, value in _pairs(headers):
        if name.lower() in ("content-length", "content-type", "location"):  # only one of them
            response.headers[name] = value
        else:
            response.headers.append(name, value)
    return response


def checked(response: Any, *, bodiless: bool = False) -> Response:
    """
    Return *response*, which a server can send. The server would otherwise cut the connection. A
    body that the status forbids is left out, as by werkzeug.

    Args:
        bodiless: the response has no body, and the length of another one: an answer to HEAD.

    Raises:
        TypeError: it is no response, or its status or one of its headers is wrong.
    """
    if not isinstance(response, Response):
        raise TypeError(
            f"the entrypoint made a {type(response).__name__}: return a Response of Starlette"
        )
    status = response.status_code
    if not (_is_int(status) and 200 <= status <= 599):
        raise TypeError(
            f"the response has the status {status!r}: give an int from 200 to 599. A tuple that "
            "begins with an int is (status, body); return a list if it is JSON"
        )
    if status in _WITHOUT_BODY and hasattr(response, "body"):
        response.body = b""
    for name, value in response.raw_headers:
        if not _NAME.fullmatch(name):
            raise TypeError(
                f"the response has a header {name.decode('latin-1')!r}: name it by letters, digits "
                "and hyphens"
            )
        if _CONTROL.search(value):
            raise TypeError(
                f"the header {name.decode('latin-1')!r} of the response has a line break or "
                "another control character: remove it"
            )
        if name.lower() == b"content-length" and not bodiless and status not in _WITHOUT_BODY:
            _check_length(value, getattr(response, "body", None))
    return response


def _check_length(length: bytes, body: bytes | None) -> None:
    if body is not None and length != b"%d" % len(body):
        raise TypeError(
            f"the response has the Content-Length {length.decode('latin-1')!r} and a body of "
            f"{len(body)} bytes: leave this header out"
        )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _response_of(body: Any, status: int | None, events: bool) -> Response:
    ok = 200 if status is None else status
    if isinstance(body, str):
        return Response(body, ok, media_type="text/plain")
    if isinstance(body, bytes | bytearray | memoryview):
        return Response(bytes(body), ok, media_type="application/octet-stream")
    if body is None:
        return Response(None, 204 if status is None else status)
    if isinstance(body, AsyncIterator):
        return (EventStream if events else ItemStream)(body, ok)
    return Response(json_of(body), ok, media_type=_JSON)


def _pairs(headers: Any) -> Iterable[tuple[str, str]]:
    if not headers:
        return ()
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return [(str(name), str(value)) for name, value in pairs]


def json_of(value: Any) -> bytes:
    """
    Encode *value* for a client, without kombu's envelopes: dataclasses, Structs, pydantic models,
    dates, UUIDs, Decimals, ...

    Raises:
        TypeError, ValueError: *value* has a part that JSON has no form for.
    """
    try:
        return msgspec.json.encode(value, enc_hook=_json_fields)
    except RecursionError:
        raise ValueError(
            f"cannot encode a {type(value).__name__}: it is nested too deep, or contains itself; "
            "send a flatter value"
        ) from None
    except UnicodeEncodeError:  # msgspec writes no lone surrogates
        plain = msgspec.to_builtins(value, str_keys=True, enc_hook=_json_fields)
        return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode()


def _json_fields(value: Any) -> Any:
    dump: Callable[..., Any] | None = getattr(type(value), "model_dump", None)
    if dump is not None:
        return dump(value, mode="json", by_alias=True)  # as its schema describes it
    return fields_of(value)


class ServerSentEvent(msgspec.Struct, frozen=True):
    """
    An event for a browser's ``EventSource``.

    Attributes:
        data: a text, or a value that is encoded as JSON.
        event: the type of the event; None: ``message``.
        id: what the browser sends as ``Last-Event-ID`` when it connects again.
        retry: milliseconds until the browser connects again.
    """

    data: Any
    event: str | None = None
    id: str | None = None
    retry: int | None = None

    def encode(self) -> bytes:
        """
        Return the event as it is sent.

        Raises:
            ValueError: ``event`` or ``id`` has a line break, which would begin another field.
        """
        data = self.data if isinstance(self.data, str) else json_of(self.data).decode()
        fields = [("event", self.event), ("id", self.id), ("retry", self.retry)]
        lines = [f"{name}: {value}" for name, value in fields if value is not None]
        if any(set(line) & set("\r\n\0") for line in lines):
            raise ValueError("the event or the id of a server-sent event has a line break")
        data = data.replace("\r\n", "\n").replace("\r", "\n")
        lines += [f"data: {line}" for line in data.split("\n")]
        return "\n".join([*lines, "", ""]).encode()


class ItemStream(Response):
    """
    Sends the items of an async iterator as they come. The first item decides the content type:
    texts, bytes, server-sent events, or lines of JSON for other values.
    """

    def __init__(self, items: AsyncIterator[Any], status_code: int = 200) -> None:
        self.body_iterator = items
        self.status_code = status_code
        self.background = None
        self.raw_headers = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        items = self.body_iterator
        first = await anext(items, b"")
        if isinstance(first, ServerSentEvent):
            await self._send_events(_chained(first, items), send)
            return
        content_type, encode = _form_of(first)
        await self._start(content_type, send)
        await _send(encode(first), send)
        async for item in items:
            await _send(encode(item), send)
        await _send(b"", send, more=False)

    async def _start(self, content_type: str, send: Send) -> None:
        headers = self.raw_headers
        if not any(name == b"content-type" for name, _ in headers):
            headers = [*headers, (b"content-type", content_type.encode())]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})

    async def _send_events(self, events: AsyncIterator[Any], send: Send) -> None:
        self.headers.setdefault("cache-control", "no-store")
        self.headers.setdefault("x-accel-buffering", "no")  # nginx
        clock = asyncio.get_running_loop().time
        turn, started, sent_at = asyncio.Lock(), False, clock()

        async def send_part(part: bytes) -> None:
            nonlocal started, sent_at
            async with turn:
                if not started:
                    started = True
                    await self._start("text/event-stream", send)
                await _send(part, send)
                sent_at = clock()

        async def keep_alive() -> None:
            while True:
                await asyncio.sleep(sent_at + KEEP_ALIVE - clock())
                if clock() >= sent_at + KEEP_ALIVE:
                    await send_part(b": keep-alive\n\n")

        keeping = asyncio.create_task(keep_alive(), name="aiorpc http: keep a stream alive")
        try:
            async for item in events:
                event = item if isinstance(item, ServerSentEvent) else ServerSentEvent(item)
                await send_part(event.encode())
        finally:
            keeping.cancel()
            await asyncio.wait((keeping,))
        await send_part(b"")
        await _send(b"", send, more=False)


class EventStream(ItemStream):
    """
    Sends server-sent events. An item of another type is the data of an event. The headers leave
    with the first event, or after 15 s without one.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._send_events(self.body_iterator, send)


async def _chained(first: Any, others: AsyncIterator[Any]) -> AsyncIterator[Any]:
    yield first
    async for item in others:
        yield item


async def _send(body: bytes, send: Send, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


def _form_of(first: Any) -> tuple[str, Callable[[Any], bytes]]:
    """Return the content type of a stream with the item *first*, and what encodes its items."""
    if isinstance(first, str):
        return "text/plain; charset=utf-8", str.encode
    if isinstance(first, bytes):
        return "application/octet-stream", lambda item: b"".join((item,))  # no str, no int
    return "application/x-ndjson", lambda item: json_of(item) + b"\n"
