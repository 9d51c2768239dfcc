"""
The ASGI application of the console: the files of the page, what the page reads, and what it may
change. ``gate.py`` decides first which requests are answered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..exceptions import AioRpcError, ConfigurationError
from ..http.hangups import UntilHangUp
from ..http.requests import known_headers, read_body
from ..http.responses import json_of
from ..logs import logger
from ..parked.messages import Selection
from .describing import Describing
from .gate import HEADERS, LIVE, Gate
from .live import Live, TooManyPages
from .parking import ParkedMessages
from .trying import Trying, Wish

__all__ = ["ConsoleApp"]

T = TypeVar("T")
Query = Mapping[str, str]

log = logger("aiorpc.console")

#: Bytes of the body of a request at most.
MOST_BODY = 1 << 20
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOLDER = Path(__file__).with_name("page")


class ReplayWish(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The messages that the page wants to replay: ``all`` of a queue, or those with some ids."""

    queue: str
    messages: list[str] = []
    all: bool = False


class ConsoleApp:
    """
    Answers the page.

    Args:
        facts: what the page shows of the console itself.
        trying: ``None``: the console shows only.
    """

    def __init__(
        self,
        gate: Gate,
        live: Live,
        describing: Describing,
        parking: ParkedMessages,
        trying: Trying | None,
        facts: Mapping[str, Any],
    ) -> None:
        self._gate, self.live = gate, live
        self._parking, self._trying = parking, trying
        self._files = {
            f"/{path.name}": (path.read_bytes(), _TYPES[path.suffix])
            for path in _FOLDER.iterdir()
            if path.suffix in _TYPES
        }
        self._files["/"] = self._files["/index.html"]
        self._facts = json_of(facts)
        self._looks: Mapping[str, Callable[[Query], Awaitable[object]]] = {
            "/api/contract": lambda query: describing.of(_of(query, "service")),
            "/api/parked": lambda query: parking.queues(),
            "/api/parked/messages": lambda query: parking.messages(_of(query, "queue")),
            "/api/parked/message": lambda query: parking.message(
                _of(query, "queue"), _of(query, "message")
            ),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the console serves HTTP, not {scope['type']!r}")
        try:
            response = await self._answer(scope, receive)
        except ClientDisconnect:
            return
        response.headers.update(HEADERS)
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path = scope["path"]
        refusal = self._gate.refusal(scope["method"], path, scope["headers"])
        if refusal is not None:
            return _error(*refusal)
        try:
            if scope["method"] == "POST":
                return await self._change(path, scope, receive)
            return await self._look(path, scope["query_string"].decode("latin-1"))
        except msgspec.MsgspecError as error:
            return _error(400, f"The body does not fit: {error}")
        except HTTPException as error:
            return _error(error.status_code, error.detail)
        except TooManyPages as error:
            return _error(503, str(error))
        except ConfigurationError as error:
            return _error(409, str(error))
        except AioRpcError as error:
            return _error(503, str(error))
        except ClientDisconnect:
            raise
        except Exception:
            log.exception("the console could not answer %s", path)
            return _error(500, "The console failed. Its log has the reason")

    async def _look(self, path: str, query: str) -> Response:
        if path in self._files:
            content, kind = self._files[path]
            return Response(content, headers={"content-type": kind})
        if path == "/api/console":
            return _json(self._facts)
        if path == LIVE:
            events = self.live.events()
            first = await anext(events)  # or TooManyPages

            async def all_events() -> AsyncIterator[bytes]:
                try:
                    yield first
                    async for event in events:
                        yield event
                finally:
                    await events.aclose()

            return StreamingResponse(all_events(), media_type="text/event-stream")
        if path in self._looks:
            found = await self._looks[path](dict(parse_qsl(query)))
            return _json(json_of(found))
        return _error(404, "There is no such page")

    async def _change(self, path: str, scope: Scope, receive: Receive) -> Response:
        body = await read_body(known_headers(scope), receive, MOST_BODY)
        if path == "/api/token":  # the gate has compared it
            return _json(b"{}")
        if path == "/api/replay":
            wish = msgspec.json.decode(body, type=ReplayWish)
            if wish.all == bool(wish.messages):
                return _error(400, "Name the messages, or say all")
            wanted = Selection(names=tuple(wish.messages))
            return _json(json_of(await self._parking.replay(wish.queue, wanted)))
        if path == "/api/call" and self._trying is not None:
            call = msgspec.json.decode(body, type=Wish)
            async with UntilHangUp(receive):
                tried = await self._trying.call(call)
            return _json(msgspec.json.encode(tried))
        return _error(404, "There is no such request")


def _of(query: Query, name: str) -> str:
    if name not in query:
        raise HTTPException(400, f"The request needs {name!r} in its query")
    return query[name]


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _error(status: int, text: str) -> Response:
    return Response(json_of({"error": text}), status, media_type="application/json")
