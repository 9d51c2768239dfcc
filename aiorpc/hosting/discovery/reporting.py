"""
Makes the answers of one service. Reads the service class, the counts and the workers; awaits
nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from inspect import cleandoc, isasyncgenfunction
from typing import Any

from ... import __version__
from ...context import new_id
from ...extensions import Entrypoint, Host
from ...logs import logger, one_line
from ..counts import Activity
from ..pool import Pool
from ..workshop import Workshop
from .shapes import (
    DiscoveryAnswer,
    EndpointData,
    EndpointInfo,
    EndpointStats,
    Fired,
    Info,
    Instance,
    Ping,
    Promises,
    Question,
    Stacks,
    Stats,
)

__all__ = ["Reports"]

log = logger("aiorpc.hosting")

#: Seconds for which durations are kept after the last STATS.
WATCHED = 60.0
#: Characters of a description, or of one value of the metadata of a class.
_LONGEST = 500
#: The most entries in the metadata of a class.
_MOST = 20


class Reports:
    """
    What the instance of one service answers.

    Args:
        pool, workshop: its workers and their shared objects.
    """

    def __init__(
        self, host: Host, entrypoints: Sequence[Entrypoint], pool: Pool, workshop: Workshop
    ) -> None:
        self._host = host
        self._entrypoints = entrypoints
        self._pool = pool
        self._workshop = workshop
        self._queues = {each: each.queue_name(host) for each in entrypoints}
        self._watching: asyncio.TimerHandle | None = None
        self._promised: Promises | None = None
        workshop.ledger.keep_callers(asyncio.get_running_loop())
        name, pid = socket.gethostname(), os.getpid()
        own = {"host": name, "pid": str(pid), "aiorpc": __version__}
        if (worker := os.environ.get("AIORPC_WORKER")) is not None:
            own["worker"] = worker
        self._identity: dict[str, Any] = {
            "name": host.service_name,
            "id": new_id(),
            "version": _text(host.service_cls, "version"),
            "metadata": {**_metadata(host.service_cls), **own},
        }
        #: What an earlier aiorpc understands.
        self.instance = Instance(
            host.service_name,
            name,
            pid,
            tuple(
                Fired(each.method_name, type(each).__name__, self._queues[each], each.route(host))
                for each in entrypoints
            ),
        )

    def answer(self, routing_key: str) -> DiscoveryAnswer | None:
        """Return the answer to a question; ``None`` if it is for others, or unknown."""
        question, _, whom = routing_key.partition(".")
        name = self._host.service_name
        if whom not in ("", name, f"{name}.{self._identity['id']}"):
            return None
        if question == Question.PING:
            return Ping(**self._identity)
        if question == Question.INFO:
            return self._info()
        if question == Question.STATS:
            self._watch()
            return self._stats()
        if question == Question.CONTRACT:
            # Describing 100 methods blocks the loop for 0.15 s, and the code does not change.
            self._promised = self._promised or self._promises()
            return self._promised
        return self._stacks() if question == Question.STACKS else None

    def close(self) -> None:
        """Keep no more durations and callers."""
        self._workshop.ledger.keep_callers(None)
        if self._watching is not None:
            self._watching.cancel()
            self._forget()

    def _watch(self) -> None:
        """Keep durations while somebody asks."""
        if self._watching is None:
            self._workshop.ledger.keep_durations(True)
        else:
            self._watching.cancel()
        self._watching = asyncio.get_running_loop().call_later(WATCHED, self._forget)

    def _forget(self) -> None:
        self._watching = None
        self._workshop.ledger.keep_durations(False)

    def _info(self) -> Info:
        return Info(
            **self._identity,
            description=_description(self._host.service_cls),
            endpoints=[
                EndpointInfo(each.method_name, self._queues[each], self._described(each))
                for each in self._entrypoints
            ],
        )

    def _described(self, entrypoint: Entrypoint) -> dict[str, str]:
        method = getattr(self._host.service_cls, entrypoint.method_name)
        facts = {
            "kind": type(entrypoint).__name__,
            "route": entrypoint.route(self._host),
            "stream": "true" if isasyncgenfunction(method) else "",
            "idempotent": "true" if entrypoint.idempotent else "",
            "description": _description(method).partition("\n")[0],
        }
        return {name: fact for name, fact in facts.items() if fact}

    def _stats(self) -> Stats:
        ledger = self._workshop.ledger
        activity = ledger.activity()
        return Stats(
            **self._identity,
            started=ledger.started.isoformat().replace("+00:00", "Z"),
            uptime=round(ledger.uptime, 3),
            endpoints=[_stats_of(each, self._queues.get(each.entrypoint)) for each in activity],
        )

    def _promises(self) -> Promises:
        from ...contracts import describing, packing, writing  # few services are asked

        try:
            contract = describing.contract_of([self._host.service_cls])
        except Exception as error:
            log.exception("%s cannot describe itself", self._host.service_name)
            fault = f"{type(error).__name__}: {one_line(str(error), _LONGEST)}"
            return Promises(**self._identity, fault=fault)
        document = packing.packed(writing.document_of(contract))
        return Promises(**self._identity, documents=[document])

    def _stacks(self) -> Stacks:
        if not self._host.settings.discovery_stacks:
            return Stacks(**self._identity)
        from .stacks import doings  # imports linecache: few services are asked

        calls = doings(self._pool, self._workshop)
        return Stacks(**self._identity, permitted=True, calls=calls)


def _stats_of(activity: Activity, queue: str | None) -> EndpointStats:
    nanoseconds = round(activity.seconds * 1e9)
    return EndpointStats(
        activity.entrypoint.method_name,
        queue,
        activity.ended + activity.in_flight + activity.waiting,
        activity.errors,
        activity.last_error,
        nanoseconds,
        nanoseconds // max(1, activity.ended),
        EndpointData(
            type(activity.entrypoint).__name__,
            activity.in_flight,
            activity.waiting,
            activity.durations,
            activity.callers,
        ),
    )


def _text(service_cls: type, attribute: str) -> str:
    value = getattr(service_cls, attribute, None)
    return one_line(value, _LONGEST) if isinstance(value, str) else ""


def _metadata(service_cls: type) -> dict[str, str]:
    """Return the ``metadata`` of a class that is a mapping of texts; a class may have another."""
    given = getattr(service_cls, "metadata", None)
    if not isinstance(given, Mapping):
        return {}
    texts = [(k, v) for k, v in given.items() if isinstance(k, str) and isinstance(v, str)]
    return {k[:_LONGEST]: one_line(v, _LONGEST) for k, v in texts[:_MOST]}


def _description(described: Any) -> str:
    """Return the first paragraph of a docstring."""
    text = getattr(described, "__doc__", None)
    if not isinstance(text, str):
        return ""
    return " ".join(cleandoc(text).partition("\n\n")[0].split())[:_LONGEST]
