"""
One worker process, as the supervisor sees it: starts it, hears what it tells, gives it sockets, and
stops it. Starts processes; sends signals.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Self, TypeAlias

import msgspec

from ...logs import logger
from ..report import WorkerReport
from .messages import Condition, Failure, Lines, Listen, Listening, encoded

__all__ = ["Bind", "Command", "WorkerProcess"]

log = logger("aiorpc.hosting")

#: Returns the command that runs a worker process with this number, and this descriptor of its
#: socket to the supervisor.
Command: TypeAlias = Callable[[int, int], Sequence[str]]
#: Returns the socket that listens on an address, the value of the setting named second.
Bind: TypeAlias = Callable[[str, str], Awaitable[socket.socket]]

#: Seconds without a message after which a process does not live: no thread of it runs.
SILENT = 5.0
#: Seconds beyond the process's own limit after which it is killed.
GRACE = 5.0
#: Seconds to read the last messages of a process that ended.
LAST_WORDS = 1.0


class WorkerProcess:
    """
    A process that was started.

    Attributes:
        number: of the worker; also of the process that replaces this one.
        ready: set when it has served calls.
        loaded: set when it has loaded the services.
        ended: its exit status, or minus the signal that ended it.
        addresses: of the sockets that it uses.
    """

    def __init__(
        self,
        number: int,
        process: asyncio.subprocess.Process,
        connection: socket.socket,
        bind: Bind,
    ) -> None:
        self.number = number
        self.pid = process.pid
        self.ready, self.loaded = asyncio.Event(), asyncio.Event()
        self.addresses: set[str] = set()
        self.condition: Condition | None = None
        self.failure: Failure | None = None
        self._process = process
        self._socket = connection
        self._bind = bind
        self._heard_at = self._ready_at = time.monotonic()
        self._stopping = False
        self.ended = asyncio.create_task(self._live(), name=f"aiorpc: worker {number}")

    @classmethod
    async def start(cls, number: int, command: Command, bind: Bind) -> Self:
        """
        Start worker *number*.

        Raises:
            OSError: the system has no room for another process.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        descriptor = theirs.fileno()
        try:
            process = await asyncio.create_subprocess_exec(
                *command(number, descriptor),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(descriptor,),
                # Ctrl-C of a terminal reaches its foreground group. The supervisor alone decides
                # which signals a worker gets.
                process_group=0,
                # For names of files in the configuration, such as shop-${AIORPC_WORKER:0}.log.
                env={**os.environ, "AIORPC_WORKER": str(number)},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(number, process, ours, bind)

    # How it is

    def report(self) -> WorkerReport:
        """Return its report for probes. Any thread may call this method."""
        alive, ready = True, False
        reasons: tuple[str, ...] = ("it loads the services",)
        if self.condition is not None:
            silent_for = time.monotonic() - self._heard_at
            if silent_for < SILENT:
                alive, ready = self.condition.alive, self.condition.ready
                reasons = self.condition.reasons
            else:
                alive, reasons = False, (f"it has been silent for {silent_for:.0f} s",)
        return WorkerReport(self.number, self.pid, alive, ready, reasons)

    @property
    def served_for(self) -> float:
        """Seconds since it served calls for the first time."""
        return time.monotonic() - self._ready_at if self.ready.is_set() else 0.0

    @property
    def end(self) -> str:
        """Why it ended, in words."""
        if self.failure is not None:
            return self.failure.text
        status = self.ended.result()
        if status >= 0:
            return f"exit status {status}"
        with suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
        return f"killed by signal {-status}"

    async def loads(self) -> bool:
        """Wait until it has loaded the services. Return whether it has, or ended before."""
        return await self._until(self.loaded)

    async def becomes_ready(self, timeout: float | None = None) -> bool:
        """Wait until it serves calls, at most *timeout* seconds. Return whether it has."""
        return await self._until(self.ready, timeout)

    async def _until(self, event: asyncio.Event, timeout: float | None = None) -> bool:
        happening = asyncio.create_task(event.wait())
        try:
            both = (happening, self.ended)
            await asyncio.wait(both, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            happening.cancel()
        return event.is_set()

    # What the supervisor does with it

    def send_signal(self, signum: int) -> None:
        if not self.ended.done():
            with suppress(ProcessLookupError):
                self._process.send_signal(signum)

    def stop(self) -> None:
        """Let it finish its calls and end. Kill it if that takes too long."""
        if self._stopping or self.ended.done():
            return
        self._stopping = True
        self.send_signal(signal.SIGTERM)
        self.kill_after(GRACE + (0.0 if self.condition is None else self.condition.stops_within))

    def kill_after(self, seconds: float) -> None:
        """Kill it if it has not ended in *seconds*."""

        def kill() -> None:
            log.error(
                "worker %d (pid %d) has not ended %g s after the signal and is killed; the broker "
                "delivers its calls to others",
                self.number,
                self.pid,
                seconds,
            )
            self.send_signal(signal.SIGKILL)

        timer = asyncio.get_running_loop().call_later(seconds, kill)
        self.ended.add_done_callback(lambda _: timer.cancel())

    # What it tells

    async def _live(self) -> int:
        reading = asyncio.create_task(self._read(), name=f"aiorpc: read from worker {self.number}")
        try:
            status = await self._process.wait()
            # A process that the services started may hold the other end of the socket.
            await asyncio.wait((reading,), timeout=LAST_WORDS)
            return status
        finally:
            reading.cancel()
            await asyncio.wait((reading,))
            self._socket.close()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        lines = Lines()
        with suppress(OSError):
            while received := await loop.sock_recv(self._socket, 1 << 16):
                self._heard_at = time.monotonic()
                try:
                    messages = lines.feed(received)
                except msgspec.DecodeError as error:
                    log.error("worker %d: an unreadable message: %s", self.number, error)
                    continue
                for message in messages:
                    await self._hear(message)

    async def _hear(self, message: Condition | Failure | Listen | Listening) -> None:
        if isinstance(message, Condition):
            self.condition = message
            self.loaded.set()
            if message.ready and not self.ready.is_set():
                self._ready_at = time.monotonic()
                self.ready.set()
                log.info("worker %d: pid %d is ready", self.number, self.pid)
        elif isinstance(message, Failure):
            self.failure = message
        elif isinstance(message, Listen):
            await self._give(message)

    async def _give(self, asked: Listen) -> None:
        try:
            bound = [await self._bind(asked.address, asked.key)]
            answer = Listening(asked.address)
        except Exception as error:  # noqa: BLE001 - the worker raises it
            bound, answer = [], Listening(asked.address, str(error))
        self.addresses.add(asked.address)
        socket.send_fds(self._socket, [encoded(answer)], [each.fileno() for each in bound])
