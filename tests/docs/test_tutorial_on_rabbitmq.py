"""The second half of the tutorial as a reader runs it: in processes, on a RabbitMQ server."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from aiorpc.config import resolve
from aiorpc.transports import open_transport

from .markdown import ROOT, blocks_of
from .runner import RABBITMQ

BLOCKS = blocks_of(ROOT / "docs" / "tutorial.md")
FILES = {block.file_name: block.code for block in BLOCKS if block.file_name}
ON_RABBITMQ = [block for block in BLOCKS if RABBITMQ in block.code]
RUNS = [block.code for block in ON_RABBITMQ if block.code.startswith("aiorpc run")]
CALL = next(block for block in ON_RABBITMQ if block.code.startswith("aiorpc call"))
PROGRAM = next(block for block in ON_RABBITMQ if block.language == "python")
#: Seconds for a process to start, or to end.
PATIENCE = 20


@pytest.fixture
async def directory(tmp_path: Path, rabbitmq_uri: str) -> AsyncIterator[Path]:
    for name in ("prices.py", "shop.py"):
        (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    yield tmp_path
    async with open_transport(resolve(rabbitmq_uri)) as transport:
        for queue in ("rpc-prices", "rpc-shop"):
            await transport.delete(queue)


def command(line: str, broker: str) -> list[str]:
    """Run the page's ``aiorpc ...`` from this tree, on the broker of the tests."""
    return [sys.executable, "-m", *shlex.split(line.replace(RABBITMQ, broker))]


@contextmanager
def running(line: str, broker: str, directory: Path) -> Iterator[None]:
    """
    Run *line* as in a terminal. The block begins when the service is ready; its end is Ctrl-C.
    """
    process = subprocess.Popen(
        command(line, broker), cwd=directory, env=environment(), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    log: list[str] = []
    ready = threading.Event()

    def read() -> None:
        for text in process.stderr or ():
            log.append(text)
            if " ready: " in text:
                ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert ready.wait(PATIENCE), "".join(log)
        yield
    finally:
        process.terminate()
        status = process.wait(PATIENCE)
        reader.join(PATIENCE)
        process.stderr.close()
    assert status == 0, "".join(log)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def output_of(arguments: list[str], directory: Path) -> str:
    done = subprocess.run(
        arguments,
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


async def test_two_services_a_command_and_a_program(directory: Path, rabbitmq_uri: str) -> None:
    assert len(RUNS) == 2
    body = PROGRAM.code.replace(RABBITMQ, rabbitmq_uri).replace("\n", "\n    ")
    program = f"import asyncio\n\nasync def main():\n    {body}\n\nasyncio.run(main())\n"
    with ExitStack() as terminals:
        for line in RUNS:
            terminals.enter_context(running(line, rabbitmq_uri, directory))
        for block, arguments in (
            (CALL, command(CALL.code, rabbitmq_uri)),
            (PROGRAM, [sys.executable, "-c", program]),
        ):
            assert output_of(arguments, directory) == (block.output or "").strip()
