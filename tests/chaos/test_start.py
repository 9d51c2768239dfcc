"""
The trouble that a service may meet at its start, on a real broker: a vhost that is made later, a
permission that is given later, a limit that is lifted. And what ends the start.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.node_shell import NodeShell, binary
from tests.chaos.refusal_stage import ACTOR, AUTHORITY
from tests.servers import Rabbit
from tests.support.command_line import Project, Started

pytestmark = [pytest.mark.rabbitmq, pytest.mark.long]


class Operator:
    """Makes what a service needs, one after the other. Vhost and user have one name."""

    def __init__(self, node: Rabbit) -> None:
        self.name = f"start{secrets.token_hex(4)}"
        self.url = node.url.replace("guest:guest", f"{self.name}:secret") + self.name
        self._shell = NodeShell(node)
        self._own = binary(self.name)

    async def _run(self, expression: str) -> None:
        await self._shell.evaluate(expression)

    async def make_user(self) -> None:
        await self._run(f"{AUTHORITY}:add_user({self._own}, {binary('secret')}, {ACTOR})")

    async def make_vhost(self) -> None:
        await self._run(f"rabbit_vhost:add({self._own}, {ACTOR})")

    async def permit(self, configure: str) -> None:
        patterns = ", ".join(map(binary, (configure, ".*", ".*")))
        await self._run(
            f"{AUTHORITY}:set_permissions({self._own}, {self._own}, {patterns}, {ACTOR})"
        )

    async def limit(self, limit: str, most: int) -> None:
        await self._run(
            f"rabbit_vhost_limit:update_limit({self._own}, {binary(limit)}, {most}, {ACTOR})"
        )

    async def delete(self) -> None:
        await self._run(f"catch rabbit_vhost:delete({self._own}, {ACTOR})")  # a test has none
        await self._run(f"{AUTHORITY}:delete_user({self._own}, {ACTOR})")


@pytest.fixture
async def operator(node: Rabbit) -> AsyncIterator[Operator]:
    operator = Operator(node)
    await operator.make_user()
    yield operator
    await operator.delete()


@contextmanager
def running(directory: Path, url: str, *options: str) -> Iterator[Started]:
    project = Project(directory)
    project.write_service()
    with Started("run", "greetings", "--broker", url, *options, cwd=directory) as process:
        yield process


async def logs(process: Started, text: str) -> str:
    return await asyncio.to_thread(process.waits_for, text)


async def ends(process: Started) -> int:
    return await asyncio.to_thread(process.ends)


async def test_a_service_waits_for_its_vhost_its_permissions_and_limits(
    operator: Operator, tmp_path: Path
) -> None:
    with running(tmp_path, operator.url) as process:
        await logs(process, f"vhost {operator.name} not found")
        await operator.make_vhost()
        await logs(process, f"access to vhost '{operator.name}' refused for user")
        await operator.limit("max-connections", 0)
        await operator.permit("^$")
        await logs(process, "connection limit (0) is reached")
        await operator.limit("max-connections", -1)
        line = await logs(process, "is not ready: queue ")
        assert "the user lacks the permission to configure it" in line
        await operator.limit("max-queues", 0)
        await operator.permit(".*")
        line = await logs(process, "a limit of the broker is reached")
        assert "(0) is reached" in line
        await operator.limit("max-queues", -1)
        await logs(process, " ready: methods ")
        assert "callers cannot cancel" not in process.output
        assert "will not show in `aiorpc ls`" not in process.output
        process.signal(signal.SIGTERM)
        assert await ends(process) == 0
    assert "secret" not in process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize("step", ["vhost", "permission"])
async def test_with_fail_fast_the_first_refusal_ends_it(
    operator: Operator, tmp_path: Path, step: str
) -> None:
    if step == "permission":
        await operator.make_vhost()
        await operator.permit("^$")
    with running(tmp_path, operator.url, "--fail-fast") as process:
        assert await ends(process) == 2
    last = process.output.splitlines()[-1]
    assert last.startswith("error: ")
    assert {"vhost": "refuses vhost", "permission": "lacks the permission"}[step] in last


async def test_refused_credentials_end_the_first_start(operator: Operator, tmp_path: Path) -> None:
    with running(tmp_path, operator.url.replace("secret", "wrong")) as process:
        assert await ends(process) == 2
    assert f"refuses user '{operator.name}'" in process.output.splitlines()[-1]


async def test_a_service_whose_vhost_is_deleted_waits_until_it_is_back(
    operator: Operator, tmp_path: Path
) -> None:
    await operator.make_vhost()
    await operator.permit(".*")
    with running(tmp_path, operator.url) as process:
        await logs(process, " ready: methods ")
        await operator.delete()
        await logs(process, "reconnecting")
        await logs(process, f"refuses user '{operator.name}'")
        await operator.make_user()
        await operator.make_vhost()
        await operator.permit(".*")
        await asyncio.to_thread(process.waits_for, "connected to", 2)
        process.signal(signal.SIGTERM)
        assert await ends(process) == 0
