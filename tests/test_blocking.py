"""Blocking functions in threads that delay nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from aiorpc.blocking import in_thread
from tests.support.waiting import PATIENCE


async def test_the_result_and_the_error_come_back() -> None:
    assert await in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)


async def test_a_function_that_ends_its_thread_ends_the_wait_too() -> None:
    with pytest.raises(SystemExit):
        async with asyncio.timeout(PATIENCE):
            await in_thread(sys.exit, 3)


async def test_a_cancelled_wait_drops_the_result() -> None:
    go, ended = threading.Event(), threading.Event()

    def work() -> None:
        go.wait()
        ended.set()

    waiting = asyncio.create_task(in_thread(work))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    await asyncio.get_running_loop().run_in_executor(None, ended.wait)


def test_a_thread_that_never_ends_does_not_delay_the_end_of_the_process() -> None:
    code = (
        "import asyncio, threading\n"
        "from aiorpc.blocking import in_thread\n"
        "async def main():\n"
        "    try:\n"
        "        async with asyncio.timeout(0.01): await in_thread(threading.Event().wait)\n"
        "    except TimeoutError: print('given up')\n"
        "asyncio.run(main())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "given up\n"
