"""
The web server of a process: one for each address, shared by the services of a runner. It finds the
method for a request. Awaits the listener and the methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, unquote_to_bytes
from weakref import WeakKeyDictionary

import msgspec
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..config import Settings
from ..exceptions import ConfigurationError
from ..extensions import Host
from ..logs import logger
from ..timers import Timers
from ..transports.base import Transport
from .exchange import HttpEndpoint
from .listener import Listener
from .problems import problem_response
from .routes import Found, Table

__all__ = ["WebServer", "web_server"]

log = logger("aiorpc.http")


class WebServer:
    """
    Serves the ``@http`` methods of the services that share a connection to the broker and an
    address. It is an ASGI application too, for tests without a socket.

    Attributes:
        address: WEB_SERVER_ADDRESS; None: the server has no socket.
    """

    def __init__(self, settings: Settings) -> None:
        self.address = settings.web_server_address
        self._settings = settings
        self._table: Table[HttpEndpoint] = Table()
        self._endpoints: list[HttpEndpoint] = []
        self._timers = Timers(asyncio.get_running_loop())
        #: Services that use the server, and how many of them still accept requests.
        self._users: list[Host] = []
        self._accepting = 0
        #: Answers the paths that no method answers.
        self._fallback: ASGIApp | None = None
        self._opening = asyncio.Lock()
        self._listener: Listener | None = None
        self._app: ASGIApp = self._dispatch
        if (cors := settings.http_cors) is not None:
            self._app = CORSMiddleware(self._dispatch, **msgspec.structs.asdict(cors))

    @property
    def port(self) -> int:
        """
        The port of the socket, also if WEB_SERVER_ADDRESS has port 0.

        Raises:
            RuntimeError: the server has no socket.
        """
        if self._listener is None:
            raise RuntimeError(f"the web server on {self.address} does not listen")
        return self._listener.port

    @property
    def url(self) -> str:
        """The URL of the server on this machine, such as ``http://127.0.0.1:8000``."""
        _ = self.port
        assert self._listener is not None
        return self._listener.url

    @property
    def routes(self) -> list[str]:
        """The routes as text, in the order in which the services started."""
        return [each.hooks.route(each.host) or "" for each in self._endpoints]

    # Life

    @staticmethod
    @asynccontextmanager
    async def serving(host: Host) -> AsyncGenerator[WebServer]:
        """Use the server for *host* inside the block. The last service that leaves closes it."""
        servers = _servers.setdefault(host.transport, {})
        address = host.settings.web_server_address
        server = servers.get(address)
        if server is None:
            server = servers[address] = WebServer(host.settings)
        server._users.append(host)
        try:
            yield server
        finally:
            server._users.remove(host)
            server._remove([each for each in server._endpoints if each.host is host])
            if not server._users:
                if servers.get(address) is server:
                    del servers[address]
                await server._close()

    @asynccontextmanager
    async def accepting(
        self, endpoints: Sequence[HttpEndpoint], fallback: ASGIApp | None = None
    ) -> AsyncGenerator[None]:
        """
        Serve *endpoints* from the start of the block, until ``serving`` ends. The socket closes at
        the end of the last of such blocks. *fallback* answers the paths that no method answers.

        Raises:
            ConfigurationError: a route exists already, there is another fallback, or the address
                cannot be used.
        """
        self._add(endpoints)
        if fallback is not None:
            if self._fallback is not None:
                raise ConfigurationError(
                    f"there are two gateways on the address {self.address}: make them one, with "
                    "all services"
                )
            self._fallback = fallback
        self._accepting += 1
        try:
            async with self._opening:
                if self._listener is None and self.address is not None:
                    self._listener = await Listener.open(
                        self,
                        self.address,
                        key="WEB_SERVER_ADDRESS",
                        max_headers=self._settings.http_max_headers,
                    )
                    log.info("HTTP on %s", self._listener.url)
            yield
        finally:
            self._accepting -= 1
            if not self._accepting and self._listener is not None:
                await self._listener.stop_accepting()

    async def _close(self) -> None:
        try:
            if self._listener is not None:
                await self._listener.aclose(self._settings.cleanup_timeout)
                self._listener = None
        finally:
            self._timers.close()

    def _add(self, endpoints: Sequence[HttpEndpoint]) -> None:
        added: list[HttpEndpoint] = []
        try:
            for each in endpoints:
                for method in each.methods:
                    if (other := self._table.taken(each.rule, method)) is not None:
                        raise ConfigurationError(
                            f"{each.name} and {other.name} have one route, {method} "
                            f"{each.rule.text} (also written {other.rule.text}), on the address "
                            f"{self.address}: change one of them"
                        )
                added.append(each)
                self._table.add(each.rule, each.methods, each)
                self._endpoints.append(each)
        except ConfigurationError:
            self._remove(added)
            raise

    def _remove(self, endpoints: Iterable[HttpEndpoint]) -> None:
        for each in list(endpoints):
            self._table.remove(each)
            self._endpoints.remove(each)

    # Requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"@http serves HTTP, and not the ASGI type {scope['type']!r}")
        found = self._table.find(scope["method"], scope["path"])
        if type(found) is Found:
            if "\ufffd" not in scope["path"] or _is_utf8(scope):
                await found.route.serve(scope, receive, send, found.values, self._timers)
                return
            response = problem_response(HTTPException(400, "The path is no UTF-8."))
        else:
            assert isinstance(found, set)
            if not found and self._fallback is not None:
                await self._fallback(scope, receive, send)
                return
            response = self._without_route(scope, found)
        await response(scope, receive, send)

    def _without_route(self, scope: Scope, allowed: set[str]) -> Response:
        method, path = scope["method"], scope["path"]
        if allowed:
            headers = {"allow": ", ".join(sorted({*allowed, "OPTIONS"}))}
            if method == "OPTIONS":
                return Response(None, 204, headers)
            text = f"The path does not answer {method}."
            return problem_response(HTTPException(405, text, headers))
        other = path.rstrip("/") if path.endswith("/") else f"{path}/"
        if other and type(self._table.find(method, other)) is Found:
            # One slash: a browser reads the text behind two as a host.
            target = "/" + quote(other.lstrip("/"), safe="/:@!$&'()*+,;=~-._")
            query = scope["query_string"].decode("latin-1")
            return RedirectResponse(f"{target}?{query}" if query else target, 308)
        return problem_response(HTTPException(404, "No method answers this path."))


def _is_utf8(scope: Scope) -> bool:
    raw = scope.get("raw_path")
    try:
        unquote_to_bytes(raw or "").decode()
    except UnicodeDecodeError:
        return False
    return True


#: The servers by connection to the broker, because a runner's services share one.
_servers: WeakKeyDictionary[Transport, dict[str | int | None, WebServer]] = WeakKeyDictionary()


def web_server(host: Any) -> WebServer:
    """
    Return the web server of a running ``ServiceContainer`` or ``ServiceRunner``, for tests and
    tools that need its port or its routes.

    Raises:
        RuntimeError: *host* does not run, or has no ``@http`` method.
    """
    for container in getattr(host, "containers", [host]):
        transport = getattr(container, "transport", None)
        for server in _servers.get(transport, {}).values() if transport is not None else ():
            if container in server._users:
                return server
    raise RuntimeError(f"{host!r} does not run, or has no @http method")
