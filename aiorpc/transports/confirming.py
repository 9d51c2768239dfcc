"""Sends a message and waits until it settles. Awaits only the settling; no I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..exceptions import AioRpcError
from .outgoing import Outgoing

__all__ = ["send_and_wait"]


async def send_and_wait(
    outgoing: Outgoing, send: Callable[[Outgoing], object], timeout: float | None
) -> None:
    """
    Send *outgoing* with *send*, and wait until it settles, at most *timeout* seconds.

    Raises:
        TimeoutError: it did not settle in time.
        AioRpcError: it settled with this error.
    """
    settled: asyncio.Future[AioRpcError | None] = asyncio.get_running_loop().create_future()
    also = outgoing.settled

    def on_settled(error: AioRpcError | None) -> None:
        if not settled.done():
            settled.set_result(error)
        if also is not None:
            also(error)

    outgoing.settled = on_settled
    send(outgoing)
    async with asyncio.timeout(timeout):
        error = await settled
    if error is not None:
        raise error
