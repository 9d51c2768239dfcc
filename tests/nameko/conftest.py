"""
Fixtures for tests with real Nameko: its processes, RabbitMQ, and our services under names that no
other run uses.

If RabbitMQ, pip or an old Python is missing, the tests are skipped with one line that names the
remedy. With AIORPC_REQUIRE_SERVERS=1 they fail.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aio_pika
import pytest

from tests.nameko import virtualenvs
from tests.nameko.processes import Nameko
from tests.servers import urls

TOKEN = secrets.token_hex(3)

#: Stacks that are not available, and why.
_missing = pytest.StashKey[dict[str, str]]()


def unavailable(why: str) -> None:
    if os.environ.get("AIORPC_REQUIRE_SERVERS") == "1":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the virtual environments before the first test, because a test has a time limit."""
    stacks = {
        item.callspec.params["nameko_processes"]
        for item in session.items
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and "nameko_processes" in item.callspec.params
    }
    if session.config.option.collectonly or urls().rabbitmq is None:
        return
    with ThreadPoolExecutor() as pool:
        made = {stack: pool.submit(virtualenvs.python_of, stack) for stack in sorted(stacks)}
    missing = session.config.stash.setdefault(_missing, {})
    for stack, making in made.items():
        error = making.exception()
        if isinstance(error, virtualenvs.Unavailable):
            missing[stack] = str(error)
        elif error is not None:
            raise error


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    url = urls().rabbitmq
    if url is None:
        unavailable("RabbitMQ is missing: `make servers`, or set AIORPC_TEST_AMQP_URI")
    assert url is not None
    return url


@pytest.fixture
def broker(rabbitmq_url: str) -> dict[str, Any]:
    """The configuration of our services and clients."""
    return {"AMQP_URI": rabbitmq_url}


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(stack, marks=[pytest.mark.long] if stack.endswith("-old") else [])
        for stack in virtualenvs.STACKS
    ],
)
def nameko_processes(
    request: pytest.FixtureRequest, rabbitmq_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nameko]:
    stack: str = request.param
    if why := request.config.stash.get(_missing, {}).get(stack):
        unavailable(f"Nameko {stack} is missing: {why}")
    python = virtualenvs.python_of(stack)
    token = f"{stack.replace('.', '').replace('-', '')}_{TOKEN}"
    logs = tmp_path_factory.mktemp("nameko")
    peers = Nameko(stack, python, rabbitmq_url, token, logs)
    yield peers
    peers.stop()
    _delete_queues(rabbitmq_url, [f"rpc-{peers.x}", f"rpc-{peers.y}"])


@pytest.fixture
def nameko(nameko_processes: Nameko) -> Iterator[Nameko]:
    """The Nameko processes of each stack. The fixture fails if a test killed one."""
    nameko_processes.check()
    yield nameko_processes
    nameko_processes.check()


def _delete_queues(url: str, names: list[str]) -> None:
    import asyncio

    async def delete() -> None:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            for name in names:
                await channel.queue_delete(name)

    asyncio.run(delete())


@pytest.fixture
async def channel(rabbitmq_url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A raw channel, to send what our client would not."""
    async with await aio_pika.connect(rabbitmq_url) as connection:
        yield await connection.channel()


@pytest.fixture
async def new_name(
    channel: aio_pika.abc.AbstractChannel,
) -> AsyncIterator[Callable[[str], str]]:
    """Makes service names that only this test uses, and deletes their queues at the end."""
    names = []

    def make(prefix: str) -> str:
        names.append(f"{prefix}_{secrets.token_hex(4)}")
        return names[-1]

    yield make
    for name in names:
        await channel.queue_delete(f"rpc-{name}")
