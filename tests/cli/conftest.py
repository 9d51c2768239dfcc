"""Fixtures for tests of the command line: a user's directory, and clean logging and imports."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiorpc.config import resolve
from aiorpc.transports import open_transport
from tests.support.command_line import Project


@pytest.fixture(autouse=True)
def _paths_and_environment_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands put the current directory on the path, and read ``AMQP_URI``."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delenv("AMQP_URI", raising=False)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The project as current directory. Modules imported from it are forgotten afterwards."""
    monkeypatch.chdir(project.directory)
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
    """A project whose ``greetings`` service may run on RabbitMQ; the end deletes its queue."""
    project.write_service()
    yield project
    asyncio.run(_delete(rabbitmq_uri, f"rpc-{project.name}"))


async def _delete(url: str, queue: str) -> None:
    async with open_transport(resolve(url), name="tests") as transport:
        await transport.delete(queue)
