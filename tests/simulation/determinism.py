"""
Gives aiorpc the clocks, ids and sets of the simulation, for the time of a block. Changes names in
the modules of aiorpc, and nothing in its classes.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
import types
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, MutableSet
from contextlib import contextmanager
from functools import partial
from typing import Any

import sqlalchemy.pool.base

import aiorpc.context
from aiorpc.entrypoints.cancellations import Cancellations

from .loop import PROCESS

__all__ = ["EPOCH", "Ids", "OrderedSet", "simulated_modules"]

#: The wall clock, minus the time of the loop.
EPOCH = 1_800_000_000.0
#: Rooms whose sets hold objects: their order depends on addresses.
_WITH_SETS = ("calling", "entrypoints", "hosting", "transports")


def monotonic() -> float:
    return PROCESS.get().loop.time()


def wall_clock() -> float:
    process = PROCESS.get()
    return EPOCH + process.loop.time() + process.skew


class OrderedSet(MutableSet[Any]):
    """A set in the order of insertion."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Any) -> None:
        self._items[item] = None

    def discard(self, item: Any) -> None:
        self._items.pop(item, None)


def gather(*awaitables: Any, return_exceptions: bool = False) -> asyncio.Future[Any]:
    """``asyncio.gather`` without the shortcut of Python 3.12 for awaitables that are done."""
    if not awaitables:
        return _gather()
    loop = asyncio.get_running_loop()
    children = [asyncio.ensure_future(each) for each in awaitables]
    gathered = _gather(*(loop.create_future() for _ in children), return_exceptions=True)
    assert return_exceptions, "the simulator knows no other form"
    waiting = list(gathered._children)

    def done(index: int, child: asyncio.Future[Any]) -> None:
        future = waiting[index]
        if future.done():
            return
        if child.cancelled():
            future.cancel()
        elif (error := child.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(child.result())

    for index, child in enumerate(children):
        child.add_done_callback(partial(done, index))
        waiting[index].add_done_callback(partial(_pass_cancel, child))
    return gathered


def _pass_cancel(child: asyncio.Future[Any], future: asyncio.Future[Any]) -> None:
    if future.cancelled():
        child.cancel()


_gather = asyncio.gather


class Ids:
    """Makes the UUIDs of one run."""

    def __init__(self, seed: object) -> None:
        self.random = random.Random(f"ids {seed}")

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(int=self.random.getrandbits(128), version=4)


@contextmanager
def simulated_modules(ids: Ids, open_transport: Callable[..., Any]) -> Generator[None]:
    """Inside the block, aiorpc uses the simulated clocks, *ids* and *open_transport*."""
    clock = types.SimpleNamespace(monotonic=monotonic, time=wall_clock)
    replaced: list[tuple[dict[str, Any], str, Any]] = []

    def replace(names: dict[str, Any], name: str, value: Any) -> None:
        replaced.append((names, name, names.get(name)))
        names[name] = value

    for module_name, module in sorted(sys.modules.items()):
        if not module_name.startswith("aiorpc."):
            continue
        names = vars(module)
        for name, value in list(names.items()):
            if value is time.monotonic:
                replace(names, name, monotonic)
            elif value is time.time:
                replace(names, name, wall_clock)
            elif value is time:
                replace(names, name, clock)
            elif value is random:
                replace(names, name, ids.random)
            elif name == "open_transport" and module_name != "aiorpc.transports":
                replace(names, name, open_transport)
        if module_name.split(".")[1] in _WITH_SETS:
            replace(names, "set", OrderedSet)
    replace(vars(sqlalchemy.pool.base), "time", clock)
    replace(vars(uuid), "uuid4", ids.uuid4)
    replace(vars(asyncio), "gather", gather)
    make_id = aiorpc.context._make_id
    aiorpc.context._make_id = aiorpc.context.id_source()
    defaults, Cancellations.__init__.__defaults__ = (
        Cancellations.__init__.__defaults__,
        (monotonic,),
    )
    try:
        yield
    finally:
        for names, name, value in reversed(replaced):
            if value is None:
                del names[name]
            else:
                names[name] = value
        aiorpc.context._make_id = make_id
        Cancellations.__init__.__defaults__ = defaults
