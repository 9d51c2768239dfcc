"""
What tests of services need: a service without a container, a container without its neighbours, its
entrypoints fired and awaited, and faults that strike when they are told to. It needs no pytest; the
fixtures are in ``aiorpc.testing.plugin``, which pytest finds by itself.

========================  =====================================================================
``worker_factory``        an instance of a service class whose dependencies are mocks
``run_sync``              run a sync method of it in a thread, from which it may await
``ClusterMock``           a mock of a cluster proxy, for programs that call services
``ServiceMock``           the same of one service's proxy
``replace_dependencies``  mocks in a container, before it starts
``restrict_entrypoints``  a container that fires these methods only
``entrypoint_hook``       run a method of a container as its entrypoint would, and have its result
``entrypoint_waiter``     wait until a method has run, whoever fired it
``once``, ``dummy``       an entrypoint that fires at the start; one that never fires
``faults``                lost replies, delays, duplicates, dropped connections
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
