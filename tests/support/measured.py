"""The metrics of one configuration, apart from those of other tests. Imports prometheus-client."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from aiorpc.config import Settings, resolve
from aiorpc.installed import middleware_of
from aiorpc.middleware.prometheus import Metrics

__all__ = ["Measured", "measured"]


class Measured(Metrics):
    """The middleware ``metrics`` with a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        super().__init__(registry=self.registry)


def measured(url: str) -> tuple[Settings, Measured]:
    """Return a configuration whose services and clients measure, and their middleware."""
    settings = resolve({"AMQP_URI": url, "MIDDLEWARE": ["tests.support.measured:Measured"]})
    (metrics,) = middleware_of(settings)
    assert isinstance(metrics, Measured)
    return settings, metrics
