"""aiormq's errors become ours, and a cancelled task stays cancelled whatever aiormq raises."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import aio_pika
import aiormq
import pytest

from aiorpc.config import resolve
from aiorpc.transports.amqp.errors import Refused, connection_refusal, errors
from aiorpc.transports.amqp.link import Link
from aiorpc.transports.amqp.topology import misdeclared


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


async def test_a_cancelled_handshake_that_ends_with_an_error_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def connect(self: object, timeout: float | None = None) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise aiormq.exceptions.ProbableAuthenticationError("refused") from None

    monkeypatch.setattr(aio_pika.Connection, "connect", connect)
    settings = resolve({"AMQP_URI": "amqp://guest:guest@127.0.0.1:9/"})
    link = Link(
        settings,
        settings.broker_urls[0],
        name="test",
        on_lost=lambda _: None,
        on_blocked=lambda _: None,
        on_congested=lambda: None,
    )
    opening = asyncio.create_task(link.open())
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()


@pytest.mark.parametrize(
    ("said", "final"),
    [
        ("NOT_ALLOWED - vhost shop not found", True),
        ("NOT_ALLOWED - access to vhost 'shop' refused for user 'app'", True),
        (
            "NOT_ALLOWED - access to vhost 'shop' refused for user 'app': "
            "connection limit (1) is reached",
            False,
        ),
        ("NOT_ALLOWED - access to vhost 'shop' refused for user 'app': vhost is at limit", False),
        (
            "NOT_ALLOWED - connection refused for user 'app': user connection limit (1) is reached",
            False,
        ),
        ("NOT_ALLOWED - connection refused: node connection limit (1) is reached", False),
        ("NOT_ALLOWED - vhost 'shop' is down", False),
        ("INTERNAL_ERROR - something else", False),
    ],
)
def test_only_a_refusal_that_cannot_pass_by_itself_is_final(said: str, final: bool) -> None:
    (url,) = resolve({"AMQP_URI": "amqp://app:secret@127.0.0.1/shop"}).broker_urls
    error = aiormq.exceptions.InvalidFrameError("Expected Connection.OpenOk, got Connection.Close")
    refusal = connection_refusal(error, url, said)
    assert (refusal is not None) is final
    if refusal is not None:
        assert refusal.may_pass


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


@pytest.mark.parametrize(
    ("code", "text", "may_pass"),
    [
        # RabbitMQ 3.10, and 4.3
        (403, "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'app'", True),
        (
            403,
            "ACCESS_REFUSED - configure access to queue 'q' in vhost '/' refused for user 'app'",
            True,
        ),
        (403, "ACCESS_REFUSED - queue name 'amq.q' contains reserved prefix 'amq.*'", False),
        (404, "NOT_FOUND - no queue 'q' in vhost '/'", True),
        (
            405,
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'",
            True,
        ),
        (
            406,
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': "
            "received 'false' but current is 'true'",
            False,
        ),
        (
            406,
            "PRECONDITION_FAILED - cannot declare queue 'q': queue limit in vhost '/' (3) is "
            "reached",
            True,
        ),
        (0, "the channel was closed", False),
    ],
)
def test_only_a_refusal_that_others_can_lift_may_pass(code: int, text: str, may_pass: bool) -> None:
    refused = Refused(code, text)
    assert refused.may_pass is may_pass
    assert misdeclared("queue 'q'", refused).may_pass is may_pass


@pytest.mark.parametrize(
    ("text", "unavailable"),
    [
        # RabbitMQ 3.10: its node is killed.
        (
            "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or "
            "inaccessible",
            True,
        ),
        # 4.3, after a minute.
        ("NOT_FOUND - failed to perform operation on queue 'q' in vhost '/' due to timeout", True),
        # rabbit_amqqueue:absent/2 of 3.10 to 4.3
        ("NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor", True),
        ("NOT_FOUND - queue 'q' in vhost '/' has crashed and failed to restart", True),
        ("NOT_FOUND - timed out while declaring queue 'q' in vhost '/'", True),
        ("NOT_FOUND - leader of queue 'q' in vhost '/' may be stopping or being demoted", True),
        ("NOT_FOUND - no queue 'q' in vhost '/'", False),
    ],
)
def test_a_queue_that_is_down_is_told_from_a_queue_that_does_not_exist(
    text: str, unavailable: bool
) -> None:
    refused = Refused(404, text)
    assert refused.unavailable is unavailable
    assert ("its node is down" in str(misdeclared("queue 'q'", refused))) is unavailable
