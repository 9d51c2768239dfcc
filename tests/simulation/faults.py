"""
The faults of a run: a list that the seed makes before the run begins, so that a run with fewer of
them is the same run with fewer faults. Strikes processes, links and the broker from outside.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from aiorpc.calling.pending import Pending
from aiorpc.transports.outgoing import Outgoing
from aiorpc.wire.copies import was_resent

from .network import Link

if TYPE_CHECKING:
    from .world import World

__all__ = ["FRAMES", "KINDS", "Fault", "Faults", "faults_of_streams", "plan"]

#: Frames at which a link may be cut, or a process may crash, and how many of them there may be.
FRAMES = {
    "publish": 150,
    "copy": 5,
    "confirm": 150,
    "deliver": 150,
    "ack": 150,
    "answer": 100,
    "consume": 6,
    "declare": 4,
    "goodbye": 3,
    "inspect": 6,
}
#: How often each frame is drawn.
OFTEN = {"publish": 4, "confirm": 7, "deliver": 3, "ack": 3, "answer": 6, "copy": 3}
#: Frames of services only.
_OF_SERVICES = ("answer", "copy", "ack")
#: Frames mostly of clients.
_OF_CLIENTS = ("publish", "confirm")
#: Kinds of faults, and how often each is drawn.
KINDS = {
    "cut": 4,
    "cut at": 9,
    "half-open": 2,
    "deaf": 5,
    "crash": 2,
    "crash at": 4,
    "crash twice": 2,
    "drain": 2,
    "block": 1,
    "nack": 1,
    "close channel": 2,
    "delete queue": 1,
    "broker crash": 1,
    "stall": 2,
    "slow": 2,
    "skew": 1,
}
#: Kinds of faults of databases.
KINDS_OF_DATABASES = (
    *("lost", "slow statement", "database gone", "database mute", "database slow"),
    "replay",
)
#: The names of queues that an operator may delete.
QUEUES = (
    "rpc-shop",
    "rpc-store",
    "evt-shop-sold--store.count",
    "evt-shop-sold--store.retry",
    "evt-shop-sold--store.later",
    "evt-shop-sold",
    "rpc.reply",
)


@dataclass(frozen=True)
class Fault:
    """
    One fault.

    Attributes:
        at: seconds after the begin; or for a fault at a frame, the number of that frame.
        where: the process, or the queue.
        seconds: how long it lasts.
        frame: the kind of frame, and whether the fault strikes before or after it.
        chance: two numbers from 0 to 1, for what the fault chooses.
    """

    kind: str
    at: float
    where: str
    seconds: float = 0.0
    frame: str = ""
    when: str = ""
    chance: tuple[float, float] = (0.0, 0.0)

    def __str__(self) -> str:
        moment = f"{self.when} {self.frame} {self.at:.0f}" if self.frame else f"at {self.at:.3f} s"
        return f"{self.kind} of {self.where} {moment}, {self.seconds:.3f} s"


def plan(seed: object, names: Sequence[str], seconds: float) -> list[Fault]:
    """Return the faults of *seed*, on processes *names*, within *seconds*."""
    chooser = random.Random(f"faults {seed}")
    draw = chooser.random

    def one_of(items: Sequence[str]) -> str:
        return items[int(draw() * len(items))]

    frames = [kind for kind in FRAMES for _ in range(OFTEN.get(kind, 1))]
    kinds = [kind for kind, weight in KINDS.items() for _ in range(weight)]
    services = [name for name in names if not name.startswith("client")]
    clients = [name for name in names if name.startswith("client")]
    faults = []
    for _ in range(int(draw() ** 1.5 * 18)):
        kind, where, at = one_of(kinds), one_of(names), 0.3 + draw() * seconds
        length, chance = draw() ** 3 * 2.0, (draw(), draw())
        frame = when = ""
        if kind.endswith(" at"):
            frame, when = one_of(frames), one_of(("before", "after"))
            at = float(1 + int(draw() * FRAMES[frame]))
            if frame in _OF_SERVICES:
                where = one_of(services)
            elif frame in _OF_CLIENTS and draw() < 0.6:
                where = one_of(clients)
        elif kind in ("drain", "close channel", "crash twice"):
            where = one_of(services)
        elif kind == "delete queue":
            where = one_of(QUEUES)
        elif kind in ("block", "broker crash"):
            where = "broker"
        elif kind == "half-open":
            length = 0.5 + 8 * draw()
        elif kind == "deaf":
            length = 0.1 + draw() ** 2
            if draw() < 0.6:
                where = one_of(clients)
        elif kind == "skew":
            length = (draw() - 0.5) * 4.8
            at = 0.0
        elif kind == "stall":
            length = draw() ** 3 * 3.0
        faults.append(Fault(kind, at, where, length, frame, when, chance))
    return faults


def faults_of_streams(seed: object, names: Sequence[str]) -> list[Fault]:
    """
    Return the faults of *seed* at two moments of a stream that the frames of :func:`plan` rarely
    meet: the request arrives while the broker blocks, and a policy drops the last message.
    """
    draw = random.Random(f"faults in streams {seed}").random
    services = [name for name in names if name.startswith("shop")]
    if not services or draw() > 1 / 3:
        return []
    kind, frame, when = (
        ("block and crash at", "stream", "after"),
        ("drop at", "end", "after"),
    )[int(draw() * 2)]
    where, number = services[int(draw() * len(services))], float(1 + int(draw() * 5))
    return [Fault(kind, number, where, draw() ** 3, frame, when, (draw(), draw()))]


class Faults:
    """
    Strikes *world* with the faults of *planned*. It watches the frames of the network.

    Attributes:
        struck: the faults that have had an effect, in order.
    """

    def __init__(self, world: World, planned: Sequence[Fault]) -> None:
        self._world = world
        self.struck: list[Fault] = []
        self.active = True
        self._nacks: Counter[str] = Counter()
        self._drops: Counter[str] = Counter()
        self._written: Counter[tuple[str, str]] = Counter()
        self._at: dict[tuple[str, str, int], Fault] = {}
        for fault in planned:
            if fault.frame:
                self._at[fault.where, fault.frame, int(fault.at)] = fault
            elif fault.at == 0.0:
                self.strike(fault)
            else:
                world.loop.later(fault.at, self.strike, fault)

    # --- what the network asks

    def writing(self, link: Link, kind: str) -> tuple[str, Callable[[], None]] | None:
        fault = self.at(link.process.name, kind)
        return None if fault is None else (fault.when, partial(self.strike, fault, link))

    def at(self, name: str, kind: str) -> Fault | None:
        """Return the fault at the frame *kind* that the process *name* writes now."""
        self._world.ledger.tell(name, kind)
        if not self._at or not self.active:
            return None
        fault = None
        for each in kind.split():
            self._written[name, each] += 1
            fault = fault or self._at.pop((name, each, self._written[name, each]), None)
        return fault

    def refuses(self, link: Link) -> bool:
        name = link.process.name
        if not self._nacks[name] or not self.active:
            return False
        self._nacks[name] -= 1
        self._world.ledger.trouble("nack", name)
        return True

    def drops(self, link: Link) -> bool:
        name = link.process.name
        if not self._drops[name] or not self.active:
            return False
        self._drops[name] -= 1
        return True

    def sending(self, outgoing: Outgoing) -> None:
        if isinstance(outgoing, Pending) and outgoing.call.args:
            again = was_resent(outgoing.message)
            call = outgoing.call
            number = call.context.data.get("call", call.args[0])
            self._world.ledger.sending(number, outgoing.correlation_id, again)

    def misused(self, text: str) -> None:
        self._world.ledger.violated("protocol", text)

    # --- the strikes

    def strike(self, fault: Fault, link: Link | None = None) -> None:
        """Strike with *fault*; if it is at a frame, *link* writes this frame."""
        if not self.active:
            return
        world, where = self._world, fault.where
        world.ledger.tell("fault", str(fault))
        self.struck.append(fault)
        kind, seconds, chance = fault.kind, fault.seconds, fault.chance
        if kind in ("crash", "crash at"):
            world.crash(where, seconds, lose_last=fault.when != "after")
        elif kind == "crash twice":
            self._crash_twice(fault)
        elif kind == "drop at":
            self._drops[where] += 1
            world.ledger.trouble("drop", where)
        elif kind == "block and crash at":
            world.block(0.2 + seconds)
            world.loop.later(0.2 * chance[0], world.crash, where, seconds)
        elif kind == "drain":
            world.drain(where, seconds)
        elif kind == "block":
            world.block(seconds)
        elif kind == "broker crash":
            world.crash_broker(seconds)
        elif kind == "nack":
            self._nacks[where] += 1
            world.ledger.trouble("nack", where, seconds)
        elif kind == "close channel":
            self._close_channel(where, chance[0])
        elif kind == "delete queue":
            self._delete(where)
        elif kind == "stall":
            world.stall(where, seconds)
        elif kind == "skew":
            world.skews[where] = seconds
            world.ledger.skewed = True
        elif kind in KINDS_OF_DATABASES:
            if world.databases is not None:
                world.databases.strike(fault)
        elif kind == "slow":
            self._slow(where, seconds, 5 + 100 * chance[0])
        else:
            self._cut(fault, link)

    def _crash_twice(self, fault: Fault) -> None:
        """Crash a service, and again when it has sent a copy of a message that it had."""
        where, seconds = fault.where, fault.seconds
        number = self._written[where, "copy"] + 1 + int(fault.chance[0] * 3)
        again = Fault("crash at", float(number), where, seconds, "copy", "after")
        self._at.setdefault((where, "copy", number), again)
        self._world.crash(where, seconds)

    def _cut(self, fault: Fault, link: Link | None) -> None:
        world = self._world
        broker_notices = process_notices = 0.0
        if fault.kind == "deaf":
            world.ledger.trouble(fault.kind, fault.where, fault.seconds)
            for each in world.links_of(fault.where):
                each.deafen(fault.seconds)
            return
        if fault.kind == "half-open":
            broker_notices, process_notices = fault.seconds, 0.2 * fault.chance[0]
            if fault.chance[1] < 0.5:
                broker_notices, process_notices = process_notices, broker_notices
        else:
            world.network.cut_off(fault.where, fault.seconds)
        world.ledger.trouble(fault.kind, fault.where, fault.seconds)
        up = 1.0 if fault.when == "after" else None
        for each in [link] if link is not None else world.links_of(fault.where):
            each.cut(up, None, broker_notices, process_notices)

    def _close_channel(self, name: str, chance: float) -> None:
        channels = self._world.consuming_channels(name)
        if channels:
            self._world.ledger.trouble("close channel", name)
            channels[int(chance * len(channels))].close_at_broker()

    def _delete(self, prefix: str) -> None:
        broker = self._world.broker
        for name, queue in list(broker.queues.items()):
            if name.startswith(prefix) and (prefix != "evt-shop-sold" or "--" not in name):
                self._world.ledger.trouble("delete queue", "broker", 3.0)
                self._world.deleted(queue)
                broker.delete_queue(queue)
                return

    def _slow(self, name: str, seconds: float, factor: float) -> None:
        network = self._world.network
        network.slow[name] = factor
        self._world.ledger.trouble("slow", name, seconds)
        self._world.loop.later(seconds, network.slow.pop, name, None)
