"""
The supervisor of ``aiorpc run --workers N``: it starts the worker processes, and obeys the signals.
It imports no service and has no connection to the broker. Awaits the slots; handles signals.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...logs import logger
from ...sockets import bind
from ..report import Report
from .process import Command, WorkerProcess
from .slot import Crew, Slot

__all__ = ["ProcessSupervisor"]

log = logger("aiorpc.hosting")

#: Seconds after a second signal in which the workers end.
HURRY = 2.0


class ProcessSupervisor:
    """
    Keeps *workers* processes alive until a signal::

        status = await ProcessSupervisor(command, workers=4).run()

    SIGTERM and SIGINT let all finish their calls; a second one ends them at once. SIGHUP replaces
    them one by one. SIGTTIN adds one, SIGTTOU removes one.

    Args:
        bury: called with the pid of each process that has ended.
    """

    def __init__(
        self, command: Command, workers: int, bury: Callable[[int], None] | None = None
    ) -> None:
        self._command = command
        self._bury = bury
        self._count = workers
        self._crew = Crew(self._start, self._give_up)
        self._slots: dict[int, Slot] = {}
        #: All that run, also those that finish their calls.
        self._processes: set[WorkerProcess] = set()
        self._sockets: dict[str, socket.socket] = {}
        self._binding = asyncio.Lock()
        self._rolling: asyncio.Task[None] | None = None
        self._signals: list[int] = []
        self._ends_with_terminal = False
        #: Ends ``run``.
        self._over: asyncio.Future[None]

    async def run(self) -> int:
        """
        Return the exit status after a signal: 0, or 1 if a worker abandoned calls.

        Raises:
            WorkersFailed: a worker does not become ready.
        """
        self._over = asyncio.get_running_loop().create_future()
        with self._signals_heard():
            try:
                for _ in range(self._count):
                    self._add()
                await asyncio.wait((self._over,))
            finally:
                statuses = await self._end_all()
        self._over.result()
        if len(self._signals) > 1:
            return 128 + self._signals[-1]
        return max(statuses, default=0)

    def report(self) -> Report:
        """Return the report for probes. Any thread may call this method."""
        slots = list(self._slots.values())
        processes = [process for each in slots if (process := each.process) is not None]
        problems = [problem for each in slots if (problem := each.problem) is not None]
        return Report.of([each.report() for each in processes], problems)

    # Processes

    async def _start(self, number: int) -> WorkerProcess:
        process = await WorkerProcess.start(number, self._command, self._socket_for)
        self._processes.add(process)
        process.ended.add_done_callback(lambda _: self._forget(process))
        return process

    def _forget(self, process: WorkerProcess) -> None:
        self._processes.discard(process)
        if self._bury is not None:
            try:
                self._bury(process.pid)
            except Exception:
                log.exception("the metrics of worker %d are incomplete", process.number)

    async def _socket_for(self, address: str, key: str) -> socket.socket:
        async with self._binding:
            if address not in self._sockets:
                self._sockets[address] = await bind(address, key)
            return self._sockets[address]

    def _add(self) -> Slot:
        number = max(self._slots, default=0) + 1
        slot = self._slots[number] = Slot(number, self._crew)
        return slot

    def _give_up(self, error: Exception) -> None:
        if not self._over.done():
            self._over.set_exception(error)

    async def _end_all(self) -> list[int]:
        """Let all processes finish their calls, and return their exit statuses."""
        tasks = [each.keeping for each in self._slots.values()]
        if self._rolling is not None:
            tasks.append(self._rolling)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for bound in self._sockets.values():
            bound.close()  # clients are refused when the last worker closes its own
        processes = list(self._processes)
        for process in processes:
            process.stop()
        await asyncio.gather(*(each.ended for each in processes))
        return [_exit_status(each) for each in processes]

    # Signals

    @contextmanager
    def _signals_heard(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        # `nohup` ignores SIGHUP, so that a closing terminal ends nothing.
        self._ends_with_terminal = (
            signal.getsignal(signal.SIGHUP) is signal.SIG_DFL and _has_terminal()
        )
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: lambda: self._stop(signal.SIGTERM),
            signal.SIGINT: lambda: self._stop(signal.SIGINT),
            signal.SIGHUP: self._hang_up,
            signal.SIGTTIN: self._add_one,
            signal.SIGTTOU: self._remove_one,
        }
        for signum, handler in handlers.items():
            loop.add_signal_handler(signum, handler)
        try:
            yield
        finally:
            for signum in handlers:
                loop.remove_signal_handler(signum)

    def _stop(self, signum: signal.Signals) -> None:
        self._signals.append(signum)
        if len(self._signals) == 1:
            log.info(
                "%s: the workers finish their calls; a second signal ends them at once", signum.name
            )
            if not self._over.done():
                self._over.set_result(None)
            return
        log.warning("%s again: the workers end at once", signum.name)
        for process in self._processes:
            process.send_signal(signum)
            process.kill_after(HURRY)

    def _add_one(self) -> None:
        if not self._over.done():
            log.info("SIGTTIN: worker %d starts", self._add().number)

    def _remove_one(self) -> None:
        if self._over.done():
            return
        if len(self._slots) == 1:
            log.warning("SIGTTOU: the last worker stays; SIGTERM ends it")
            return
        number = max(self._slots)
        log.info("SIGTTOU: worker %d finishes its calls and ends", number)
        self._slots.pop(number).leave()

    # The roll

    def _hang_up(self) -> None:
        """Replace the workers. If the terminal sent SIGHUP because it closes, stop."""
        if self._ends_with_terminal and not _has_terminal():
            self._stop(signal.SIGHUP)
        if self._over.done():
            return
        before = self._rolling
        if before is not None:
            before.cancel()
        self._rolling = asyncio.create_task(self._roll(before), name="aiorpc: replace the workers")

    async def _roll(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        log.info("SIGHUP: replacing the workers one by one (%d)", len(self._slots))
        for slot in list(self._slots.values()):
            if (reason := await slot.replace()) is not None:
                log.error(
                    "SIGHUP: the new process of worker %d is not ready: %s. This worker and those "
                    "after it are not replaced",
                    slot.number,
                    reason,
                )
                return
        self._close_unused_sockets()
        log.info("SIGHUP: all workers are replaced")

    def _close_unused_sockets(self) -> None:
        """Close the sockets of an earlier configuration, where nobody accepts connections."""
        used = set().union(*(each.addresses for each in self._processes))
        for address in self._sockets.keys() - used:
            self._sockets.pop(address).close()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True


def _exit_status(process: WorkerProcess) -> int:
    """Return 0 if *process* ended as it should after SIGTERM."""
    status = process.ended.result()
    if status == -signal.SIGTERM and not process.loaded.is_set():
        return 0  # it had nothing to finish
    return status if status >= 0 else 1
