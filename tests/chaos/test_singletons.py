"""
A cron that one process of three fires. The firing process is killed with SIGKILL, then another one
is paused and resumed. CHAOS_KILLS is the number of kills. The test prints the seconds until another
process fires.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import uuid
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from aiorpc.config import resolve
from aiorpc.transports import open_transport
from aiorpc.wire.names import singleton_ticks
from tests.chaos.processes import Server
from tests.support.waiting import eventually

KILLS = int(os.environ.get("CHAOS_KILLS", "1"))
#: Seconds, and the time in which another process must hold the right.
HEARTBEAT = int(os.environ.get("CHAOS_HEARTBEAT", "1"))


class Ledger:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def lines(self) -> list[tuple[int, int, float]]:
        """Return tick, process and time of each run."""
        if not self.path.exists():
            return []
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return [(int(tick), int(pid), float(at)) for tick, pid, at in lines]

    async def next_of(self, *, no: int = 0) -> tuple[int, float]:
        """Wait for the next run in another process than *no*; return its process and time."""
        begin = len(self.lines)
        found: list[tuple[int, int, float]] = []

        def check() -> bool:
            found[:] = [line for line in self.lines[begin:] if line[1] != no]
            return bool(found)

        await eventually(check, 40)
        return found[0][1], found[0][2]


@pytest.mark.long
async def test_each_tick_fires_at_most_once_whatever_happens_to_the_firing_process(
    rabbitmq_uri: str, tmp_path: Path
) -> None:
    name = f"chaos_cron_{uuid.uuid4().hex[:8]}"
    config = {"AMQP_URI": rabbitmq_uri, "HEARTBEAT": HEARTBEAT}
    ledger = Ledger(tmp_path / "ticks")
    environment = {
        "CHAOS_TICKS": str(ledger.path),
        "CHAOS_SERVICE": name,
        "CHAOS_CONFIG": json.dumps(config),
    }
    servers: dict[int, Server] = {}
    until_next: list[float] = []

    async with AsyncExitStack() as stack:

        async def start() -> None:
            server = await Server.start(
                environment, (sys.executable, "-m", "tests.chaos.singletons")
            )
            stack.push_async_callback(server.kill)
            await server.ready()
            servers[server.pid] = server

        await asyncio.gather(start(), start(), start())
        for _ in range(KILLS):
            firing, _ = await ledger.next_of()
            killed = time.time()
            await servers.pop(firing).kill()
            heir, at = await ledger.next_of(no=firing)
            assert heir in servers
            until_next.append(at - killed)
            await start()
        firing, _ = await ledger.next_of()
        os.kill(firing, signal.SIGSTOP)
        paused = time.time()
        _, at = await ledger.next_of(no=firing)
        os.kill(firing, signal.SIGCONT)
        for _ in range(3):
            await ledger.next_of()
        transport = await stack.enter_async_context(open_transport(resolve(config)))
        await transport.delete(singleton_ticks(f"cron-{name}.tick").name)
    fired = Counter(tick for tick, _, _ in ledger.lines)
    print(
        f"{len(fired)} ticks, {KILLS} kills; seconds until another process fired: "
        f"{', '.join(f'{seconds:.1f}' for seconds in until_next)}; after a pause {at - paused:.1f}"
    )
    assert set(fired.values()) == {1}
    assert max(until_next) < 2 * HEARTBEAT + 1  # the next tick comes within a second
