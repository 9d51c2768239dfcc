"""
Answers ``POST /rpc/{service}/{method}``: a request becomes a call, and its result or its error the
answer. Awaits the client's body, ``authenticate`` and the call.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..call import Handler
from ..calling.client import Client
from ..calling.options import DEFAULTS, UNSET, Options, Route
from ..checks import shown
from ..context import EMPTY, Context, current, new_id
from ..exceptions import (
    AioRpcError,
    BadArguments,
    MalformedRequest,
    RemoteError,
    RpcTimeout,
    exception_path,
    path_on_the_wire,
    registry,
)
from ..logs import logger
from ..wire.keys import IdempotencyKey, digest_of, is_key
from .connection import Connection
from .exchange import StreamCut
from .hangups import UntilHangUp
from .item_streams import send_items
from .keys import requested_key
from .operations import Operation
from .problems import Problem, problem_of, problem_response
from .requests import HttpRequest, context_from, json_body, known_headers, read_body
from .responses import checked

__all__ = ["Authenticate", "Calls"]

log = logger("aiorpc.http")

Authenticate: TypeAlias = Callable[
    [HttpRequest], Mapping[str, Any] | None | Awaitable[Mapping[str, Any] | None]
]


class Calls:
    """
    Answers the requests of a gateway that call a method.

    Args:
        operations: by service and method.
        authenticate: see :class:`~aiorpc.http.Gateway`; None: everybody may call.
        errors: the statuses of remote errors, by the path of the class.
        max_body: bytes.
        timeout: seconds; UNSET is the default of the proxy.
        principal: see :class:`~aiorpc.http.Gateway`.

    Raises:
        ConfigurationError: *timeout* is something else.
    """

    def __init__(
        self,
        connection: Connection,
        operations: Mapping[tuple[str, str], Operation],
        *,
        authenticate: Authenticate | None,
        errors: Mapping[str, int],
        max_body: int,
        timeout: float | None | msgspec.UnsetType = UNSET,
        principal: Callable[[Mapping[str, Any]], str] | None = None,
    ) -> None:
        self._principal = principal
        self._connection = connection
        self._operations = operations
        self._authenticate = authenticate
        self._errors = errors
        self._max_body = max_body
        self._options = DEFAULTS.replaced("Gateway()", {"timeout": timeout})
        self._client: Client | None = None
        #: What sends the calls of each operation by :attr:`_client`.
        self._routes: dict[Operation, tuple[Route, Handler]] = {}
        self._running = 0
        self._idle: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._running += 1
        try:
            await self._respond(scope, receive, send)
        finally:
            self._running -= 1
            if self._idle is not None and not self._running:
                self._idle.set()

    async def drain(self, timeout: float) -> None:
        """Wait until all requests are answered, at most *timeout* seconds."""
        self._idle = asyncio.Event()
        if self._running:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._connection.cluster()  # raises if nobody started it: that concerns the programmer
        params = scope["path_params"]
        operation = self._operations.get((params["service"], params["method"]))
        if operation is None:
            response = problem_response(HTTPException(404, "There is no such method."))
            await response(scope, receive, send)
            return
        call_id = f"gateway.{operation.method}.{new_id()}"
        # Also for calls that `authenticate` makes, and for the log. An ASGI server may use one task
        # for several requests.
        token = current.set(Context((call_id,)))
        answer: Response | None
        try:
            answer = await self._answer(scope, receive, send, operation, call_id)
        except ClientDisconnect:
            log.info("%s: the client hung up, so the call was cancelled (%s)", operation, call_id)
            return
        except StreamCut:
            raise  # to the server, which cuts the connection
        except Exception as error:  # noqa: BLE001 - the client gets every error as its answer
            answer = self._error_answer(error, operation, call_id)
        finally:
            current.reset(token)
        if answer is not None:
            await answer(scope, receive, send)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, operation: Operation, call_id: str
    ) -> Response | None:
        """Return the response; None if it was sent already."""
        if scope["method"] != "POST":
            raise HTTPException(405, headers={"Allow": "POST"})
        client = self._connection.client()
        route, handler = self._route(client, operation)
        body, key = await self._request(scope, receive, operation, call_id, route.timeout)
        if key is not None:
            route, handler = self._keyed_route(client, operation, key)
        args, kwargs = operation.arguments(body)
        if operation.is_stream:
            stream = client.streams.open(route, None, args, kwargs)

            def failed(error: Exception) -> Any:
                return self._problem(error, operation, call_id).content(call_id)

            await send_items(stream, operation.encoded, failed, scope, receive, send)
            return None
        async with UntilHangUp(receive):
            result = await handler(client.new_call(route, args, kwargs))
        return Response(operation.encoded(result), media_type="application/json")

    async def _request(
        self,
        scope: Scope,
        receive: Receive,
        operation: Operation,
        call_id: str,
        timeout: float | None,
    ) -> tuple[dict[str, Any], IdempotencyKey | None]:
        """Return the arguments and the key, after the request's context has become the current."""
        headers = known_headers(scope)
        context = context_from(headers, EMPTY, timeout)
        context = Context((call_id,), context.data, context.deadline)
        current.set(context)
        request = HttpRequest(scope)
        until = asyncio.timeout_at(None if context.deadline is None else context.deadline.at)
        try:
            async with until:
                if b"content-length" not in headers:
                    headers[b"transfer-encoding"] = b""  # HTTP/2 has bodies with neither
                request.fill(await read_body(headers, receive, self._max_body))
                data = await self._authenticated(request)
        except TimeoutError:
            if not until.expired():
                raise
            raise RpcTimeout("the request was not ready before its deadline") from None
        if data:
            current.set(context.with_data(data))
        return _body_of(request), self._key(request, operation, data)

    def _key(
        self, request: HttpRequest, operation: Operation, data: Mapping[str, Any]
    ) -> IdempotencyKey | None:
        if "idempotency-key" not in request.headers:
            return None
        text = requested_key(request, operation)
        if self._principal is not None:
            scope = self._principal(data)
            if not is_key(scope):
                raise TypeError(
                    "principal of a Gateway must return a str of 1 to 255 printable characters, "
                    f"and returned {shown(scope)}"
                )
        else:
            scope = digest_of((), (), data)  # nobody else gets this answer
        return IdempotencyKey(text, scope)

    def _keyed_route(
        self, client: Client, operation: Operation, key: IdempotencyKey
    ) -> tuple[Route, Handler]:
        given: Options = {"idempotency_key": key.text, "scope": key.scope}
        options = self._options.replaced("Gateway()", given)
        route = client.route(operation.service, operation.method, options)
        return route, client.handler(route)

    def _route(self, client: Client, operation: Operation) -> tuple[Route, Handler]:
        if client is not self._client:  # the proxy was started again
            self._client = client
            self._routes = {}
        found = self._routes.get(operation)
        if found is None:
            route = client.route(operation.service, operation.method, self._options)
            found = self._routes[operation] = route, client.handler(route)
        return found

    async def _authenticated(self, request: HttpRequest) -> Mapping[str, Any]:
        """Return the context data of the user's function."""
        if self._authenticate is None:
            return EMPTY
        data: Any = self._authenticate(request)
        if inspect.isawaitable(data):
            data = await data
        if data is None:
            raise HTTPException(401, "Log in first.", {"WWW-Authenticate": "Bearer"})
        if not isinstance(data, Mapping):
            raise TypeError(
                f"authenticate of a Gateway returned a {type(data).__name__}: return a dict with "
                "context data, which may be empty, or None to refuse the request"
            )
        return data

    def _error_answer(self, error: Exception, operation: Operation, call_id: str) -> Response:
        try:
            return checked(self._problem(error, operation, call_id).response(call_id))
        except Exception as wrong:  # noqa: BLE001 - a status or a header of an HTTPException
            return self._problem(wrong, operation, call_id).response(call_id)

    def _problem(self, error: Exception, operation: Operation, call_id: str) -> Problem:
        """Log *error*, and return what the client may see of it."""
        status = self._chosen_status(error)
        if isinstance(error, BadArguments) and set(error.messages) == {"idempotency_key"}:
            status = 422  # another body under the same key
        problem = problem_of(error, call_id=call_id, status=status)
        if problem.status >= 500:
            known = isinstance(error, AioRpcError | HTTPException)
            log.log(
                logging.ERROR if problem.code == "internal" else logging.WARNING,
                "%s answered %s (call id %s): %s: %s",
                *(operation, problem.status, call_id, type(error).__name__, error),
                exc_info=None if known else error,
            )
        return problem

    def _chosen_status(self, error: Exception) -> int | None:
        """Return the status that the user chose for *error*, if any."""
        if isinstance(error, RemoteError):
            return self._errors.get(path_on_the_wire(error.exc_path))
        for kind in type(error).__mro__:
            own = path_on_the_wire(exception_path(kind))
            for path in (own, *(path for path, each in registry.items() if each is kind)):
                if path in self._errors:
                    return self._errors[path]
        return None


def _body_of(request: HttpRequest) -> dict[str, Any]:
    """
    Return the arguments in the body of *request*, by name.

    Raises:
        HTTPException: the body has another type.
        MalformedRequest: the body is not a JSON object.
    """
    if not request.content:
        request.fill(b"{}")
    body = json_body(request)
    if not isinstance(body, dict):
        kind = type(body).__name__
        raise MalformedRequest(f"the body must be a JSON object of arguments by name, got {kind}")
    return body
