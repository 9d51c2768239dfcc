"""A peer's processes: servers with a ledger, and a client."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from tests.chaos.load import Caller
from tests.chaos.processes import Server
from tests.chaos.refusal_stage import RefusalStage
from tests.chaos.stage import Stage

__all__ = ["FileLedger", "PeerClient", "PeerRefusalStage", "PeerStage"]

#: Seconds that the dispatch of an event may take.
DISPATCHES = 10.0


class FileLedger:
    """A ledger in a file, one line for each run, so that the peers need no database driver."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()

    async def runs(self) -> Counter[str]:
        return Counter(line.split()[0] for line in self.path.read_text().splitlines())

    async def runs_by_process(self) -> Counter[tuple[str, str]]:
        pairs = (line.split() for line in self.path.read_text().splitlines())
        return Counter((call_id, process) for call_id, process in pairs)


@dataclass
class PeerStage(Stage):
    """
    A stage with the processes of a peer.

    Attributes:
        servers_at: the number of the node whose URL the servers have.
    """

    command: Sequence[str] = ()
    servers_at: int = 0

    @property
    def servers_url(self) -> str:
        return self.network[self.servers_at].url

    async def start_server(self, *, ready: bool = True) -> Server:
        path = str(self.ledger.path)
        command = [*self.command, "serve", self.servers_url, self.service, path]
        server = await Server.start(self.environment, command, ready="peer ready")
        self.servers.append(server)
        if ready:
            await server.ready()
        return server


@dataclass(kw_only=True)
class PeerRefusalStage(PeerStage, RefusalStage):
    """The stage of a refusal with the processes of a peer."""

    @property
    def servers_url(self) -> str:
        return self.url("server")


@dataclass
class PeerClient:
    """A process that calls, and the futures of its calls."""

    #: The peers have no at-most-once methods.
    has_once: ClassVar[bool] = False
    server: Server
    calls: dict[str, asyncio.Future[str]] = field(default_factory=dict)

    def read(self, line: str) -> None:
        call_id, _, kind = line.partition(" ")
        if (call := self.calls.pop(call_id, None)) is not None and not call.done():
            call.set_result(kind)

    async def call(self, call_id: str, timeout: float, hold: float, method: str = "work") -> object:
        answered = self.calls[call_id] = asyncio.get_running_loop().create_future()
        self.server.tell(f"{call_id} {timeout} {hold} {method}")
        kind = await answered
        if kind == "right":
            return f"done {call_id}"
        if kind == "wrong":
            return kind
        raise type(kind, (Exception,), {})

    def caller(self, method: str, hold: float) -> Caller:
        return lambda call_id, timeout: self.call(call_id, timeout, hold, method)

    async def dispatch(self, call_id: str, hold: float) -> None:
        await self.call(call_id, DISPATCHES, hold, "event")

    @classmethod
    @asynccontextmanager
    async def started(cls, command: Sequence[str], uri: str, service: str) -> AsyncIterator[Self]:
        """Start the process; kill it at the end."""
        process = await Server.start({}, [*command, "call", uri, service], "peer ready")
        client = cls(process)
        process.heard = client.read
        try:
            await process.ready()
            yield client
        finally:
            await process.kill()
