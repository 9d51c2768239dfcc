"""A host name with several addresses, some of which refuse or swallow packets. No broker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from aiorpc.transports.amqp.addresses import connect_to_host
from tests.support.transports import PATIENCE, no_longer_than
from tests.support.waiting import eventually

HOST = "rabbit.cluster.test"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(stack: ExitStack, address: str, port: int, backlog: int = 5) -> socket.socket:
    one = stack.enter_context(socket.socket())
    one.bind((address, port))
    one.listen(backlog)
    return one


def swallowing(stack: ExitStack, address: str, port: int) -> None:
    """Let *address* drop what arrives: Linux does so for a socket whose backlog is full."""
    listening(stack, address, port, backlog=0)
    for _ in range(4):
        one = stack.enter_context(socket.socket())
        one.setblocking(False)
        one.connect_ex((address, port))


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    real = socket.getaddrinfo

    def several(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        assert host == HOST.encode()
        return [info for each in addresses for info in real(each, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", several)


@pytest.mark.slow
@pytest.mark.parametrize("swallow", [("127.0.0.98",), ("127.0.0.98", "127.0.0.99")])
async def test_an_address_that_swallows_packets_does_not_use_up_the_time(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack, swallow: tuple[str, ...]
) -> None:
    port = listening(stack, "127.0.0.1", 0).getsockname()[1]
    for address in swallow:
        swallowing(stack, address, port)
    resolve_to(monkeypatch, *swallow, "127.0.0.1")
    async with asyncio.timeout(PATIENCE):
        with await connect_to_host(HOST, port) as connected:
            assert connected.getpeername() == ("127.0.0.1", port)


async def test_an_address_that_refuses_gives_way_to_the_next_at_once(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    port = listening(stack, "127.0.0.1", 0).getsockname()[1]
    resolve_to(monkeypatch, "127.0.0.97", "127.0.0.98", "127.0.0.1")
    with no_longer_than(0.2), await connect_to_host(HOST, port) as connected:
        assert connected.getpeername() == ("127.0.0.1", port)


async def test_the_error_names_each_address_that_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.97", "127.0.0.98")
    with pytest.raises(OSError, match=r"127\.0\.0\.97.*127\.0\.0\.98"):
        await connect_to_host(HOST, 1)


async def test_the_caller_can_end_it_while_every_address_swallows_packets(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    port = listening(stack, "127.0.0.1", 0).getsockname()[1]
    swallowing(stack, "127.0.0.98", port)
    resolve_to(monkeypatch, "127.0.0.98")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await connect_to_host(HOST, port)
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})
