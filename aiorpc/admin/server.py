"""
Serves the admin address in a thread with its own event loop: a blocked loop of the services cannot
answer, and must not seem alive. Listens on a socket.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Self

from ..hosting.report import Report
from ..http.listener import Listener
from ..logs import logger
from .app import AdminApp

__all__ = ["AdminServer"]

log = logger("aiorpc.admin")

#: Bytes of the headers of a request, at most.
_MAX_HEADERS = 16 * 1024
#: Seconds that responses may take when the server stops.
_CLOSE_WITHIN = 1.0


class AdminServer(AbstractContextManager["AdminServer"]):
    """
    Serves an :class:`AdminApp` inside a ``with`` block.

    Args:
        address: ``[host:]port``.
        status, metrics: the functions of :class:`AdminApp`. The server's thread calls *status*,
            and another thread calls *metrics*.

    Attributes:
        url: the URL on this machine, inside the block; useful if the port is 0.

    Raises:
        ConfigurationError: at the start of the block, if the address cannot be used.
    """

    url: str

    def __init__(
        self,
        address: str | int,
        status: Callable[[], Report],
        metrics: Callable[[], bytes] | None = None,
    ) -> None:
        self._address = address
        self._app = AdminApp(status, metrics)
        self._listens: Future[str] = Future()
        # A daemon: a scrape that hangs must not hold the process.
        self._thread = threading.Thread(target=self._run, name="aiorpc admin", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = self._listens.result()
        log.info("admin address: %s (/livez, /readyz, /metrics)", self.url)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(2 * _CLOSE_WITHIN)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._listens.done():
                raise
            self._listens.set_exception(error)  # raised at the start of the block

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listener = await Listener.open(
            self._app, self._address, key="ADMIN_ADDRESS", max_headers=_MAX_HEADERS
        )
        self._listens.set_result(listener.url)
        await self._stop.wait()
        await listener.aclose(_CLOSE_WITHIN)
