"""
Tools to test services: a service without a container, a container without its neighbours, hooks and
waiters for entrypoints, and faults. Nothing here imports pytest; the fixtures are in
``aiorpc.testing.plugin``, which pytest loads by itself.

========================  =====================================================================
``worker_factory``        makes an instance of a service class with mocks for its dependencies
``run_sync``              runs a sync method in a thread, from which the method may await
``ClusterMock``           stands in for a cluster proxy, in tests of programs that call services
``ServiceMock``           stands in for the proxy of one service
``replace_dependencies``  puts mocks into a container before it starts
``restrict_entrypoints``  lets a container fire only some methods
``entrypoint_hook``       runs a method of a container as its entrypoint would
``entrypoint_waiter``     waits until a method of a container has run
``once``, ``dummy``       an entrypoint that fires at the start; one that never fires
``faults``                loses replies, delays and duplicates calls, drops connections
========================  =====================================================================
"""

from __future__ import annotations

from ..entrypoints.timer import once
from . import faults
from .dependencies import replace_dependencies, worker_factory
from .entrypoints import dummy, entrypoint_hook, entrypoint_waiter, restrict_entrypoints
from .mocks import ClusterMock, ServiceMock
from .threads import run_sync

__all__ = [
    "ClusterMock",
    "ServiceMock",
    "dummy",
    "entrypoint_hook",
    "entrypoint_waiter",
    "faults",
    "once",
    "replace_dependencies",
    "restrict_entrypoints",
    "run_sync",
    "worker_factory",
]
