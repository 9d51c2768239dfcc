"""
The parent of a worker process, as the process sees it: it hears whether the process serves calls,
gives it the sockets to listen on, and must not die before it.

Threads read and write, so a method that blocks the loop hides neither itself nor the death of the
parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from typing import Protocol

from ...exceptions import AioRpcError, ConfigurationError
from ...logs import logger
from ..report import Report
from .messages import Condition, Failure, Lines, Listen, Listening, encoded

__all__ = ["Parent"]

log = logger("aiorpc.hosting")

#: Seconds between two looks at the health of the services, and between two messages about it.
LOOK, BEAT = 0.2, 1.0
#: Seconds in which the parent opens a socket, and in which it takes the last message.
ANSWERS_WITHIN, HEARS_WITHIN = 10.0, 1.0
#: Seconds beyond the drain after which a process without a parent ends.
GRACE = 5.0


class Served(Protocol):
    """The services of this process."""

    @property
    def is_stopping(self) -> bool:
        """Whether they finish their calls."""
        ...

    def status(self) -> Report: ...


class Parent:
    """
    The process that supervises this one.

    Args:
        connection: a socket to the parent. The parent's death closes its other end.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        connection.set_inheritable(False)  # a process that the services start must not hold it
        self._unsent = b""
        self._asked: dict[str, Future[socket.socket]] = {}
        self._sending = threading.Lock()
        self._served: Served | None = None
        self._stops_within = 0.0

    def watch(self) -> None:
        """End this process when the parent dies, from now on."""
        threading.Thread(target=self._read, name="aiorpc: parent", daemon=True).start()

    # What this process tells

    @contextmanager
    def informed(
        self, served: Served, *, stops_within: float, beat: Callable[[], None]
    ) -> Iterator[None]:
        """
        Tell the parent inside the block how *served* is. After the parent's death, this process
        ends within *stops_within* and some seconds. *beat* is called each second, in a thread.
        """
        self._served, self._stops_within = served, stops_within
        over = threading.Event()
        # A thread, so that a method that blocks the loop does not hide itself.
        telling = threading.Thread(
            target=self._tell_all, args=(served, beat, over), name="aiorpc: beat", daemon=True
        )
        telling.start()
        try:
            yield
        finally:
            over.set()
            telling.join(HEARS_WITHIN)

    def _tell_all(self, served: Served, beat: Callable[[], None], over: threading.Event) -> None:
        told: Condition | None = None
        due = 0.0
        while True:
            try:
                now, report = time.monotonic(), served.status()
                condition = Condition(
                    report.alive, report.ready, report.reasons, self._stops_within
                )
                is_due = now >= due
                if self._unsent:  # the parent is slow: it gets the rest of an earlier one first
                    self._send(b"")
                elif condition != told or is_due:
                    self._send(encoded(condition))
                    told = condition
                if is_due:
                    due = now + BEAT
                    beat()
            except Exception:  # the next report may succeed
                log.exception("the parent process does not know how this worker process is")
            if over.wait(LOOK):  # no event tells of a change
                return

    def fail(self, failure: Failure) -> None:
        """Tell the parent why this process ends. Waits at most a second."""
        ends_at = time.monotonic() + HEARS_WITHIN
        self._send(encoded(failure))
        while self._unsent and (left := ends_at - time.monotonic()) > 0:
            select.select((), (self._socket,), (), left)
            self._send(b"")

    def _send(self, data: bytes) -> None:
        with self._sending:
            self._unsent += data
            try:
                # A parent that somebody has stopped must not stop this process too.
                sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:  # the parent died: the reading thread ends this process
                sent = len(self._unsent)
            self._unsent = self._unsent[sent:]

    async def listen(self, address: str, key: str) -> socket.socket:
        """
        Return the parent's socket that listens on *address*, the value of *key*.

        Raises:
            ConfigurationError: the address cannot be used.
            AioRpcError: the parent does not answer.
        """
        answer = self._asked[address] = Future()
        self._send(encoded(Listen(address, key)))
        try:
            async with asyncio.timeout(ANSWERS_WITHIN):
                return await asyncio.wrap_future(answer)
        except TimeoutError:
            raise AioRpcError(
                f"the parent process did not open {address} within {ANSWERS_WITHIN:g} s: look "
                "whether it is stopped"
            ) from None
        finally:
            del self._asked[address]

    # What the parent tells

    def _read(self) -> None:
        lines = Lines()
        with contextlib.suppress(OSError):
            while True:
                received, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 16, 16)
                if not received:
                    break
                given = [socket.socket(fileno=each) for each in descriptors]
                for each in given:
                    each.set_inheritable(False)
                for message in lines.feed(received):
                    if isinstance(message, Listening):
                        self._answer(message, given)
                for unused in given:
                    unused.close()
        self._end()

    def _answer(self, message: Listening, given: list[socket.socket]) -> None:
        bound = given.pop(0) if message.error is None and given else None
        try:
            answer = self._asked[message.address]
            if bound is None:
                answer.set_exception(ConfigurationError(message.error or _lost(message.address)))
            else:
                answer.set_result(bound)
        except (KeyError, InvalidStateError):  # nobody waits for it any more
            if bound is not None:
                bound.close()

    def _end(self) -> None:
        """Finish the calls as after SIGTERM. End the process if that takes too long."""
        last = threading.Timer(self._stops_within + GRACE, os._exit, (1,))
        last.daemon = True
        last.start()
        if self._served is None or not self._served.is_stopping:  # a second one would hurry
            os.kill(os.getpid(), signal.SIGTERM)
            log.warning("the parent process is gone: this worker process ends too")


def _lost(address: str) -> str:
    return (
        f"the parent process sent the socket of {address}, and it did not arrive: raise this "
        "process's limit of open files (ulimit -n)"
    )
