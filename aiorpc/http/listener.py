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

from ..sockets import is_shared, listening_socket
from .exchange import StreamCut

__all__ = ["Listener"]

#: Seconds that a connection without a request stays open: longer than a load balancer's 60 s.
_KEEP_ALIVE = 75
#: Seconds between two looks whether all responses have left.
_LOOK = 0.01
#: Seconds in which a client that has a connection may send one more request on it, if other
#: processes accept the new connections.
_LINGER = 1.0


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
        self._accepts = True

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
        bound = await listening_socket(address, key)
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

    async def stop_accepting(self) -> None:
        """Close the socket, and the connections without a request. Others close after theirs."""
        accepted, self._accepts = self._accepts, False
        for server in self._server.servers:
            server.close()
        try:
            if accepted and is_shared():
                await self._finish_idle_connections()
        finally:
            for connection in list(self._server.server_state.connections):
                connection.shutdown()

    async def _finish_idle_connections(self) -> None:
        """
        Answer the next request of each connection, and close the connection with the response.

        Another process already accepts new connections, so the clients should notice nothing. If
        this process closed a connection at once, a request on its way would be lost.
        """
        close = (b"connection", b"close")
        self._server.config.encoded_headers.append(close)
        state = self._server.server_state
        state.default_headers.append(close)  # uvicorn's next tick makes a new list
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + _LINGER
        await asyncio.sleep(_LOOK)  # uvicorn does not know the connections accepted last yet
        # uvicorn's sets give no event.
        while loop.time() < ends_at and any(map(_is_idle, state.connections)):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)

    async def aclose(self, timeout: float) -> None:
        """Wait at most *timeout* seconds for responses to leave, and close all connections."""
        state = self._server.server_state
        loop = asyncio.get_running_loop()
        try:
            await self.stop_accepting()
            ends_at = loop.time() + timeout
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


def _is_idle(connection: Any) -> bool:
    """Whether uvicorn's *connection* waits for a request, its first one too."""
    return connection.cycle is None or connection.cycle.response_complete


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
