"""
The gateway: an ASGI application that offers methods of services over HTTP. Imports Starlette's
routing; awaits the connection, and the parts that answer.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from ..calling.options import UNSET
from ..calling.proxies import ClusterProxy
from ..calling.standalone import ClusterRpcProxy, Config
from ..checks import TEXT, Kind, check, optional
from ..dependencies.proxies import client_of
from ..exceptions import ConfigurationError, exception_path, path_on_the_wire
from ..extensions import Host
from ..logs import logger
from ..transports.health import Health
from .calls import Authenticate, Calls
from .connection import Connection
from .hosted import service_of
from .openapi import Document
from .operations import Exposed, operations_of
from .page import CONTENT_SECURITY_POLICY, page_of
from .problems import problem_response

__all__ = ["Gateway"]

log = logger("aiorpc.http")

_PATH = Kind(lambda value: isinstance(value, str) and value[:1] == "/", 'a path, such as "/docs"')
_KINDS = {
    "authenticate": optional(Kind(callable, "a function")),
    "principal": optional(Kind(callable, "a function")),
    "max_body": optional(Kind(lambda value: type(value) is int and value > 0, "a number of bytes")),
    "title": TEXT,
    "version": TEXT,
    "openapi_url": optional(_PATH),
    "docs_url": optional(_PATH),
}
_NO_AUTHENTICATE = (
    "a Gateway needs authenticate=, a function that gets the request and returns context data; "
    "authenticate=None lets everybody call"
)


class Gateway:
    """
    An ASGI application that offers methods of services: ``POST /rpc/{service}/{method}``::

        gateway = Gateway("amqp://guest:guest@localhost/", services=[Prices], authenticate=None)

        app = FastAPI(lifespan=gateway.lifespan)
        app.mount("/api", gateway)

    The body is a JSON object with the arguments by name. The answer is the result as JSON, or an
    error as problem+json; the items of a stream are lines of JSON, or server-sent events if the
    client accepts them. ``GET /openapi.json`` describes the methods; ``GET /docs`` shows them.

    Args:
        cluster_or_config: a configuration, as for :class:`~aiorpc.ClusterRpcProxy`, or such a
            proxy. The gateway starts and closes the proxy, unless it was started already.
        services: what the gateway offers. A service class, for all its ``@rpc`` methods;
            ``(Protocol, "service")``, for all methods of the Protocol; ``(Prices, ["quote"])`` and
            ``(Protocol, "service", ["method"])``, for some of them; ``("service", ["method"])``,
            whose arguments only the service checks.
        authenticate: a function, plain or async, that gets Starlette's request and returns the
            context data of its call, a dict. None, or an ``HTTPException`` of Starlette, refuses
            the request. ``authenticate=None``: everybody may call.
        errors: the statuses of remote errors, by class or path: ``{"shop.errors.NotFound": 404}``.
            The answer shows the text of such an error. Every other remote error answers 500.
        timeout: seconds that a request may take; None for no limit. The default is that of the
            proxy. A client's deadline only shortens it.
        max_body: bytes of a request's body. The default is ``HTTP_MAX_BODY`` of the configuration.
        principal: a function that gets what ``authenticate`` returned, and returns the text that
            names the client. A client gets stored answers (``Idempotency-Key``) only to its own
            requests. The default tells clients apart by all that ``authenticate`` returned.
        title, version: of the OpenAPI document.
        openapi_url, docs_url: the paths of the document and its page; None leaves them out.

    Raises:
        ConfigurationError: an argument is wrong, or ``authenticate`` is missing.
    """

    def __init__(
        self,
        cluster_or_config: ClusterRpcProxy | ClusterProxy | Config = None,
        *,
        services: Iterable[Exposed],
        authenticate: Authenticate | None | msgspec.UnsetType = UNSET,
        errors: Mapping[str | type[Exception], int] | None = None,
        timeout: float | None | msgspec.UnsetType = UNSET,
        max_body: int | None = None,
        principal: Callable[[Mapping[str, Any]], str] | None = None,
        title: str = "aiorpc gateway",
        version: str = "1",
        openapi_url: str | None = "/openapi.json",
        docs_url: str | None = "/docs",
    ) -> None:
        if authenticate is UNSET:
            raise ConfigurationError(_NO_AUTHENTICATE)
        given: dict[str, Any] = {"authenticate": authenticate, "max_body": max_body}
        given |= {"title": title, "principal": principal}
        given |= {"version": version, "openapi_url": openapi_url, "docs_url": docs_url}
        check("Gateway()", given, _KINDS)
        self._given = cluster_or_config
        self._services = list(services) if isinstance(services, Iterable) else services
        self._authenticate = authenticate
        self._errors = dict(map(_status, (errors or {}).items()))
        self._timeout = timeout
        self._max_body = max_body
        self._principal = principal
        self._info = {"title": title, "version": version}
        self._urls = openapi_url, docs_url
        self._build(Connection(cluster_or_config))

    def _build(self, connection: Connection) -> None:
        settings = connection.settings
        self._connection = connection
        self._operations = operations_of(self._services, settings.validate_arguments)
        self._calls = Calls(
            connection,
            self._operations,
            authenticate=self._authenticate,
            errors=self._errors,
            max_body=self._max_body or settings.http_max_body,
            timeout=self._timeout,
            principal=self._principal,
        )
        document = Document(
            self._operations.values(),
            info=self._info,
            public=self._authenticate is None,
            statuses=self._errors.values(),
        )
        self._router = Router(
            _routes_of(self._calls, document, *self._urls),
            redirect_slashes=False,
            default=_not_found,
            lifespan=self.lifespan,
        )

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncGenerator[None]:
        """
        Start, and stop at the end: ``FastAPI(lifespan=gateway.lifespan)``. If the broker is not
        there within 5 s, requests get 503 until it is.

        Raises:
            ConfigurationError: the broker refuses the user, the password or the vhost.
        """
        async with self._connection.open():
            names = ", ".join(sorted(map(str, self._operations.values())))
            log.info("gateway ready: %s", names)
            yield

    @asynccontextmanager
    async def hosted(self, host: Host) -> AsyncGenerator[None]:
        """
        Start beside the services of *host*, and answer the last requests at the end. Without a
        configuration of its own, the gateway uses that of *host*, and its connection.
        """
        if self._given is None:
            proxy = ClusterProxy(await client_of(host))
            self._build(Connection(proxy, host.settings))
        async with self.lifespan():
            try:
                yield
            finally:
                await self._calls.drain(host.settings.shutdown_timeout)

    def __aiorpc_service__(self) -> type:
        """Return the service class that a runner and ``aiorpc run`` host for this object."""
        return self._hosted

    @functools.cached_property
    def _hosted(self) -> type:
        given = (each[0] if isinstance(each, tuple) else each for each in self._services)
        offered = [each for each in given if isinstance(each, type)]
        return service_of(self, offered, methods=map(str, self._operations.values()), **self._info)

    def health(self) -> Health:
        """Return whether calls can be made now."""
        return self._connection.health()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)


def _status(item: tuple[Any, Any]) -> tuple[str, int]:
    """Return the path of a remote error on the wire, and its status."""
    given, status = item
    if isinstance(given, type) and issubclass(given, Exception):
        given = exception_path(given)
    if not isinstance(given, str) or "." not in given:
        raise ConfigurationError(
            f"errors of a Gateway has the key {given!r}: write the path of a remote error, "
            '"shop.errors.NotFound", or its class'
        )
    if type(status) is not int or not 400 <= status <= 599:
        raise ConfigurationError(
            f"errors of a Gateway has {status!r} for {given}: write an HTTP status, 400 to 599"
        )
    return path_on_the_wire(given), status


def _routes_of(
    calls: Calls, document: Document, openapi_url: str | None, docs_url: str | None
) -> list[Route]:
    def described(request: Request) -> Response:
        return Response(document.encoded(request.scope), media_type="application/json")

    def shown(request: Request) -> Response:
        page = page_of(document.content(request.scope))
        return HTMLResponse(page, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    given = (openapi_url, described), (docs_url, shown)
    return [
        Route("/rpc/{service}/{method}", calls),
        *(Route(path, _Readable(answer)) for path, answer in given if path is not None),
    ]


class _Readable:
    """Answers GET and HEAD."""

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD"):
            response = self._answer(Request(scope))
        else:
            response = problem_response(HTTPException(405, headers={"Allow": "GET, HEAD"}))
        await response(scope, receive, send)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    is_http = scope["type"] == "http"
    answer = problem_response(HTTPException(404)) if is_http else WebSocketClose()
    await answer(scope, receive, send)
