"""
Server processes: started, waited for, told to stop, killed. Each runs `tests.chaos.service`, or
whatever command it is given, and says in its log when it is ready.
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

#: Seconds for a process to be ready on a busy machine, and to end once it was told to.
READY_WITHIN = 40.0
END_WITHIN = 40.0


class Server:
    """
    One server process.

    Attributes:
        log: the last lines that it wrote.
        heard: is told every line that it writes.
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
        """Start one; :meth:`ready` waits until it serves."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        return cls(process, ready)

    async def ready(self) -> None:
        """
        Return when it serves.

        Raises:
            AssertionError: it ended, or takes too long; the text has its log.
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

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    async def kill(self) -> None:
        """End it as the kernel would: SIGKILL."""
        if self.alive:
            self._process.kill()
        await self.ended()

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
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
