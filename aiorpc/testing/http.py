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

    A response is complete when the client returns it, also if it is a stream.

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

    transport = httpx.ASGITransport(web_server(host), raise_app_exceptions=False)
    return httpx.AsyncClient(
        **{"transport": transport, "base_url": "http://service.test", **options}
    )
