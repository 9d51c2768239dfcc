"""A directory as a user has it, with a few services in it."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiorpc.config import resolve
from aiorpc.transports import open_transport

#: An entrypoint that fires once, when its service starts, and a method that takes its time.
SLOW = """
import asyncio
from contextlib import asynccontextmanager

from aiorpc import Call, Entrypoint


class AtStart(Entrypoint):
    @asynccontextmanager
    async def listen(self, host):
        call = Call(host.service_name, self.method_name, kind="start")
        host.submit(self, call, lambda outcome: print("outcome:", outcome.ending.value))
        yield


class Slow:
    name = "slow"

    @AtStart.decorator
    async def work(self):
        print("began")
        await asyncio.sleep({seconds})
        print("finished")
"""


class Project:
    """Writes modules; ``name`` is of no other service on the broker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"tests_{uuid.uuid4().hex[:12]}"

    def write(self, file: str, content: str) -> Path:
        path = self.directory / file
        path.write_text(textwrap.dedent(content), encoding="utf-8")
        return path

    def write_service(self) -> None:
        """``greetings.py``: echo, fail, nap, whoami."""
        self.write(
            "greetings.py",
            f"""
            import asyncio
            from datetime import date

            from aiorpc import ContextData, rpc


            class Greetings:
                name = {self.name!r}
                context = ContextData()

                @rpc
                async def echo(self, *args, **kwargs):
                    return [args, kwargs]

                @rpc
                async def add(self, a: int, b: int = 1) -> int:
                    return a + b

                @rpc
                async def birthday(self):
                    return {{"born": date(1815, 12, 10), "name": "Ada ∞"}}

                @rpc
                async def fail(self):
                    raise ValueError("no such\\nperson")

                @rpc
                async def nap(self):
                    await asyncio.sleep(60)

                @rpc
                async def whoami(self):
                    return dict(self.context)
            """,
        )

    def write_slow_service(self, seconds: float) -> None:
        """``slow.py``: a method that starts with the service, and takes *seconds*."""
        self.write("slow.py", SLOW.format(seconds=seconds))


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Commands set up logging for their process, which here is that of all tests."""
    ours, root = logging.getLogger("aiorpc"), logging.getLogger()
    before = ours.level, root.level, root.handlers.copy()
    yield
    ours.setLevel(before[0])
    root.setLevel(before[1])
    root.handlers[:] = before[2]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The project as current directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(project.directory)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)
    yield project
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if Path(file).is_relative_to(project.directory):
            del sys.modules[name]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def service_on_rabbitmq(project: Project, rabbitmq_uri: str) -> Iterator[Project]:
    """A project whose ``greetings`` service may be run on RabbitMQ; its queue goes with it."""
    project.write_service()
    yield project
    asyncio.run(_delete(rabbitmq_uri, f"rpc-{project.name}"))


async def _delete(url: str, queue: str) -> None:
    async with open_transport(resolve(url), name="tests") as transport:
        await transport.delete(queue)
