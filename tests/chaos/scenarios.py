"""
The scenarios: the fault, the load, what callers may see, and how many calls must succeed.
`docs/guarantees.md` says the same in prose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from aiorpc import ClusterRpcProxy
from tests.chaos.load import Caller, Load
from tests.chaos.report import Report
from tests.chaos.stage import Stage, set_stage
from tests.servers import Cluster, Rabbit
from tests.support.waiting import eventually

#: Breaks something, and returns when it works again. The second argument: seconds to stay broken.
Fault = Callable[[Stage, float], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """
    Attributes:
        broken: seconds that the fault lasts, if that can be chosen.
        rate: calls a second; or *callers* that call one after the other.
        before: seconds of load before the fault.
        after: seconds of load after the first answer that follows it.
        timeout: seconds for each call.
        hold: seconds that the method takes.
        outlasts: whether every call has more time than the fault takes.
        floor: the part of the calls that must succeed, from 0 to 1.
        errors: names of the errors that callers may see.
        twice: how many calls may run twice; ``None`` for any number.
        servers_at: in a cluster, the node that the servers connect to; 0 is the node that breaks.
        client_at: the node that the client connects to.
        quorum: whether the service's queue is a quorum queue.
    """

    name: str
    fault: Fault
    broken: float = 1.0
    rate: float = 60.0
    callers: int = 0
    before: float = 0.7
    after: float = 1.0
    timeout: float = 30.0
    hold: float = 0.02
    method: str = "work"
    servers: int = 2
    ways: int = 1
    query: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    outlasts: bool = True
    floor: float = 1.0
    errors: frozenset[str] = frozenset()
    twice: int | None = None
    servers_at: int = 0
    client_at: int = 0
    quorum: bool = False
    #: Whether it is part of `make test`.
    short: bool = True

    def failures(self, report: Report) -> list[str]:
        """Return the promises that *report* shows as broken."""
        return report.failures(floor=self.floor, allowed=self.errors, twice=self.twice)

    def longer(self) -> Scenario:
        """Return this scenario for `make chaos`: more load, for a longer time."""
        return replace(
            self,
            broken=self.broken * 5,
            rate=self.rate * 2.5,
            before=3.0,
            after=5.0,
        )


async def play(scenario: Scenario, broker: Rabbit | Cluster, ledger_url: str) -> Report:
    """Play *scenario* on *broker*, and report the outcome of every call."""
    async with (
        set_stage(
            broker,
            ledger_url,
            servers=scenario.servers,
            ways=scenario.ways,
            query=scenario.query,
            settings=dict(scenario.settings),
            servers_at=scenario.servers_at,
            quorum=scenario.quorum,
        ) as stage,
        AsyncExitStack() as stack,
    ):
        stage.client = ClusterRpcProxy(stage.config, timeout=scenario.timeout)
        with stage.connecting_to(scenario.client_at):
            cluster = await stack.enter_async_context(stage.client)
        load = Load(
            caller(cluster, stage.service, scenario),
            scenario.timeout,
            rate=0.0 if scenario.callers else scenario.rate,
            callers=scenario.callers,
        )
        calling = asyncio.create_task(load.run())
        try:
            await asyncio.sleep(scenario.before)
            await scenario.fault(stage, scenario.broken)
            lifted_at = asyncio.get_running_loop().time()
            await load.answered_since(lifted_at)
            await asyncio.sleep(scenario.after)
        finally:
            load.stop()
            await calling
        return load.report(
            scenario.name,
            await stage.ledger.runs(),
            lifted_at=lifted_at,
            outlasts=scenario.outlasts,
        )


def caller(cluster: Any, service: str, scenario: Scenario) -> Caller:
    method = cluster[service][scenario.method]

    async def call(call_id: str, timeout: float) -> object:
        answer: object = await method(call_id, scenario.hold)
        return answer

    return call


# The faults


async def broker_restarts(stage: Stage, broken: float) -> None:
    """Restart the broker. Meanwhile another server starts and has to wait for the broker."""
    await stage.stop_broker()
    late = await stage.start_server(ready=False)
    await asyncio.sleep(broken)
    await stage.start_broker()
    await late.ready()


async def broker_is_killed(stage: Stage, broken: float) -> None:
    await stage.kill_broker()
    await asyncio.sleep(broken)
    await stage.start_broker()


async def broker_closes_connections(stage: Stage, broken: float) -> None:
    await stage.ctl("close_all_connections", "the chaos suite")


async def connections_are_reset(stage: Stage, broken: float) -> None:
    """Break connections by RST, then by FIN, then refuse new ones for a while."""
    (network,) = stage.network
    network.cut_with_rst()
    await asyncio.sleep(broken / 2)
    network.cut_with_fin()
    await asyncio.sleep(broken / 2)
    network.refusing = True
    network.cut_with_rst()
    await asyncio.sleep(broken)
    network.refusing = False


async def network_goes_dark(stage: Stage, broken: float) -> None:
    """Both sides keep a dead connection, without a FIN. It is over when all have a new one."""
    (network,) = stage.network
    before = network.opened
    network.go_dark()
    await eventually(lambda: network.opened > before + len(stage.alive), 60)


async def network_is_slow(stage: Stage, broken: float) -> None:
    (network,) = stage.network
    network.delay = 0.15
    await asyncio.sleep(broken)
    network.delay = 0.0


async def first_node_fails(stage: Stage, broken: float) -> None:
    """One of two URLs stops working for good, so the other one has to do."""
    first = stage.network[0]
    first.refusing = True
    first.cut_with_rst()
    await asyncio.sleep(broken)


async def server_is_killed(stage: Stage, broken: float) -> None:
    """Kill a server with SIGKILL, and start another one."""
    await stage.alive[0].kill()
    await stage.start_server()


async def servers_are_replaced(stage: Stage, broken: float) -> None:
    """A rolling restart: start a successor for each server, then stop it with SIGTERM."""
    for old in stage.alive:
        await stage.start_server()
        old.terminate()
        status = await old.ended()
        assert status == 0, f"a server ended with {status}:\n" + "\n".join(old.log)


async def broker_blocks(stage: Stage, broken: float) -> None:
    """A memory alarm. A server that gets SIGTERM meanwhile has to end all the same."""
    await stage.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        await asyncio.sleep(broken)
        stage.alive[0].terminate()
        async with asyncio.timeout(10):
            await stage.servers[0].ended()
    finally:
        await stage.ctl("set_vm_memory_high_watermark", "0.9")


async def queue_is_deleted(stage: Stage, broken: float) -> None:
    """Delete the queue with the requests that wait in it. The broker cancels the consumers."""
    async with stage.channel() as channel:
        await channel.queue_delete(f"rpc-{stage.service}")


async def exchange_is_deleted(stage: Stage, broken: float) -> None:
    """Delete the exchange and its bindings. The broker closes publishing channels with 404."""
    async with stage.channel() as channel:
        await channel.exchange_delete("nameko-rpc")


async def reply_queue_is_deleted(stage: Stage, broken: float) -> None:
    async with stage.channel() as channel:
        await channel.queue_delete(stage.reply_queue)


BROKER_RESTART = Scenario(name="broker restarted", fault=broker_restarts)

SCENARIOS = [
    BROKER_RESTART,
    Scenario(name="connections closed by broker", fault=broker_closes_connections, short=False),
    Scenario(name="connections reset, refused", fault=connections_are_reset),
    Scenario(name="network cut without FIN", fault=network_goes_dark, query="heartbeat=1"),
    Scenario(name="network slow (0.15 s)", fault=network_is_slow, short=False),
    Scenario(name="one URL of two gone", fault=first_node_fails, ways=2),
    Scenario(name="server killed (-9)", fault=server_is_killed, short=False),
    Scenario(
        name="server killed, at most once",
        fault=server_is_killed,
        method="work_once",
        floor=0.9,
        errors=frozenset({"DeliveryUncertain"}),
        twice=0,
    ),
    Scenario(name="rolling restart", fault=servers_are_replaced, twice=0),
    Scenario(name="memory alarm", fault=broker_blocks),
    Scenario(
        name="request queue deleted",
        fault=queue_is_deleted,
        timeout=3.0,
        outlasts=False,
        floor=0.3,
        errors=frozenset({"UnknownService", "RpcTimeout"}),
    ),
    Scenario(
        name="exchange deleted (404)",
        fault=exchange_is_deleted,
        timeout=3.0,
        outlasts=False,
        floor=0.05,
        errors=frozenset({"UnknownService", "RpcTimeout", "ConnectionLost"}),
        short=False,
    ),
    Scenario(
        name="reply queue deleted",
        fault=reply_queue_is_deleted,
        floor=0.3,
        errors=frozenset({"ConnectionLost"}),
    ),
    Scenario(
        name="broker killed (-9)",
        fault=broker_is_killed,
        timeout=20.0,
        floor=0.9,
        outlasts=False,
        errors=frozenset({"RpcTimeout"}),
        short=False,
    ),
    Scenario(
        name="broker killed (-9), confirmed replies",
        fault=broker_is_killed,
        settings={"CONFIRM_REPLIES": True},
        short=False,
    ),
    # A broker takes about 8 s to stop and start.
    Scenario(
        name="broker restarted, 200 callers",
        fault=broker_restarts,
        broken=0.4,
        callers=200,
        short=False,
    ),
]
