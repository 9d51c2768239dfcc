"""
Computes what instances do now from two answers of each. Pure functions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

import msgspec

from ..counts import seconds_of
from .shapes import DiscoveryAnswer, EndpointStats, Info, Listing, Stats

__all__ = ["CallerRow", "Depths", "Quantiles", "Row", "View", "quantile", "view_of"]

#: The waiting messages and the consumers of each queue that the broker describes.
Depths: TypeAlias = dict[str, tuple[int, int]]


class CallerRow(msgspec.Struct):
    """
    One caller of a method.

    Attributes:
        calls: its calls; see :mod:`aiorpc.hosting.callers` for what is an estimate.
        calls_per_second: since the last look; ``None`` at the first look.
        ago: seconds since its last call.
    """

    calls: int = 0
    calls_per_second: float | None = None
    ago: float = math.inf


class Row(msgspec.Struct, kw_only=True):
    """
    The calls of one method and kind of entrypoint, in all instances of its service.

    Attributes:
        instances: the number of instances that have the method.
        calls, errors: since the instances started, or reset their counts.
        calls_per_second, errors_per_second: since the last look; ``None`` at the first look.
        p50_ms, p99_ms: of the calls that ended since the last look; ``None`` if there are none.
        in_flight, waiting: calls that run, and that wait for a worker.
        queue, consumers: messages that wait in the queue of the method, and its consumers; ``None``
            if there is no queue, or the broker does not describe it. The ``@rpc`` methods of a
            service share one queue.
        callers: by ``service.method`` that made the calls.
    """

    service: str
    method: str
    kind: str
    instances: int = 0
    calls: int | None = None
    errors: int | None = None
    last_error: str = ""
    calls_per_second: float | None = None
    errors_per_second: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    in_flight: int | None = None
    waiting: int | None = None
    queue: int | None = None
    consumers: int | None = None
    callers: dict[str, CallerRow] = {}


class Quantiles(msgspec.Struct):
    """Of the calls that ended since the last look; ``None`` if there are none."""

    p50_ms: float | None = None
    p99_ms: float | None = None


class View(msgspec.Struct, kw_only=True):
    """
    One refresh.

    Attributes:
        time: in UTC, as RFC 3339.
        services: the processes of the instances of each service.
        durations: of all methods of each service together.
        silent: instances that have answered before, and did not answer this time. They stopped,
            or something blocks their event loop.
        trouble: why there are no new figures.
        left_out: the most methods that an instance left out of its answer, because it has too many.
    """

    time: str
    broker: str
    services: dict[str, list[str]]
    methods: list[Row]
    durations: dict[str, Quantiles] = {}
    silent: list[str] = []
    trouble: str = ""
    left_out: int = 0


def view_of(
    answers: Sequence[DiscoveryAnswer], before: Mapping[str, Stats], depths: Depths, broker: str
) -> View:
    """Return the figures of *answers* since the answers *before*, which are by instance."""
    rows: dict[tuple[str, str, str], _Sum] = {}
    services: dict[str, list[str]] = {}
    for answer in answers:
        services.setdefault(answer.name, []).append(answer.process)
        for endpoint, earlier, seconds in _endpoints_of(answer, before.get(answer.id)):
            kind = endpoint.data.kind
            row = rows.setdefault((answer.name, endpoint.name, kind), _Sum())
            row.add(answer.id, endpoint, earlier, seconds)
        for info in answer.endpoints if isinstance(answer, Info) else ():
            key = (answer.name, info.name, info.metadata.get("kind", ""))
            rows.setdefault(key, _Sum()).instances.add(answer.id)
    together: dict[str, Counter[int]] = {}
    for (service, _, _), row in rows.items():
        together.setdefault(service, Counter()).update(row.durations)
    return View(
        time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        broker=broker,
        services=services,
        methods=[row.method(key, depths) for key, row in sorted(rows.items())],
        durations={name: quantiles_of(counts) for name, counts in together.items()},
        left_out=max((each.left_out for each in answers if isinstance(each, Listing)), default=0),
    )


def _endpoints_of(
    answer: DiscoveryAnswer, before: Stats | None
) -> list[tuple[EndpointStats, EndpointStats | None, float]]:
    """
    Return the endpoints of an instance, the same endpoints at the last look, and the seconds since
    that look: 0 if the instance counts from zero again.
    """
    if not isinstance(answer, Stats):
        return []
    seconds = 0.0 if before is None else answer.uptime - before.uptime
    if before is None or seconds <= 0 or before.started != answer.started:
        return [(each, None, 0.0) for each in answer.endpoints]
    earlier: dict[tuple[str, str, str | None], list[EndpointStats]] = {}
    for each in reversed(before.endpoints):
        earlier.setdefault(_key(each), []).append(each)
    return [
        (each, found.pop() if (found := earlier.get(_key(each))) else None, seconds)
        for each in answer.endpoints
    ]


def _key(endpoint: EndpointStats) -> tuple[str, str, str | None]:
    return endpoint.name, endpoint.data.kind, endpoint.queue


class _Sum:
    """Adds up the endpoints of one line."""

    def __init__(self) -> None:
        self.instances: set[str] = set()
        self._queues: set[str] = set()
        self.durations: Counter[int] = Counter()
        self._calls = self._errors = self._in_flight = self._waiting = 0
        self._rate = self._error_rate = 0.0
        self._counted = self._compared = False
        self._last_error = ""
        self._callers: dict[str, CallerRow] = {}

    def add(
        self, instance: str, now: EndpointStats, before: EndpointStats | None, seconds: float
    ) -> None:
        self.instances.add(instance)
        self._counted = True
        if now.queue is not None:
            self._queues.add(now.queue)
        self._calls += now.num_requests
        self._errors += now.num_errors
        self._in_flight += now.data.in_flight
        self._waiting += now.data.waiting
        self._last_error = now.last_error or self._last_error
        self._add_callers(now, before, seconds)
        if before is None:
            return
        self._compared = True
        self._rate += (now.ended - before.ended) / seconds
        self._error_rate += (now.num_errors - before.num_errors) / seconds
        durations = Counter(now.data.durations)
        durations.subtract(before.data.durations)
        forgotten = any(count < 0 for count in durations.values())
        self.durations.update(now.data.durations if forgotten else +durations)

    def _add_callers(
        self, now: EndpointStats, before: EndpointStats | None, seconds: float
    ) -> None:
        earlier = {} if before is None else before.data.callers
        for name, caller in now.data.callers.items():
            row = self._callers.setdefault(name, CallerRow())
            row.calls += caller.calls
            row.ago = min(row.ago, caller.ago)
            if before is not None:
                since = caller.calls - (earlier[name].calls if name in earlier else 0)
                row.calls_per_second = round((row.calls_per_second or 0) + since / seconds, 2)

    def method(self, key: tuple[str, str, str], depths: Depths) -> Row:
        service, method, kind = key
        row = Row(service=service, method=method, kind=kind, instances=len(self.instances))
        if self._counted:
            row.calls, row.errors = self._calls, self._errors
            row.in_flight, row.waiting = self._in_flight, self._waiting
            row.last_error = self._last_error
            row.callers = self._callers
        if self._compared:
            row.calls_per_second = round(self._rate, 2)
            row.errors_per_second = round(self._error_rate, 2)
            of_calls = quantiles_of(self.durations)
            row.p50_ms, row.p99_ms = of_calls.p50_ms, of_calls.p99_ms
        if known := [depths[queue] for queue in self._queues if queue in depths]:
            row.queue = sum(messages for messages, _ in known)
            row.consumers = sum(consumers for _, consumers in known)
        return row


def quantiles_of(counts: Mapping[int, int]) -> Quantiles:
    """Return the p50 and the p99 of *counts*: calls by the number of their bucket."""
    return Quantiles(quantile(counts, 0.5), quantile(counts, 0.99))


def quantile(durations: Mapping[int, int], share: float) -> float | None:
    """
    Return the milliseconds that *share* of the calls in *durations* did not exceed, within 5 %;
    ``None`` if there are no calls.
    """
    rank = math.ceil(share * sum(durations.values()))
    for bucket, count in sorted(durations.items()):
        rank -= count
        if rank <= 0 and count:
            return round(seconds_of(bucket) * 1000, 3)
    return None
