"""
``metrics``: durations and counts of calls, events and messages, for Prometheus. It also registers
what this process has now: running and waiting calls, workers, connections.

Imports prometheus-client. ``exposition.py`` makes the text that Prometheus reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any, Final
from weakref import WeakKeyDictionary

from .. import figures
from ..call import Call, Handler
from ..exceptions import ConfigurationError, MethodNotFound
from ..wire.requests import seconds_since_sent
from . import conventions as names
from .metric_names import COUNTERS, DURATIONS, GAUGES, MESSAGES
from .requirements import require

require("prometheus_client", "prometheus")

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge  # noqa: E402
from prometheus_client.core import GaugeMetricFamily, Metric as Family  # noqa: E402
from prometheus_client.registry import Collector  # noqa: E402

from .durations import FOLDER, Durations, Series  # noqa: E402

__all__ = ["Metrics", "metrics", "refresh"]

metrics: Metrics

#: Values of one label, at most; later values become ``_OTHER``.
MOST: Final = 1000
#: The time series of methods are cached, at most so many; a full cache is emptied.
_CACHED = 4096
_BUCKETS = {"default": names.BUCKETS, "fine": names.FINE_BUCKETS}


class _Method:
    """The durations of one method, by ``error_type``, and the counter of its messages."""

    def __init__(
        self,
        durations: Durations,
        counter: Counter | None,
        labels: tuple[str, ...],
        bounded: Callable[[str, str], str],
    ) -> None:
        self._durations, self._counter, self._labels = durations, counter, labels
        self._bounded = bounded
        self._kinds: dict[str, tuple[Series, Counter | None]] = {}
        #: Time in the queue, and time waiting for a worker; of the receiving side only.
        self.queue: Series | None = None
        self.waiting: Series | None = None

    def observe(self, seconds: float, kind: str) -> None:
        """Count a call that took *seconds* and ended with an error of *kind*; ``""`` for none."""
        found = self._kinds.get(kind)
        if found is None:
            bounded = self._bounded(names.ERROR_TYPE, kind)
            found = self._kinds.get(bounded)
            if found is None:
                found = self._kinds[bounded] = self._new(bounded)
        durations, counter = found
        durations.observe(seconds)
        if counter is not None:
            counter.inc()

    def received(self, call: Call, began: float) -> None:
        """Count how long *call* waited until it *began*: in the queue, and for a worker."""
        if self.waiting is None or self.queue is None or not call.received_at:
            return
        waited = began - call.received_at
        self.waiting.observe(waited)
        since = None if call.message is None else seconds_since_sent(call.message)
        if since is not None:
            self.queue.observe(max(0.0, since - waited))

    def _new(self, kind: str) -> tuple[Series, Counter | None]:
        labels, counter = (*self._labels, kind), self._counter
        return (
            self._durations.labels(*labels),
            None if counter is None else counter.labels(*labels),
        )


class _Instruments:
    """The metrics of one registry."""

    def __init__(self, bounds: tuple[float, ...], registry: CollectorRegistry) -> None:
        self.bounds = bounds
        self._durations = {name: Durations(each, bounds) for name, each in DURATIONS.items()}
        for durations in self._durations.values():
            registry.register(durations)
        self._messages = {
            name: Counter(each.name, each.help, each.labels, registry=registry)
            for name, each in MESSAGES.items()
        }
        self._counters = {
            name: Counter(each.name, each.help, each.labels, registry=registry)
            for name, each in COUNTERS.items()
        }
        #: By entrypoint. Of a client: by service and method. Of other calls, see ``_find``.
        self._methods: dict[Any, _Method] = {}
        self._values: dict[str, set[str]] = {}
        #: Ends the counting of events of this process; for tests.
        self.close = figures.on_count(self.count)
        if not os.environ.get(FOLDER):
            registry.register(_Now())

    def method(self, call: Call) -> _Method:
        """Return the time series of the method of *call*."""
        key: Any = call.entrypoint
        if key is None:
            if call.kind != "rpc" or call.id:
                return self._find(call)
            key = (call.service, call.method)
        return self._methods.get(key) or self._find(call)

    def unknown(self, call: Call, side: str) -> _Method:
        """Return the time series of methods that do not exist."""
        return self._methods.get((side,)) or self._new((side,), side, call)

    def _find(self, call: Call) -> _Method:
        side = call.side
        if call.kind == "http":
            key: Any = (call.entrypoint, _http_method(call))
            return self._methods.get(key) or self._new(key, "http", call)
        if side == "producer":
            key = (side, call.exchange, call.routing_key)
            return self._methods.get(key) or self._new(key, side, call)
        if side == "client":
            return self._new((call.service, call.method), side, call)
        if call.entrypoint is None:
            return self.unknown(call, side)
        return self._new(call.entrypoint, side, call)

    def _new(self, key: Any, name: str, call: Call) -> _Method:
        if len(self._methods) >= _CACHED:
            self._methods.clear()
        known, counter = key != (name,), self._messages.get(name)
        labels: tuple[str, ...] = (call.service, call.method)
        if name in ("client", "server"):
            method = names.method(call) if known else names.OTHER
            labels = (names.NAMEKO, self.bounded(names.RPC_METHOD, method))
        elif name == "producer":
            destination = names.destination(call.exchange, call.routing_key)
            bounded = self.bounded(names.MESSAGING_DESTINATION_NAME, destination)
            labels = (names.RABBITMQ, "publish", bounded)
        elif name == "consumer":
            labels = (names.RABBITMQ, "process", f"{call.service}.{call.method}")
        elif name == "http":
            labels = (_http_method(call), call.entrypoint.url)
        found = _Method(self._durations[name], counter, labels, self.bounded)
        if name in ("server", "consumer") and known:
            found.queue = self._durations["queue"].labels(call.service, call.method)
            found.waiting = self._durations["waiting"].labels(call.service, call.method)
        self._methods[key] = found
        return found

    def bounded(self, label: str, value: str) -> str:
        """Return *value*, or ``_OTHER`` if the *label* has too many values already."""
        values = self._values.setdefault(label, set())
        if value not in values:
            if len(values) >= MOST:
                return names.OTHER
            values.add(value)
        return value

    def count(self, figure: figures.Figure) -> None:
        """Count an event of this process."""
        name, labels = figure
        counter = self._counters.get(name)
        if counter is not None:
            bounded = [self.bounded(f"{name} {at}", each) for at, each in enumerate(labels)]
            (counter.labels(*bounded) if labels else counter).inc()


#: One registry has each metric once, also if several configurations install the middleware.
_instruments: WeakKeyDictionary[CollectorRegistry, _Instruments] = WeakKeyDictionary()


class Metrics:
    """
    Measures each call that passes, on both sides.

    Args:
        buckets: upper bounds of durations in seconds; ``"default"`` for those of OpenTelemetry,
            from 5 ms; ``"fine"`` for these and finer ones, from 0.1 ms.
        registry: has the metrics.

    Raises:
        ConfigurationError: *buckets* are something else, or other ones than before.
    """

    def __init__(
        self,
        buckets: str | Sequence[float] = "default",
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        bounds = _bounds(buckets)
        found = _instruments.get(registry)
        if found is None:
            found = _instruments[registry] = _Instruments(bounds, registry)
        elif found.bounds != bounds:
            raise ConfigurationError(
                "the metrics of this process have other buckets already: install "
                f"aiorpc.middleware.prometheus everywhere with the same buckets, not {buckets!r}"
            )
        self._found = found

    async def __call__(self, call: Call, handler: Handler) -> Any:
        method = self._found.method(call)
        began = monotonic()
        if method.waiting is not None:
            method.received(call, began)
        try:
            result = await handler(call)
        except BaseException as error:
            if isinstance(error, MethodNotFound) and call.side == "client":
                method = self._found.unknown(call, "client")
            method.observe(monotonic() - began, _kind(error, call))
            raise
        method.observe(monotonic() - began, "")
        return result


def _bounds(buckets: Any) -> tuple[float, ...]:
    if isinstance(buckets, str):
        bounds = _BUCKETS.get(buckets)
        if bounds is not None:
            return bounds
    elif (
        isinstance(buckets, Sequence)
        and buckets
        and all(type(each) in (int, float) for each in buckets)
        and sorted(set(buckets)) == list(buckets)
    ):
        return tuple(map(float, buckets))
    raise ConfigurationError(
        f"the buckets of aiorpc.middleware.prometheus:Metrics must be default, fine, or a list of "
        f"ascending seconds, got {buckets!r:.100}"
    )


def _http_method(call: Call) -> str:
    request = getattr(call, "request", None)
    return "" if request is None else str(request.method)


def _kind(error: BaseException, call: Call) -> str:
    """Return ``error_type``: empty for an error that the method declares as expected."""
    entrypoint = call.entrypoint
    if entrypoint is not None and isinstance(
        error, (entrypoint.expected_exceptions, entrypoint.answers)
    ):
        return ""
    return names.error_type(error, call)


# What the process has now


class _Now(Collector):
    """Measures the figures of this process when Prometheus asks."""

    def collect(self) -> Iterator[Family]:
        found = figures.figures()
        for name, metric in GAUGES.items():
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for (figure, labels), value in found.items():
                if figure == name:
                    family.add_metric(labels, value)
            yield family


_gauges: dict[str, Gauge] = {}
_shown: set[figures.Figure] = set()


def refresh() -> None:
    """
    Write the figures of this process to its files in ``PROMETHEUS_MULTIPROC_DIR``, for the process
    that serves the metrics of all. A process of several calls this each second.
    """
    if not _gauges:
        for name, metric in GAUGES.items():
            _gauges[name] = Gauge(
                metric.name,
                metric.help,
                metric.labels,
                registry=None,
                multiprocess_mode=metric.joined,
            )
    found = figures.figures()
    for name, labels in _shown | set(found):
        gauge = _gauges.get(name)
        if gauge is not None:
            (gauge.labels(*labels) if labels else gauge).set(found.get((name, labels), 0.0))
    _shown.update(found)


def __getattr__(name: str) -> Metrics:
    """Make ``metrics`` when somebody uses it: a configuration may install other buckets."""
    if name != "metrics":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()["metrics"] = Metrics()
    return made
