"""
One run: a broker, services and clients in simulated processes, the faults that strike them, and the
checks at the end. ``simulate`` plays a seed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import random
import sys
import warnings
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiorpc import ClusterRpcProxy, ServiceContainer
from aiorpc.hosting import unawaited
from aiorpc.transports.memory.broker import MemoryBroker
from aiorpc.transports.memory.message import carried
from aiorpc.transports.memory.queue import Entry, MemoryQueue

from . import bank
from .at_rest import client_left, container_left, process_left
from .channels import Peer
from .databases import Databases, faults_of_databases, has_databases
from .determinism import Ids, simulated_modules
from .faults import Fault, Faults, faults_of_streams, plan
from .ledger import Call, Ledger
from .log_lines import LogLines
from .loop import BEGIN, Livelock, Process, SimulationLoop, Stuck
from .network import Link, Network
from .services import HANDLERS, SERVICES, ledger_of_run
from .transport import SimulatedTransport
from .workload import Operation, operations

__all__ = ["Result", "World", "simulate"]

#: Seconds in which faults begin, and calls are made.
BUSY = 10.0
#: Seconds after which a run ends, whatever still runs.
MOST_SECONDS = 400.0
#: Seconds without a fault in which an outbox sends everything: more than the lease of its rows.
QUIET = 40.0
#: Methods that answer when all faults are over; the last one has a database.
PROBES = (("shop", "work"), ("shop", "once"), ("store", "work"), ("store", "once"))
PROBE = ("bank", "pay")
#: Callers of one client that call at the same time.
CALLERS = 8


@dataclass
class Result:
    """The result of a run."""

    seed: object
    calls: int = 0
    answered: int = 0
    steps: int = 0
    seconds: float = 0.0
    trace: str = ""
    faults: list[Fault] = field(default_factory=list)
    struck: list[Fault] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The kind of the first violation."""
        return self.violations[0].partition(":")[0] if self.violations else ""


