"""Cancelling whoever waits for aiormq cancels it, whatever aiormq makes of that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import aiormq
import pytest

from aiorpc.transports.amqp.errors import Refused, errors


async def swallows() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def raises_something_else() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError as error:
        raise aiormq.exceptions.ChannelClosed(None, None) from error


async def lets_it_through() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("waits", [swallows, raises_something_else, lets_it_through])
async def test_a_cancellation_is_not_lost(waits: Callable[[], Awaitable[None]]) -> None:
    async def ask() -> None:
        with errors():
            await waits()

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()


@pytest.mark.parametrize("waits", [raises_something_else, lets_it_through])
async def test_a_timeout_around_it_is_one(waits: Callable[[], Awaitable[None]]) -> None:
    async def ask() -> None:
        async with asyncio.timeout(0.01):
            with errors():
                await waits()

    with pytest.raises(TimeoutError):
        await ask()


async def test_a_cancellation_that_nobody_asked_for_is_a_lost_connection() -> None:
    with pytest.raises(ConnectionError, match="the connection was closed"), errors():
        raise asyncio.CancelledError


async def test_what_the_broker_says_of_a_channel_is_told() -> None:
    with pytest.raises(Refused, match="404 no such queue") as told, errors():
        raise aiormq.exceptions.ChannelNotFoundEntity("no such queue")
    assert told.value.code == 404


async def test_errors_of_others_pass() -> None:
    with pytest.raises(ValueError, match="ours"), errors():
        raise ValueError("ours")
