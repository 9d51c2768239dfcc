"""
Hosts a gateway as services are hosted: ``aiorpc run module:gateway`` serves it on
WEB_SERVER_ADDRESS, beside the ``@http`` methods on this address. Awaits the web server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import Receive, Scope, Send

from ..extensions import Entrypoint, Host
from .server import WebServer

__all__ = ["service_of"]


class Hostable(Protocol):
    """A gateway."""

    def hosted(self, host: Host) -> AbstractAsyncContextManager[None]: ...
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


@dataclass(eq=False, repr=False)
class _Serving(Entrypoint):
    """Serves a gateway on the address of the web server. It starts no workers."""

    starts_calls = False

    gateway: Hostable = field(kw_only=True)

    def route(self, host: Host) -> str:
        return "POST /rpc/{service}/{method}"

    @asynccontextmanager
    async def listen(self, host: Host) -> AsyncGenerator[None]:
        # Shared, so that it closes after the calls of the last requests.
        server = await host.share(WebServer, lambda: WebServer.serving(host))
        async with self.gateway.hosted(host), server.accepting((), self.gateway):
            yield


def service_of(
    gateway: Hostable, offered: Iterable[type], *, title: str, version: str, methods: Iterable[str]
) -> type:
    """
    Return a service class that serves *gateway*, which calls the classes in *offered*.

    Args:
        title, version, methods: what ``aiorpc ls`` shows of the gateway.
    """

    async def serve(self: object) -> None: ...

    _Serving.decorator(gateway=gateway)(serve)
    names = {
        "name": "gateway",
        "version": version,
        "metadata": {"methods": ", ".join(sorted(methods))},
        "serve": serve,
        "__aiorpc_calls__": tuple(offered),
        "__doc__": title,
    }
    return type("Gateway", (), names)
