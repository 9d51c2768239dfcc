"""
Prints the table of the peers. `python -m tests.chaos.peers [WORD ...]` chooses scenarios. Each peer
is started and called as its documentation says, with the same faults and loads.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.chaos.load import Load
from tests.chaos.processes import Server
from tests.chaos.proxy import cutting_proxy
from tests.chaos.report import Report, table
from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.chaos.stage import Stage
from tests.nameko import virtualenvs
from tests.servers import Rabbit

HERE = Path(__file__).parent
CHOSEN = (
    "connections reset, refused",
    "network cut without FIN",
    "server killed (-9)",
    "rolling restart",
    "broker restarted, 200 callers",
)


class FileLedger:
    """A ledger in a file, one line for each run, so that the peers need no database driver."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()

    async def runs(self) -> Counter[str]:
        return Counter(self.path.read_text().split())


@dataclass
class PeerStage(Stage):
    """A stage with the processes of a peer."""

    command: Sequence[str] = ()

    async def start_server(self, *, ready: bool = True) -> Server:
        uri, path = self.network[0].url, str(self.ledger.path)
        command = [*self.command, "serve", uri, self.service, path]
        server = await Server.start({}, command, ready="peer ready")
        self.servers.append(server)
        if ready:
            await server.ready()
        return server


@dataclass
class PeerClient:
    """A process that calls, and the futures of its calls."""

    server: Server
    calls: dict[str, asyncio.Future[str]] = field(default_factory=dict)

    def read(self, line: str) -> None:
        call_id, _, kind = line.partition(" ")
        if (call := self.calls.pop(call_id, None)) is not None and not call.done():
            call.set_result(kind)

    async def call(self, call_id: str, timeout: float, hold: float) -> object:
        answered = self.calls[call_id] = asyncio.get_running_loop().create_future()
        self.server.tell(f"{call_id} {timeout} {hold}")
        kind = await answered
        if kind == "right":
            return f"done {call_id}"
        if kind == "wrong":
            return kind
        raise type(kind, (Exception,), {})


async def play(scenario: Scenario, node: Rabbit, command: Sequence[str], name: str) -> Report:
    with tempfile.TemporaryDirectory() as directory:
        ledger = FileLedger(Path(directory) / "ledger")
        service = f"peer_{id(ledger):x}"
        async with cutting_proxy(node.url) as network:
            stage = PeerStage(node, ledger, service, [network], command=command)
            try:
                return await _play(scenario, stage, name)
            finally:
                await asyncio.gather(*(server.kill() for server in stage.servers))


async def _play(scenario: Scenario, stage: PeerStage, name: str) -> Report:
    await asyncio.gather(*(stage.start_server() for _ in range(scenario.servers)))
    uri = stage.network[0].url
    process = await Server.start({}, [*stage.command, "call", uri, stage.service], "peer ready")
    client = PeerClient(process)
    process.heard = client.read
    try:
        await process.ready()
        load = Load(
            lambda call_id, timeout: client.call(call_id, timeout, scenario.hold),
            scenario.timeout,
            rate=0.0 if scenario.callers else scenario.rate,
            callers=scenario.callers,
        )
        calling = asyncio.create_task(load.run())
        await asyncio.sleep(scenario.before)
        failed = ""
        try:
            await scenario.fault(stage, scenario.broken)
        except (AssertionError, TimeoutError) as error:
            failed = str(error).partition("\n")[0] or "it never answered again"
        lifted_at = asyncio.get_running_loop().time()
        await load.answered_since(lifted_at)
        await asyncio.sleep(scenario.after)
        load.stop()
        await calling
    finally:
        await process.kill()
    report = load.report(
        f"{name}: {scenario.name}",
        await stage.ledger.runs(),
        lifted_at=lifted_at,
        outlasts=scenario.outlasts,
    )
    if failed:
        report.complaints.append(failed)
    return report


def main(words: list[str]) -> None:
    peers = {
        "Nameko 2.14.1": [str(virtualenvs.python_of("2.14.1")), str(HERE / "nameko_peer.py")],
        "patterns.RPC": [sys.executable, str(HERE / "patterns_peer.py")],
    }
    chosen = [
        replace(each, rate=20.0, before=2.0, after=3.0)
        for each in SCENARIOS
        if each.name in CHOSEN and (not words or any(word in each.name for word in words))
    ]
    reports = []
    with Rabbit.fresh() as node:
        for name, command in peers.items():
            for scenario in chosen:
                reports.append(asyncio.run(play(scenario, node, command, name)))
                print(table(reports[-1:]).splitlines()[-1], *reports[-1].complaints, flush=True)
    print("\n" + table(reports))


if __name__ == "__main__":
    main(sys.argv[1:])
