"""
Server processes: starts them, waits for them, stops and kills them. Each runs `tests.chaos.service`
or another command, and logs a line when it is ready.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICE = (sys.executable, "-m", "tests.chaos.service")

#: Seconds for a process to become ready on a busy machine, and to end after a signal.
READY_WITHIN = 40.0
END_WITHIN = 40.0


class Server:
    """
    One server process.

    Attributes:
        log: the last lines that it wrote.
        heard: called with every line that it writes.
    """

    def __init__(self, process: asyncio.subprocess.Process, ready: str) -> None:
        self.log: deque[str] = deque(maxlen=400)
        self.heard: Callable[[str], None] | None = None
        self._process = process
        self._ready_line = ready
        self._ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        environment: Mapping[str, str],
        command: Sequence[str] = SERVICE,
        ready: str = " ready: ",
    ) -> Server:
        """Start a process; :meth:`ready` waits until it serves."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=16 << 20,  # bytes of a line: a traceback shows the text of a large error
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        return cls(process, ready)

    async def ready(self) -> None:
        """
        Wait until the process serves.

        Raises:
            AssertionError: it ended or took too long; the text has its log.
        """
        waiting = asyncio.create_task(self._ready.wait())
        await asyncio.wait(
            (waiting, self._reading), timeout=READY_WITHIN, return_when=asyncio.FIRST_COMPLETED
        )
        waiting.cancel()
        assert self._ready.is_set(), "a server is not ready:\n" + "\n".join(self.log)

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    async def kill(self) -> None:
        """Kill the process with SIGKILL."""
        if self.alive:
            self._process.kill()
        await self.ended()

    async def ended(self) -> int:
        """Wait for its end and return its exit status."""
        status = await asyncio.wait_for(self._process.wait(), END_WITHIN)
        await self._reading
        return status

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            text = line.decode(errors="replace").rstrip()
            self.log.append(text)
            if self.heard is not None:
                self.heard(text)
            if self._ready_line in text:
                self._ready.set()
