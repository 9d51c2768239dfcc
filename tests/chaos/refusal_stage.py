"""
The stage of a refusal: a vhost of its own on a private broker, a user for the servers, another user
for the callers, server processes, and what calls them.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import aio_pika

from aiorpc import ClusterRpcProxy, event_dispatcher
from tests.chaos.ledger import Ledger
from tests.chaos.load import Caller
from tests.chaos.node_shell import NodeShell, binary
from tests.chaos.refused_service import LARGE
from tests.chaos.stage import Stage
from tests.servers import Rabbit

__all__ = ["Cast", "RefusalStage", "aiorpc_cast", "set_refusal_stage"]

#: The module of users and permissions, and the name under which the suite acts.
AUTHORITY, ACTOR = "rabbit_auth_backend_internal", binary("chaos")
#: The shells of nodes, by URL.
SHELLS: dict[str, NodeShell] = {}


@dataclass(kw_only=True)
class RefusalStage(Stage):
    """
    Attributes:
        vhost: its name, and the name of the users; empty for the default vhost and its user.
        cast: what calls the servers.
        notes: what a fault has to say, for the table.
        complaints: what a fault found to be wrong.
        lost: events that the broker confirmed, and that no handler handled.
    """

    shell: NodeShell
    vhost: str = ""
    cast: Cast | None = None
    notes: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    lost: int = 0

    def url(self, user: str) -> str:
        """The URL of the vhost for ``guest``, ``server`` or ``caller``."""
        if not self.vhost:
            return self.node.url
        name = "guest" if user == "guest" else f"{self.vhost}-{user}"
        return self.node.url.replace("guest:guest", f"{name}:guest") + self.vhost

    @property
    def config(self) -> dict[str, Any]:
        return {"AMQP_URI": self.url("server"), **self.settings}

    @property
    def requests(self) -> str:
        """A pattern for the queues of requests, of aiorpc, Nameko and ``patterns.RPC``."""
        return rf"^(rpc-)?{self.service}(\.|$)"

    @property
    def event_queue(self) -> str:
        return f"evt-{self.service}_source-happened--{self.service}.handle"

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
        async with await aio_pika.connect(self.url("guest")) as connection:
            yield await connection.channel()

    async def waiting(self, queue: str) -> int:
        """The messages that wait in the classic *queue*; 0 if it does not exist."""
        async with self.channel() as channel:
            try:
                found = await channel.declare_queue(queue, passive=True)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return 0
            return found.declaration_result.message_count or 0

    async def permit(self, user: str, write: str) -> None:
        """Let *user* write to what matches *write*; connections that are open do not notice."""
        await self.shell.evaluate(_permission(f"{self.vhost}-{user}", self.vhost, write))

    async def close_connections(self) -> None:
        """Close all connections of servers and callers, as an operator does."""
        for user in ("server", "caller"):
            name = binary(f"{self.vhost}-{user}")
            await self.shell.evaluate(
                f'rabbit_networking:close_all_user_connections({name}, "the chaos suite")'
            )

    async def set_policy(self, pattern: str, definition: object) -> None:
        values = [self.vhost, "chaos", pattern, json.dumps(definition)]
        arguments = ", ".join([*map(binary, values), "0", binary("queues"), ACTOR])
        await self.shell.evaluate(f"ok = rabbit_policy:parse_set({arguments})")

    async def clear_policy(self) -> None:
        await self.shell.evaluate(
            f"rabbit_policy:delete({binary(self.vhost)}, {binary('chaos')}, {ACTOR})"
        )


class Cast(Protocol):
    """The callers of a stage: aiorpc's, or another library's."""

    #: Whether the library has at-most-once methods.
    has_once: bool

    def caller(self, method: str, hold: float) -> Caller:
        """Return what calls *method*, which takes *hold* seconds."""
        ...

    async def dispatch(self, call_id: str, hold: float) -> None:
        """Dispatch an event whose handler takes *hold* seconds."""
        ...


class AiorpcCast:
    has_once = True

    def __init__(self, stage: RefusalStage, cluster: Any, dispatch: Any) -> None:
        self._service = cluster[stage.service]
        self._source = f"{stage.service}_source"
        self._dispatch = dispatch

    def caller(self, method: str, hold: float) -> Caller:
        name, more = method, ()
        if method == "take":
            more = ("x" * LARGE,)
        elif method == "nan":
            name = "work"
        call: Any = getattr(self._service, name)
        if method == "nan":
            call = call.with_options(context_data={"ratio": float("nan")})

        async def answer(call_id: str, timeout: float) -> object:
            result: object = await call(call_id, hold, *more)
            return result.rstrip() if isinstance(result, str) else result

        return answer

    async def dispatch(self, call_id: str, hold: float) -> None:
        await self._dispatch(self._source, "happened", {"call_id": call_id, "hold": hold})


@asynccontextmanager
async def aiorpc_cast(stage: RefusalStage, servers: int, timeout: float) -> AsyncIterator[Cast]:
    """Start *servers* processes and a client, with *timeout* seconds for each call."""
    stage.command = (sys.executable, "-m", "tests.chaos.refused_service")
    await asyncio.gather(*(stage.start_server() for _ in range(servers)))
    config = {**stage.config, "AMQP_URI": stage.url("caller")}
    async with (
        ClusterRpcProxy(config, timeout=timeout) as cluster,
        event_dispatcher(config) as dispatch,
    ):
        yield AiorpcCast(stage, cluster, dispatch)


def _permission(user: str, vhost: str, write: str) -> str:
    every = binary(".*")
    return (
        f"{AUTHORITY}:set_permissions({binary(user)}, {binary(vhost)}, {every}, {binary(write)}, "
        f"{every}, {ACTOR})"
    )


@asynccontextmanager
async def _vhost(shell: NodeShell) -> AsyncIterator[str]:
    """Make a vhost, and a user for servers and one for callers; delete them at the end."""
    name = f"refusal{secrets.token_hex(4)}"
    users = [f"{name}-server", f"{name}-caller"]
    made = [f"rabbit_vhost:add({binary(name)}, {ACTOR})"]
    made += [f"{AUTHORITY}:add_user({binary(user)}, {binary('guest')}, {ACTOR})" for user in users]
    made += [_permission(user, name, ".*") for user in [*users, "guest"]]
    await shell.evaluate(", ".join(made))
    try:
        yield name
    finally:
        gone = [f"{AUTHORITY}:delete_user({binary(user)}, {ACTOR})" for user in users]
        gone.append(f"rabbit_vhost:delete({binary(name)}, {ACTOR})")
        await shell.evaluate(", ".join(gone))


@asynccontextmanager
async def set_refusal_stage(
    node: Rabbit,
    ledger: Ledger,
    settings: Mapping[str, Any],
    kind: type[RefusalStage] = RefusalStage,
    *,
    own_vhost: bool,
) -> AsyncIterator[RefusalStage]:
    """A stage without servers."""
    shell = SHELLS.setdefault(node.url, NodeShell(node))
    async with _vhost(shell) if own_vhost else nullcontext("") as name:
        service = f"chaos_{secrets.token_hex(3)}"
        stage = kind(node, ledger, service, [], settings=dict(settings), vhost=name, shell=shell)
        try:
            yield stage
        finally:
            await asyncio.gather(*(server.kill() for server in stage.servers))
