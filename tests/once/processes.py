"""The processes of the shop, as the stage sees them. Awaits them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_ROOT = Path(__file__).parents[2]
#: Seconds for a process to start, to answer and to end, on a busy machine.
PATIENCE = 60.0


class Shopkeeper:
    """
    One process. It talks on a socket, which the kernel closes when the process dies.

    Attributes:
        died: set when the process has ended.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.died = asyncio.Event()
        self._writer = writer
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                self._said.put_nowait(json.loads(line))
        self._writer.close()
        self.died.set()
        self._said.put_nowait(None)

    async def hear(self) -> Any:
        """Return the next thing that the process says; None if it dies."""
        async with asyncio.timeout(PATIENCE):
            return await self._said.get()

    async def ask(self, *command: str) -> Any:
        """Return what the process answers; None if it has died."""
        if self.died.is_set():
            return None
        self._writer.write(json.dumps(command).encode() + b"\n")
        return await self.hear()

    async def stop(self) -> None:
        """End the process in the ordinary way, or kill it."""
        if not self.died.is_set():
            process: int | None = await self.ask("stop")
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.died.wait()
            except TimeoutError:
                assert process is not None
                os.kill(process, signal.SIGKILL)
        await self._reading


class Forks:
    """Starts processes of the shop; see :mod:`tests.once.forks`."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self._process = process
        self._address = address
        self.came: asyncio.Queue[Shopkeeper] = asyncio.Queue()
        self._starting = asyncio.Lock()

    async def start(self, run: str, config: Mapping[str, Any], *, once: bool) -> Shopkeeper:
        """Return a process that serves."""
        assert self._process.stdin is not None
        async with self._starting, asyncio.timeout(PATIENCE):
            line = json.dumps([run, config, self._address, once])
            self._process.stdin.write(line.encode() + b"\n")
            process = await self.came.get()
        assert await process.hear() == "ready"
        return process


@asynccontextmanager
async def forking() -> AsyncIterator[Forks]:
    """Run the server of forks, whose processes end before the block does."""
    with TemporaryDirectory() as folder:
        address = f"{folder}/socket"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.once.forks"),
            stdin=asyncio.subprocess.PIPE,
            cwd=_ROOT,
        )
        forks = Forks(process, address)

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            forks.came.put_nowait(Shopkeeper(reader, writer))

        async with await asyncio.start_unix_server(connected, address, limit=1 << 24):
            yield forks
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
