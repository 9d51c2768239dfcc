"""
The request that a method gets, the call that carries it, and what the request's headers say of the
call. Imports Starlette's requests. Awaits the client's body; no other I/O.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec
import starlette.requests
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from ..call import Call
from ..context import EMPTY, NO_CONTEXT, Context
from ..exceptions import MalformedRequest

__all__ = [
    "HttpCall",
    "HttpRequest",
    "context_from",
    "json_body",
    "known_headers",
    "read_body",
    "timeout_from",
    "trace_of",
]

#: Seconds that a client may take between two parts of a body.
_SILENCE = 60.0

#: werkzeug's names, which Nameko's services use, and what replaces each.
_WERKZEUG = {
    "args": "request.query_params",
    "values": "request.query_params, or await request.form()",
    "data": "await request.body()",
    "get_data": "await request.body(), or request.content",
    "get_json": "await request.json()",
    "is_json": 'request.headers.get("content-type")',
    "files": "await request.form()",
    "path": "request.url.path",
    "full_path": "request.url.path and request.url.query",
    "query_string": "request.url.query",
    "path_values": "request.path_params",
    "view_args": "request.path_params",
    "remote_addr": "request.client.host",
    "host": "request.url.netloc",
    "environ": "request.scope",
    "content_type": 'request.headers.get("content-type")',
    "content_length": 'request.headers.get("content-length")',
    "mimetype": 'request.headers.get("content-type")',
    "authorization": 'request.headers.get("authorization")',
    "user_agent": 'request.headers.get("user-agent")',
    "referrer": 'request.headers.get("referer")',
}


class HttpRequest(starlette.requests.Request):
    """
    Starlette's request. werkzeug's names raise ``AttributeError``, which names the replacement.

    Attributes:
        content: the body. aiorpc reads it before the method runs, so ``await request.body()`` does
            not wait for the client.
    """

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.content = self._body = b""

    def fill(self, content: bytes) -> None:
        """Set the body."""
        self.content = self._body = content

    def __getattr__(self, name: str) -> NoReturn:
        kind = type(self).__name__
        if name in _WERKZEUG:
            raise AttributeError(
                f"{kind} is Starlette's, and has no {name!r}, which is werkzeug's: use "
                f"{_WERKZEUG[name]}"
            )
        raise AttributeError(f"{kind!r} object has no attribute {name!r}")


class HttpCall(Call, frozen=True, eq=False):
    """
    The call that a request starts. Middleware and dependencies see it.

    Attributes:
        request: the request; None if a test runs the method without one.
    """

    request: HttpRequest | None = None
    #: Sends streams while the dependencies are open: an ``HttpExchange``.
    _exchange: Any = None


# Headers

#: Headers that travel on with the calls that the method makes (W3C Trace Context and Baggage).
_TRACE = (b"traceparent", b"tracestate", b"baggage")
#: The headers of Connect and of gRPC for the caller's deadline.
_CONNECT, _GRPC = b"connect-timeout-ms", b"grpc-timeout"
_WANTED = frozenset((*_TRACE, _CONNECT, _GRPC, b"content-length", b"transfer-encoding"))
_MILLISECONDS = re.compile(rb"\d{1,10}")
_GRPC_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def known_headers(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers that aiorpc reads; for the functions below."""
    return {name: value for name, value in scope["headers"] if name in _WANTED}


def context_from(
    headers: Mapping[bytes, bytes], data: Mapping[str, Any], timeout: float | None
) -> Context:
    """
    Return the context of the call that a request starts.

    Args:
        headers: of the request. Those of a trace travel on as context data.
        data: further context data.
        timeout: the service's limit in seconds. The deadline in *headers* can only shorten it.

    Raises:
        MalformedRequest: see :func:`timeout_from`.
    """
    if not headers and not data and timeout is None:
        return NO_CONTEXT
    trace = trace_of(headers)
    context = Context(data={**trace, **data} if trace or data else EMPTY)
    return context.within(timeout).within(timeout_from(headers))


def trace_of(headers: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return the trace in *headers* as context data."""
    return {name.decode(): headers[name].decode("latin-1") for name in _TRACE if name in headers}


def timeout_from(headers: Mapping[bytes, bytes]) -> float | None:
    """
    Return the seconds that the client waits by ``Connect-Timeout-Ms`` or ``grpc-timeout``.

    Raises:
        MalformedRequest: the header has another form.
    """
    if (value := headers.get(_CONNECT)) is not None:
        if _MILLISECONDS.fullmatch(value):
            return int(value) / 1000
        raise MalformedRequest("Connect-Timeout-Ms must be milliseconds, at most ten digits")
    if (value := headers.get(_GRPC)) is not None:
        if found := _GRPC_TIMEOUT.fullmatch(value):
            return int(found[1]) * _UNITS[found[2]]
        raise MalformedRequest(
            "grpc-timeout must be at most eight digits and a unit, one of H, M, S, m, u and n"
        )
    return None


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, most: int) -> bytes:
    """
    Return the body of a request with *headers*.

    Args:
        most: bytes.

    Raises:
        HTTPException: 413, the body is larger than *most*; 408, the client stopped sending.
        ClientDisconnect: the client hung up.
    """
    length = headers.get(b"content-length", b"0")
    if length == b"0" and b"transfer-encoding" not in headers:
        return b""
    if not length.isdigit() or int(length[:20]) > most:
        raise _too_large(most)
    parts, size = [], 0
    try:
        async with asyncio.timeout(_SILENCE) as patience:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most:
                    raise _too_large(most)
                if not message.get("more_body"):
                    return b"".join(parts)
                patience.reschedule(asyncio.get_running_loop().time() + _SILENCE)
    except TimeoutError:
        text = f"No part of the body came for {_SILENCE:g} s."
        raise HTTPException(408, text, {"connection": "close"}) from None


def json_body(request: HttpRequest) -> Any:
    """
    Return the JSON in the body of *request*.

    Raises:
        HTTPException: 415, the body has another type, or is compressed.
        MalformedRequest: the body is no JSON, or is nested too deep.
    """
    headers = request.headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    # A page of another site can send other types, and none, without asking CORS.
    if kind != "application/json" and not kind.endswith("+json"):
        raise HTTPException(415, "The body must be JSON, with the content type application/json.")
    if headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "The body must have no content encoding.")
    try:
        return msgspec.json.decode(request.content)
    except RecursionError:
        raise MalformedRequest("the body is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MalformedRequest(f"the body is no JSON in UTF-8: {exc}") from None


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"The body may have at most {most} bytes.")
