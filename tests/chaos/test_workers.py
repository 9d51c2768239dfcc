"""
Four worker processes of `aiorpc run --workers 4` under load on RabbitMQ: one is killed, all are
replaced, all end. A ledger tells which calls ran, and how often.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from aiorpc import ClusterRpcProxy
from aiorpc.config import resolve
from aiorpc.transports import open_transport
from tests.chaos.load import Load
from tests.chaos.processes import Server
from tests.support.http import read_response
from tests.support.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.rabbitmq, pytest.mark.timeout(180)]

WORKERS = 4
#: Calls a second of each kind.
RATE = 40.0
#: Seconds of load before and after each blow.
BETWEEN = 0.7
#: Seconds for processes to start on a busy machine.
PATIENCE = 120.0


class Command:
    """A running `aiorpc run --workers`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.lines: list[str] = []
        server.heard = self.lines.append

    @property
    def ready(self) -> list[int]:
        """The pids of the processes that were ready, in this order."""
        found = re.findall(r"worker \d+: pid (\d+) is ready", "\n".join(self.lines))
        return [int(pid) for pid in found]

    @property
    def port(self) -> int:
        """Where the workers answer HTTP."""
        return next(int(line.rpartition(":")[2]) for line in self.lines if "HTTP on " in line)

    async def counted(self) -> int:
        """Return how many calls and requests have run, by the metrics."""
        line = next(line for line in self.lines if "admin address: " in line)
        text = await HttpClient(int(line.split()[-4].rpartition(":")[2]), keeps=False).get(
            "/metrics"
        )
        names = "rpc_server_call|http_server_request"
        counts = rf"^(?:{names})_duration_seconds_count{{(.*)}} (\S+)$"
        found = re.findall(counts, text, re.MULTILINE)
        # A call that comes back in a roll, and may have run, is refused: it runs nowhere.
        return sum(
            int(float(count)) for labels, count in found if "DeliveryUncertain" not in labels
        )

    async def until(self, text: str, times: int = 1) -> None:
        try:
            await eventually(lambda: sum(text in line for line in self.lines) >= times, PATIENCE)
        except TimeoutError:
            raise AssertionError(f"no {text!r} in:\n" + "\n".join(self.lines)) from None


async def start(uri: str, service: str, ledger: Path) -> Command:
    server = await Server.start(
        {"WORKERS_SERVICE": service, "WORKERS_LEDGER": str(ledger)},
        [
            *(sys.executable, "-m", "aiorpc", "run", "tests.chaos.worker_service"),
            *("--workers", str(WORKERS), "--broker", uri),
            *("--define", "WEB_SERVER_ADDRESS=127.0.0.1:0", "--admin", "127.0.0.1:0"),
            *("--define", "MIDDLEWARE=[aiorpc.middleware.prometheus:metrics]"),
        ],
    )
    command = Command(server)
    await command.until("is ready", WORKERS)
    return command


class HttpClient:
    """Sends a request on an open connection that it *keeps*, or on a new one."""

    def __init__(self, port: int, *, keeps: bool) -> None:
        self._port = port
        self._keeps = keeps
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, path: str) -> str:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():  # the server has not closed it, as far as we know
                break
            writer.close()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
            head, body = await read_response(reader)
        except BaseException:
            writer.close()
            raise
        if self._keeps and "connection: close" not in head.lower():
            self._idle.append((reader, writer))
        else:
            writer.close()
        assert head.startswith("HTTP/1.1 200 "), head
        return body.decode()

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


@asynccontextmanager
async def loaded(*loads: Load) -> AsyncGenerator[None]:
    """Run *loads* inside the block, and for some time before and after what it does."""
    running = [asyncio.create_task(load.run()) for load in loads]
    try:
        await asyncio.sleep(BETWEEN)
        yield
        await asyncio.sleep(BETWEEN)
    finally:
        for load in loads:
            load.stop()
        await asyncio.gather(*running)


def outcomes(load: Load) -> Counter[str]:
    return Counter(outcome.kind for outcome in load.outcomes.values())


async def test_no_call_is_lost_and_none_of_at_most_once_runs_twice(
    rabbitmq_uri: str, tmp_path: Path
) -> None:
    service = f"workers_{secrets.token_hex(4)}"
    ledger = tmp_path / "ledger"

    def load(kind: str, name: str) -> Load:
        """Calls whose ids tell which blow they met."""
        return Load(callers[kind], 20.0, rate=RATE, prefix=f"{name}-{kind}-")

    async with AsyncExitStack() as stack:
        stack.push_async_callback(delete_queue, rabbitmq_uri, f"rpc-{service}")
        command = await start(rabbitmq_uri, service, ledger)
        stack.push_async_callback(command.server.kill)
        cluster = await stack.enter_async_context(ClusterRpcProxy(rabbitmq_uri, timeout=20))
        opening, keeping = (HttpClient(command.port, keeps=each) for each in (False, True))
        stack.callback(keeping.close)

        callers = {
            "calls": lambda call_id, timeout: cluster[service].work(call_id),
            "once": lambda call_id, timeout: cluster[service].work_once(call_id),
            "opening": lambda call_id, timeout: opening.get(f"/calls/{call_id}"),
            "keeping": lambda call_id, timeout: keeping.get(f"/calls/{call_id}"),
        }
        loads = {
            (name, kind): load(kind, name)
            for name, kinds in {
                "kill": ("calls", "once"),
                "roll": tuple(callers),
                "end": ("calls", "once"),
            }.items()
            for kind in kinds
        }

        async with loaded(loads["kill", "calls"], loads["kill", "once"]):
            os.kill(command.ready[1], signal.SIGKILL)
            await command.until("is ready", WORKERS + 1)
        counted, begun = await command.counted(), len(rows_of(ledger))
        async with loaded(*(loads["roll", kind] for kind in callers)):
            os.kill(command.server.pid, signal.SIGHUP)
            await command.until("all workers are replaced")
        assert await command.counted() - counted == len(rows_of(ledger)) - begun
        other = await start(rabbitmq_uri, service, ledger)
        stack.push_async_callback(other.server.kill)
        async with loaded(loads["end", "calls"], loads["end", "once"]):
            command.server.terminate()
            assert await command.server.ended() == 0

    runs = Counter(rows_of(ledger))
    rows = []
    for (name, kind), done in loads.items():
        kinds = outcomes(done)
        twice = sum(runs[call_id] > 1 for call_id in done.outcomes)
        lost = sum(
            not runs[call_id] for call_id, each in done.outcomes.items() if each.kind == "right"
        )
        rows.append((name, kind, kinds, lost, twice))
        print(f"{name:5} {kind:8} {dict(kinds)} lost {lost} twice {twice}")
    for name, kind, kinds, lost, twice in rows:
        # A request that was received and not begun comes back as one that may have run.
        uncertain = {"DeliveryUncertain"} if kind == "once" else set()
        assert set(kinds) <= {"right"} | uncertain, (name, kind)
        assert kinds["right"] > RATE * BETWEEN, (name, kind)
        assert lost == 0, (name, kind)
        assert twice == 0 or (name, kind) == ("kill", "calls")


def rows_of(ledger: Path) -> list[str]:
    """The ids of the calls that began to run."""
    return ledger.read_text(encoding="utf-8").split()


async def delete_queue(uri: str, queue: str) -> None:
    async with open_transport(resolve(uri), name="tests") as transport:
        await transport.delete(queue)
