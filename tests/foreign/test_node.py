"""
Calls between aiorpc and Node (the package amqplib), in both directions, with default settings.

Without Node or amqplib the tests are skipped. They install nothing.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import subprocess
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from aiorpc import (
    ClusterRpc,
    ClusterRpcProxy,
    DependencyProvider,
    RemoteError,
    ServiceContainer,
    WorkerContext,
    rpc,
)
from tests.support.waiting import PATIENCE

PEER = Path(__file__).with_name("peer.js")
#: One value of each type that headers of ours can have.
CONTEXT = {
    "number": 200,
    "less": -5,
    "big": 2**40,
    "ratio": 0.1,
    "yes": True,
    "text": "h\xe9",
    "list": ["a", 1],
    "table": {"k": 2**33},
}


@functools.cache
def node() -> str:
    """Return the path of Node. Skip the test if Node or amqplib is missing."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("Node is missing: install Node 18 or later")
    found = subprocess.run(
        [path, "-e", "require('amqplib')"], cwd=PEER.parent, capture_output=True, check=False
    )
    if found.returncode:
        pytest.skip(
            "the package amqplib is missing: run `npm install --no-save amqplib` in the "
            "repository, or name the folder of an installed one in NODE_PATH"
        )
    return path


@asynccontextmanager
async def peer(*arguments: str) -> AsyncIterator[Process]:
    """Run `peer.js`, which ends with the block. Fails if it ended before."""
    process = await asyncio.create_subprocess_exec(
        node(), str(PEER), *arguments, stdin=PIPE, stdout=PIPE, env={**os.environ}
    )
    assert process.stdin is not None
    try:
        yield process
        assert process.returncode is None, f"Node ended with {process.returncode}"
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), PATIENCE)


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode().strip()


@pytest.fixture
async def node_service(rabbitmq_uri: str) -> AsyncIterator[str]:
    """The name of a service in Node. The process must survive the test."""
    name = f"node_{uuid.uuid4().hex}"
    async with peer("serve", rabbitmq_uri, name) as process:
        assert await line_of(process) == "ready"
        yield name


class CurrentWorker(DependencyProvider[WorkerContext]):
    def value(self, worker_ctx: WorkerContext) -> WorkerContext:
        return worker_ctx


@pytest.fixture
async def our_service(rabbitmq_uri: str) -> AsyncIterator[str]:
    """The name of a service of ours."""

    class Service:
        name = f"ours_{uuid.uuid4().hex}"
        worker = CurrentWorker()
        cluster = ClusterRpc()

        @rpc
        async def echo(self, value: Any) -> Any:
            return value

        @rpc
        async def remaining(self) -> float | None:
            deadline = self.worker.call.context.deadline
            return None if deadline is None else deadline.remaining()

        @rpc
        async def call_nobody(self) -> Any:
            return await self.cluster.nobody_ever_ran_this.echo()

    async with ServiceContainer(Service, rabbitmq_uri):
        yield Service.name
    async with await aio_pika.connect(rabbitmq_uri) as connection:
        await (await connection.channel()).queue_delete(f"rpc-{Service.name}")


async def test_a_service_in_node_answers_a_default_call(
    node_service: str, rabbitmq_uri: str
) -> None:
    async with ClusterRpcProxy(rabbitmq_uri, context_data=CONTEXT) as cluster:
        assert await cluster[node_service].echo({"a": [1, "\xe9"]}) == {"a": [1, "\xe9"]}
        seen = await cluster[node_service].headers()
    assert seen.pop("nameko.aiorpc_deadline").isdigit()
    assert len(seen.pop("nameko.call_id_stack")) == 1
    assert seen == {f"nameko.{name}": value for name, value in CONTEXT.items()}


async def test_a_reply_without_a_result_and_with_a_null_error_is_none(
    node_service: str, rabbitmq_uri: str
) -> None:
    async with ClusterRpcProxy(rabbitmq_uri) as cluster:
        assert await cluster[node_service].nothing() is None


async def test_the_deadline_passes_through_a_service_in_node(
    node_service: str, our_service: str, rabbitmq_uri: str
) -> None:
    async with ClusterRpcProxy(rabbitmq_uri, timeout=7) as cluster:
        left = await cluster[node_service].hop(f"{our_service}.remaining", [])
        assert 0 < left <= 7
        unlimited = cluster[node_service].hop.with_options(timeout=None)
        assert await unlimited(f"{our_service}.remaining", []) is None


async def test_a_client_in_node_calls_our_service(our_service: str, rabbitmq_uri: str) -> None:
    async def reply(method: str, *args: Any) -> Any:
        key = f"{our_service}.{method}"
        async with peer("call", rabbitmq_uri, key, json.dumps(args)) as process:
            return json.loads(await line_of(process))

    value = {"a": [1, "\xe9", None, 0.5]}
    assert await reply("echo", value) == {"result": value, "error": None}
    for method, path in (
        ("missing", "nameko.exceptions.MethodNotFound"),
        ("echo", "nameko.exceptions.IncorrectSignature"),
        ("call_nobody", "nameko.exceptions.UnknownService"),
    ):
        error = (await reply(method))["error"]
        assert error["exc_path"] == path
        assert "://" not in json.dumps(error)


async def test_an_error_of_a_service_in_node_is_a_remote_error(
    node_service: str, our_service: str, rabbitmq_uri: str
) -> None:
    async with ClusterRpcProxy(rabbitmq_uri) as cluster:
        with pytest.raises(RemoteError) as caught:
            await cluster[node_service].hop(f"{our_service}.call_nobody", [])
    assert caught.value.exc_type == "UnknownService"
