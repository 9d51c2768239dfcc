"""Ends a block when the client of a request hangs up. Awaits the server's next message."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from ..logs import logger

__all__ = ["UntilHangUp"]

log = logger("aiorpc.http")

#: Seconds until the watch begins. A fast call needs no task that waits for its client.
WATCH_AFTER = 0.02


class UntilHangUp:
    """
    A block that is cancelled when the client hangs up, and then raises Starlette's
    ``ClientDisconnect``.

    Args:
        receive: of the request, whose body was read to its end.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._scope = asyncio.timeout(None)
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._begin = self._loop.call_later(WATCH_AFTER, self._watch)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._begin.cancel()
        if self._watching is not None:
            self._watching.cancel()
        try:
            await self._scope.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise ClientDisconnect from None

    def _watch(self) -> None:
        self._watching = self._loop.create_task(self._wait(), name="aiorpc gateway: hang-up")

    async def _wait(self) -> None:
        try:
            # An empty body may be unread. A middleware that gives a body again may give it forever.
            for _ in range(2):
                if (await self._receive())["type"] == "http.disconnect":
                    self._scope.reschedule(self._loop.time())
                    return
        except Exception as error:  # noqa: BLE001 - the receive of any server or middleware
            log.debug("a hang-up of the client would not be seen: %r", error)
