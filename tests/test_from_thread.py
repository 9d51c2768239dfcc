"""The bridge from threads to an event loop; its public side is tested with workers and sync."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest

from aiorpc.from_thread import Bridge
from tests.support.waiting import eventually_blocking


class TimeLimit(Exception):
    """What a signal handler raises, as Celery's does."""


@pytest.fixture
def loop() -> Generator[asyncio.AbstractEventLoop]:
    """An event loop that runs in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class Endless:
    """A coroutine function that never returns, and the events of one call of it."""

    def __init__(self, on_begin: Callable[[], object] = lambda: None) -> None:
        self._on_begin = on_begin
        self.begun, self.cancelled = threading.Event(), threading.Event()

    async def __call__(self) -> None:
        self.begun.set()
        self._on_begin()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


def test_an_exception_of_a_signal_handler_cancels_the_coroutine(
    loop: asyncio.AbstractEventLoop,
) -> None:
    def interrupt(signum: int, frame: object) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGUSR1, interrupt)
    endless = Endless(on_begin=lambda: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        with pytest.raises(TimeLimit):
            Bridge(loop).run(endless)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert endless.cancelled.wait(10)


class Interrupted:
    """Stands in for *loop* in a thread that a signal interrupts when it has passed work to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._interrupts = iter([TimeLimit()])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(callback)
        if error := next(self._interrupts, None):
            raise error


def test_an_exception_before_the_wait_begins_cancels_the_coroutine_too(
    loop: asyncio.AbstractEventLoop,
) -> None:
    interrupted: Any = Interrupted(loop)
    bridge = Bridge(interrupted)
    with pytest.raises(TimeLimit):
        bridge.run(Endless())

    async def others() -> int:
        return len(asyncio.all_tasks()) - 1

    assert eventually_blocking(lambda: bridge.run(others) == 0)


def test_ending_a_bridge_cancels_what_runs_and_refuses_what_comes(
    loop: asyncio.AbstractEventLoop,
) -> None:
    bridge, endless = Bridge(loop), Endless()
    results: list[BaseException] = []

    def wait() -> None:
        try:
            bridge.run(endless)
        except BaseException as error:
            results.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert endless.begun.wait(10)
    loop.call_soon_threadsafe(bridge.end)
    waiting.join(10)
    assert [type(error) for error in results] == [asyncio.CancelledError]
    with pytest.raises(asyncio.CancelledError):
        bridge.run(endless)


def test_a_closed_loop_cancels_the_call(loop: asyncio.AbstractEventLoop) -> None:
    bridge = Bridge(loop)
    loop.call_soon_threadsafe(loop.stop)
    assert eventually_blocking(lambda: not loop.is_running())
    loop.close()
    with pytest.raises(asyncio.CancelledError):
        bridge.run(Endless())


async def test_the_thread_of_the_loop_does_not_wait_for_itself() -> None:
    bridge = Bridge(asyncio.get_running_loop())
    with pytest.raises(RuntimeError, match="would wait for itself"):
        bridge.run(Endless())
