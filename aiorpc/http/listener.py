"""
Listens on a socket with uvicorn, in the running loop. Does not touch signals or logging: uvicorn's
records go to the loggers ``uvicorn.error`` and their parents, as the program set them up.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.lifespan.off import LifespanOff

from ..config import parse_address
from ..exceptions import ConfigurationError
from .exchange import StreamCut

__all__ = ["Listener"]

#: Seconds that a connection without a request stays open: longer than a load balancer's 60 s.
_KEEP_ALIVE = 75
#: Seconds between two looks whether all responses have left.
_LOOK = 0.01


class Listener:
    """An open socket and uvicorn's server on it."""

    def __init__(self, app: ASGIApp, bound: socket.socket, max_headers: int) -> None:
        protocol, limit = _protocol(max_headers)
        config = uvicorn.Config(
            app,
            loop="none",
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            h11_max_incomplete_event_size=limit,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = LifespanOff(config)
        self._socket = bound
        self.host: str
        self.port: int
        self.host, self.port = bound.getsockname()[:2]
        self._ticking: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, app: ASGIApp, address: str | int, *, key: str, max_headers: int
    ) -> Listener:
        """
        Listen on *address*, ``[address:]port``.

        Args:
            key: the setting that has the address, for the error.
            max_headers: bytes of the headers of a request, at most.

        Raises:
            ConfigurationError: the address cannot be used.
        """
        bound = await _bound(address, key)
        try:
            listener = cls(app, bound, max_headers)
            await listener._server.startup(sockets=[bound])
        except BaseException:
            bound.close()
            raise
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        # Sets the Date header each second.
        listener._ticking = asyncio.create_task(listener._server.main_loop(), name="aiorpc http")
        return listener

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def stop_accepting(self) -> None:
        """Close the socket, and the connections without a request. Others close after theirs."""
        for server in self._server.servers:
            server.close()
        for connection in list(self._server.server_state.connections):
            connection.shutdown()

    async def aclose(self, timeout: float) -> None:
        """Wait at most *timeout* seconds for responses to leave, and close all connections."""
        self.stop_accepting()
        state = self._server.server_state
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + timeout
        try:
            # uvicorn's sets give no event.
            while (state.connections or state.tasks) and loop.time() < ends_at:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)
        finally:
            for task in list(state.tasks):
                task.cancel()
            for connection in list(state.connections):
                connection.transport.abort()
            if self._ticking is not None:
                self._ticking.cancel()
                await asyncio.wait((self._ticking,))


async def _bound(address: str | int, key: str) -> socket.socket:
    host, port = parse_address(address, key)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)
        family, _, _, _, where = found[0]
        return socket.create_server(where[:2], family=family, backlog=2048)
    except OSError as error:
        raise ConfigurationError(
            f"{key} {address}: cannot listen there: {error.strerror or error}. Set another "
            "address, or stop the program that uses it"
        ) from error


def _is_news(record: logging.LogRecord) -> bool:
    """Whether uvicorn's record tells of more than a stream that we cut and logged ourselves."""
    return not (record.exc_info and isinstance(record.exc_info[1], StreamCut))


def _protocol(max_headers: int) -> tuple[Any, int]:
    """Return uvicorn's parser for HTTP, and h11's limit. httptools has no limit of its own."""
    try:
        from .parser import bounded
    except ImportError:
        return "h11", max_headers
    return bounded(max_headers), max_headers
