"""The threads of sync methods, and how a program with ``serve`` ends without one that is stuck."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from aiorpc import ClusterRpcProxy, RemoteError, ServiceContainer, rpc
from aiorpc.hosting.threads import MethodThread
from tests.support.command_line import Project, Started

PROGRAM = """
import asyncio, logging, sys, time
from aiorpc import once, serve

logging.basicConfig(level=logging.INFO, stream=sys.stdout)

class Stuck:
    name = "stuck"

    @once
    def sleep(self):
        print("began", flush=True)
        time.sleep(600)

    @once
    async def resist(self):
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass

limits = {"SHUTDOWN_TIMEOUT": 0.2, "CLEANUP_TIMEOUT": 0.2}
status = asyncio.run(serve(Stuck, config={"AMQP_URI": "memory://", **limits}))
print("the program goes on", flush=True)
sys.exit(status)
"""


@pytest.mark.slow
def test_a_program_with_serve_ends_without_methods_that_do_not_return(tmp_path: Path) -> None:
    project = Project(tmp_path)
    program = project.write("program.py", PROGRAM)
    command = [sys.executable, str(program)]
    with Started(cwd=project.directory, command=command) as process:
        process.waits_for("began")
        process.waits_for("ready")
        process.signal(signal.SIGTERM)
        assert process.ends() == 1
    assert "the program goes on" in process.output
    assert "stops without its sync method(s) that did not return: stuck.sleep" in process.output
    assert "1 call(s) ignored cancellation and are left: stuck.resist" in process.output


def threads_of(service: str) -> list[MethodThread]:
    prefix = f"aiorpc-{service}_"
    found = [each for each in threading.enumerate() if each.name.startswith(prefix)]
    return [each for each in found if isinstance(each, MethodThread)]


async def test_a_service_has_no_more_threads_than_it_needs_and_ends_them() -> None:
    config: dict[str, Any] = {"AMQP_URI": f"memory://{uuid.uuid4().hex}"}
    together = threading.Barrier(2)

    class Threaded:
        name = "threaded"

        @rpc
        def alone(self) -> None: ...

        @rpc
        def meet(self) -> None:
            together.wait(10)

        @rpc
        def exits(self) -> None:
            sys.exit("no")

    async with (
        ServiceContainer(Threaded, {**config, "SYNC_WORKERS": 2}),
        ClusterRpcProxy(config, timeout=10) as cluster,
    ):
        for _ in range(3):
            await cluster.threaded.alone()
        with pytest.raises(RemoteError, match="SystemExit"):
            await cluster.threaded.exits()
        assert len(threads_of("threaded")) == 1
        await asyncio.gather(*(cluster.threaded.meet() for _ in range(6)))
        threads = threads_of("threaded")
        assert len(threads) == 2
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()