class World:
    """Everything of one run."""

    def __init__(self, seed: object, faults: Sequence[Fault] | None, tell: bool) -> None:
        self.seed = seed
        draw = random.Random(f"world {seed}").random
        self.loop = SimulationLoop(seed)
        self.ledger = Ledger(self.loop.time, tell=tell)
        self.skews: dict[str, float] = {}
        self.processes: list[Process] = []
        self.current: dict[str, Process] = {}
        self.containers: dict[Process, ServiceContainer] = {}
        self.proxies: dict[Process, tuple[ClusterRpcProxy, Any]] = {}
        self.transports: list[SimulatedTransport] = []
        self._stopping: dict[Process, asyncio.Event] = {}
        self._starting: dict[str, int] = {}
        self._closing = False
        self._settings = {
            "AMQP_URI": "memory://simulated",
            "max_workers": 2 + int(draw() * 6),
            "PREFETCH_COUNT": 2 + int(draw() * 10),
            "RPC_TIMEOUT": 20,
            "SHUTDOWN_TIMEOUT": round(draw() * 2, 1),
            "CLEANUP_TIMEOUT": 1,
            "MAX_ATTEMPTS": 2 + int(draw() * 3),
            "CONFIRM_REPLIES": draw() < 0.3,
            "CALL_PROFILE": "fast" if draw() < 0.2 else "durable",
            "STREAM_WINDOW": 1 + int(draw() * 12),
            "HEARTBEAT": 2,
        }
        self.ledger.confirms = self._settings["CALL_PROFILE"] == "durable"
        self.ledger.at_once = min(self._settings["max_workers"], self._settings["PREFETCH_COUNT"])
        self.ledger.max_attempts = self._settings["MAX_ATTEMPTS"]
        self.ledger.window = self._settings["STREAM_WINDOW"]
        self.ledger.queues = HANDLERS
        self.ledger.kill = self._kill
        self.names = [f"shop-{n}" for n in range(1 + int(draw() * 3))]
        self.names += [f"store-{n}" for n in range(1 + int(draw() * 2))]
        clients = [f"client-{n}" for n in range(1 + int(draw() * 3))]
        self.names += clients
        count = 60 + int(draw() * 140)
        self.operations = {name: deque(operations(seed, name, count)) for name in clients}
        self.databases = Databases(self) if has_databases(seed) else None
        banks = self._add_databases(count)
        self._busy: dict[str, int] = {}
        self.server = Process(self.loop, "broker")
        self.broker = self.server.context.run(MemoryBroker, "simulated", self.loop)
        self.network = Network(self.loop, self.broker, self.server, seed)
        self.ledger.handlers_listen = self._handlers_listen
        if faults is None:
            faults = plan(seed, self.names, BUSY) + faults_of_streams(seed, self.names)
            if banks:
                faults += faults_of_databases(seed, banks, BUSY)
        self.planned = list(faults)
        self.faults = Faults(self, self.planned)
        self.network.watcher, self.network.book = self.faults, self.ledger.book

    def _add_databases(self, count: int) -> list[str]:
        """Add services with databases, and calls of them; return the names of their processes."""
        if self.databases is None:
            return []
        draw = random.Random(f"world with databases {self.seed}").random
        self._settings |= self.databases.settings
        banks = [f"bank-{n}" for n in range(1 + int(draw() * 3))]
        banks += [f"books-{n}" for n in range(1 + int(draw() * 2))]
        self.ledger.queues = {**HANDLERS, **bank.HANDLERS}
        self.names += banks
        for name, waiting in self.operations.items():
            for group in bank.payments(self.seed, name, count // 2):
                at = int(draw() * len(waiting))
                for payment in group:
                    waiting.insert(min(at, len(waiting)), payment)
                    at += int(draw() ** 2 * 20)
        return banks

    def _handlers_listen(self) -> bool:
        return {*self.ledger.queues.values()} <= self.broker.queues.keys()

    # --- processes

    def start(self, name: str) -> None:
        """Start a process *name*, with empty memory."""
        process = Process(self.loop, name, self.skews.get(name, 0.0))
        self.processes.append(process)
        self.current[name] = process
        self._stopping[process] = asyncio.Event()
        self.ledger.tell(name, "starts")
        process.spawn(self._guarded(process, self._life_of(process)))

    def _life_of(self, process: Process) -> Coroutine[Any, Any, None]:
        kind = process.name.partition("-")[0]
        if kind == "client":
            return self._client(process)
        return self._instance(process, {**SERVICES, **bank.SERVICES}[kind])

    async def _guarded(self, process: Process, life: Coroutine[Any, Any, None]) -> None:
        try:
            await life
        except Exception as error:
            if self.loop.ended:
                raise
            self.ledger.violated("process failed", f"{process}: {error!r}")

    async def _instance(self, process: Process, service_cls: type) -> None:
        container = ServiceContainer(service_cls, self._settings)
        self.containers[process] = container
        await container.start()
        self.ledger.tell(process, "is ready")
        await self._stopping[process].wait()
        await container.stop()
        await container.wait()
        self.ledger.tell(process, "has stopped")
        self._stopped(process)

    def _stopped(self, process: Process) -> None:
        for left in process_left(self, process):
            self.ledger.violated("left behind", f"{process}: {left}")
        if self.current.get(process.name) is process:
            del self.current[process.name]

    async def _client(self, process: Process) -> None:
        proxy = ClusterRpcProxy(self._settings)
        cluster = await proxy.start()
        self.proxies[process] = proxy, cluster
        await asyncio.sleep(0.2)
        waiting = self.operations[process.name]
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(self._caller(process, cluster, waiting))
        self._busy[process.name] = 0
        await self._stopping[process].wait()
        await proxy.aclose()
        self._stopped(process)

    async def _caller(self, process: Process, cluster: Any, waiting: deque[Operation]) -> None:
        while waiting:
            operation = waiting.popleft()
            await asyncio.sleep(operation.pause)
            await self.call(process, cluster, operation)

    async def call(self, process: Process, cluster: Any, operation: Operation) -> bool:
        """Make a call, and report it. Return whether it was answered."""
        call = self.ledger.called(
            process,
            operation.service,
            operation.method,
            operation.script,
            operation.timeout,
            operation.options,
        )
        options = {"timeout": operation.timeout, **operation.options}
        if operation.service == "bank":  # two calls with a key have the same arguments
            options["context_data"] = {"call": call.number, "key": call.key}
        method = cluster[operation.service][operation.method].with_options(**options)
        arguments: tuple[Any, ...] = call.payment, operation.script
        if operation.method == "typed":
            arguments = ("text",)
        elif operation.method == "unencodable":
            arguments = (object(),)
        if call.streams:
            calling = self._streamed(method.stream(*arguments), call, operation)
        elif operation.reply:
            calling = self._made(method, arguments)
        else:
            calling = method(*arguments)
        try:
            if operation.cancel is None:
                value = await calling
            else:
                value = await self._cancelling(calling, operation.cancel)
        except asyncio.CancelledError:
            self.ledger.cancelled(call)
        except Exception as error:
            self.ledger.failed(call, error)
        else:
            if not call.streams:
                self.ledger.answered(call, value)
            return True
        return False

    async def _streamed(self, stream: Any, call: Call, operation: Operation) -> None:
        async for item in stream:
            self.ledger.takes(call, item)
            if call.taken == operation.take:
                await stream.aclose()
                self.ledger.cancelled(call)
                return
            if operation.script["slow"]:
                await asyncio.sleep(operation.script["slow"])
        self.ledger.streamed(call)

    async def _made(self, method: Any, arguments: tuple[Any, ...]) -> Any:
        reply = method.call_async(*arguments)
        try:
            return await reply.result()
        except asyncio.CancelledError:
            reply.cancel()
            raise

    async def _cancelling(self, calling: Coroutine[Any, Any, Any], after: float) -> Any:
        task = asyncio.create_task(calling)
        await asyncio.wait((task,), timeout=after)
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
        return task.result()

    # --- what faults do

    def crash(self, name: str, seconds: float, *, lose_last: bool = True) -> None:
        """
        End *name* at once, and start it again after *seconds*. What it has written arrives, or with
        *lose_last* perhaps only a part of it.
        """
        process = self.current.pop(name, None)
        if process is None:
            return
        self.ledger.trouble("crash", name, seconds)
        process.crash()
        if self.databases is not None:
            self.databases.crashed(process)
        for link in list(self.network.links.get(process, ())):
            link.cut(None if lose_last else 1.0, broker_notices=seconds * 0.1)
        self._start_later(name, seconds)

    def _kill(self, process: Process) -> None:
        """Crash *process* at its next await, because a method of its asks for it."""
        self.loop.later(0.0, self._kill_now, process)

    def _kill_now(self, process: Process) -> None:
        if self.current.get(process.name) is process:
            self.crash(process.name, 0.2)

    def drain(self, name: str, seconds: float) -> None:
        """Stop *name* gracefully, and start it again *seconds* later."""
        process = self.current.get(name)
        if process is None or self._stopping[process].is_set():
            return
        self.ledger.trouble("drain", name, seconds + 4.0)
        process.soon(self._stopping[process].set)
        self.loop.world.spawn(self._drained(process, seconds))

    async def _drained(self, process: Process, seconds: float) -> None:
        container = self.containers.get(process)
        began = self.loop.time()
        while self.current.get(process.name) is process:
            await asyncio.sleep(0.05)
            if self.loop.time() - began > 60 and not self.faults.active:
                self.ledger.violated("drain hung", f"{process}: {container!r}")
                return
        self.loop.later(seconds, self._start_if_absent, process.name)
        self._starting[process.name] = self._starting.get(process.name, 0) + 1

    def _start_later(self, name: str, seconds: float) -> None:
        self._starting[name] = self._starting.get(name, 0) + 1
        self.loop.later(seconds, self._start_if_absent, name)

    def _start_if_absent(self, name: str) -> None:
        self._starting[name] -= 1
        if name not in self.current and not self._closing:
            self.ledger.trouble("start", name, 0.5)
            self.start(name)

    def stall(self, name: str, seconds: float) -> None:
        process = self.current.get(name)
        if process is not None and not process.stalled:
            now = self.loop.time()
            self.ledger.trouble("stall", name, seconds)
            self.ledger.stalls.append((now, now + seconds, name))
            process.stall(seconds)

    def block(self, seconds: float) -> None:
        if not self.broker.blocked:
            self.ledger.trouble("block", "broker", seconds)
            self.server.context.run(self.broker.set_blocked, True)
            self.loop.call_at(
                self.loop.time() + seconds,
                self.broker.set_blocked,
                False,
                context=self.server.context,
            )

    def links_of(self, name: str) -> list[Link]:
        process = self.current.get(name)
        return [] if process is None else list(self.network.links.get(process, ()))

    def crash_broker(self, seconds: float) -> None:
        """Cut all links, and lose what the broker keeps in memory only."""
        self.ledger.trouble("broker crash", "broker", seconds + 3.0)
        for name in self.names:
            self.network.cut_off(name, seconds)
        for links in list(self.network.links.values()):
            for link in list(links):
                link.cut(up=0.0)
                link.gone()
        for queue in self.broker.queues.values():
            kept = [each for each in queue.ready if each.carried.message.persistent]
            for entry in queue.ready:
                if not entry.carried.message.persistent:
                    self._dropped(queue, entry)
            queue.ready.clear()
            queue.ready.extend(kept)

    def _dropped(self, queue: MemoryQueue, entry: Entry) -> None:
        number = self.ledger.book.dropped(queue, entry) or 0
        if number in self.ledger.calls:
            call = self.ledger.calls[number]
            call.doomed = True
            request = not queue.name.startswith("rpc.reply")
            durable = call.options.get("persistent", True) if request else not call.streams
            if durable and self.ledger.confirms:
                self.ledger.violated("not durable", f"{call} lost a message with the broker")
        elif number in self.ledger.events:
            self.ledger.events[number].due = False

    def replay(self, queues: Collection[str], most: int) -> None:
        """Publish the last messages of *queues* once more, as an operator may."""
        events = [each for each in self.ledger.book.events if each[0] in queues]
        for queue, message in events[-most:]:
            self.broker.publish("", queue, carried(message).copy(), mandatory=False)

    def consuming_channels(self, name: str) -> list[Peer]:
        return [
            peer
            for link in self.links_of(name)
            for peer in link.peers.values()
            if peer.consumer is not None
        ]

    def deleted(self, queue: MemoryQueue) -> None:
        """Record the events that a deleted queue takes with it."""
        # Also the queues in which failed events wait for their next attempt.
        ours = queue.name.startswith(tuple(self.ledger.queues.values()))
        for call in self.ledger.calls.values():
            call.doomed = call.doomed or call.ended is None
        for event in self.ledger.events.values():
            event.due = event.due and not ours

    # --- the run

    async def main(self) -> None:
        ledger = self.ledger
        ledger.trouble("the start", "broker", 1.0)
        for name in self.names:
            self.start(name)
        try:
            async with asyncio.timeout(MOST_SECONDS):
                await self._play()
        except TimeoutError:
            ledger.violated("hung", f"the run did not end within {MOST_SECONDS:g} s")

    async def _play(self) -> None:
        ledger = self.ledger
        while any(self._unfinished(name) for name in self.operations):
            await asyncio.sleep(0.5)
        await asyncio.sleep(5.0)  # the last faults end, and what they stopped starts again
        self.faults.active = False
        while any(self._starting.values()) or any(p.stalled for p in self.current.values()):
            await asyncio.sleep(0.5)
        await asyncio.sleep(22.0 if self.databases is None else QUIET)
        await self._probe()
        await asyncio.sleep(3.0)
        for process, container in self.containers.items():
            await self._check_rest(process, partial(container_left, container))
        for process, (_, cluster) in self.proxies.items():
            await self._check_rest(process, partial(client_left, cluster))
        parked = self._queues_left()
        if self.databases is not None:
            await self.databases.check_rest()
        ledger.finish(parked=parked)
        self._closing = True
        for process in list(self.current.values()):
            process.soon(self._stopping[process].set)
        for _ in range(200):
            if not self.current:
                break
            await asyncio.sleep(0.1)
        else:
            ledger.violated("hung", f"did not stop: {list(self.current.values())}")
        ledger.closed()
        if self.broker.transports:
            ledger.violated("left behind", f"{len(self.broker.transports)} connections")

    async def _check_rest(self, process: Process, left: Callable[[], list[str]]) -> None:
        """Check that *process* holds nothing, at some moment between two ticks of its timer."""
        for _ in range(100):
            if self.current.get(process.name) is not process or not left():
                return
            await asyncio.sleep(0.03)
        for each in left():
            self.ledger.violated("not at rest", f"{process}: {each}")

    def _unfinished(self, name: str) -> bool:
        return name not in self._busy and not (self._closing)

    async def _probe(self) -> None:
        """Without faults, every call is answered at once."""
        self.ledger.tell("world", "probes")
        for process, (_, cluster) in list(self.proxies.items()):
            if self.current.get(process.name) is not process:
                continue
            for service, method in PROBES if self.databases is None else (*PROBES, PROBE):
                operation = Operation(service, method, {}, 15.0, 0.0)
                probe = process.spawn(self.call(process, cluster, operation))
                if not await probe:
                    self.ledger.violated("not recovered", f"{process}: {service}.{method}")

    def _queues_left(self) -> set[tuple[int, str]]:
        """Check the queues, and return the numbers of parked events, and their queues."""
        parked: set[tuple[int, str]] = set()
        for queue in self.broker.queues.values():
            unacked = sum(len(each.unacked) for each in queue.consumers)
            if queue.name.endswith(".parked"):
                for entry in queue.ready:
                    body = json.loads(entry.carried.message.body)
                    if isinstance(body, dict) and "number" in body:
                        parked.add((body["number"], queue.name.removesuffix(".parked")))
            elif queue.name.endswith(".ticks"):
                pass  # the last tick of a singleton stays
            elif queue.name.startswith("rpc.reply-") and not queue.consumers:
                pass  # of a process that crashed; the broker deletes it later
            elif queue.ready or unacked:
                self.ledger.violated(
                    "not at rest",
                    f"queue {queue.name}: {len(queue.ready)} ready, {unacked} unacked, "
                    f"{len(queue.consumers)} consumers",
                )
        return parked


def simulate(seed: object, faults: Sequence[Fault] | None = None, *, tell: bool = False) -> Result:
    """Play *seed*, with its own faults or with *faults*."""
    with _alone():
        return _simulate(seed, faults, tell)


@contextmanager
def _alone() -> Generator[None]:
    """
    Inside the block, finalizers run only at its end, and nobody hears of the coroutines of crashed
    processes.
    """
    enabled, hook, containers = gc.isenabled(), sys.unraisablehook, unawaited._running
    gc.disable()
    sys.unraisablehook = lambda unraisable: None
    try:
        with warnings.catch_warnings():
            yield
            warnings.simplefilter("ignore")
            # The objects of the run are young, because nothing was collected meanwhile. Twice,
            # because the finalizers of coroutines keep others alive.
            gc.collect(0)
            gc.collect(1)
    finally:
        unawaited._running = containers
        sys.unraisablehook = hook
        if enabled:
            gc.enable()


def _simulate(seed: object, faults: Sequence[Fault] | None, tell: bool) -> Result:
    def open_transport(settings: Any, *, name: str = "") -> SimulatedTransport:
        transport = SimulatedTransport(world.network, max_message_size=settings.max_message_size)
        world.transports.append(transport)
        return transport

    world = World(seed, faults, tell)
    ledger, loop, lines = world.ledger, world.loop, LogLines(world.ledger)
    with (
        simulated_modules(Ids(seed), open_transport),
        ledger_of_run(ledger),
        lines.attached(logging.getLogger()),
    ):
        try:
            loop.begin(world.main())
        except Stuck:
            ledger.violated("deadlock", "nothing is ready, and no timer is set")
        except Livelock as error:
            ledger.violated("livelock", str(error))
        for complaint in loop.complaints:
            ledger.violated("complaint", complaint)
        seconds = loop.time() - BEGIN
        lines.ended = True
        loop.end([*world.processes, world.server])
        if world.databases is not None:
            world.databases.close()
    return Result(
        seed,
        calls=len(ledger.calls),
        answered=sum(call.value is not None for call in ledger.calls.values()),
        steps=loop.steps,
        seconds=seconds,
        trace=ledger.trace,
        faults=world.planned,
        struck=world.faults.struck,
        violations=ledger.violations,
        story=ledger.story or [],
    )
