"""
Sends requests to the ``@http`` methods of a container without a socket. Imports httpx and
``aiorpc.http`` at the first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..hosting.container import ServiceContainer
from ..hosting.runner import ServiceRunner

if TYPE_CHECKING:
    import httpx

__all__ = ["http_client"]


def http_client(host: ServiceContainer | ServiceRunner, **options: Any) -> httpx.AsyncClient:
    """
    Return a client for the ``@http`` methods of the running *host*::

        async with http_client(container) as client:
            response = await client.get("/books/1")

    A response is complete when the client returns it, also if it is a stream. If a stream fails
    after its first item, the request raises ``httpx.RemoteProtocolError``, as on a socket.

    Args:
        options: of ``httpx.AsyncClient``, such as ``headers``.

    Raises:
        RuntimeError: *host* does not run, or has no ``@http`` method.
        ModuleNotFoundError: httpx is not installed.
    """
    try:
        import httpx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "http_client needs httpx, which is not installed: pip install httpx", name="httpx"
        ) from None
    from ..http import web_server

    transport = httpx.ASGITransport(_as_on_a_socket(web_server(host)))
    return httpx.AsyncClient(
        **{"transport": transport, "base_url": "http://service.test", **options}
    )


def _as_on_a_socket(server: Any) -> Any:
    """Return *server*, which fails as under uvicorn: ``ASGITransport`` hides an incomplete body."""
    import httpx

    async def app(scope: Any, receive: Any, send: Any) -> None:
        started = complete = False

        async def sent(message: Any) -> None:
            nonlocal started, complete
            started = True
            complete = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            await server(scope, receive, sent)
        except Exception as error:
            if not started:
                await send({"type": "http.response.start", "status": 500, "headers": []})
                await send({"type": "http.response.body", "body": b"Internal Server Error"})
            elif not complete:
                raise httpx.RemoteProtocolError(
                    "peer closed connection without sending complete message body "
                    f"(incomplete chunked read): {type(error).__name__}: {error}"
                ) from error

    return app
