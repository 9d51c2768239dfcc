"""
Tools to test services: services without a container, containers without other services, hooks and
waiters for entrypoints, and faults. Only ``aiorpc.testing.plugin`` imports pytest; it has the
fixtures, and pytest loads it automatically.

========================  =====================================================================
``worker_factory``        makes an instance of a service class with mocks for its dependencies
``run_sync``              runs a sync method in a thread, from which the method may await
``ClusterMock``           replaces a cluster proxy, in tests of programs that call services
``ServiceMock``           replaces the proxy of one service
``replace_dependencies``  puts mocks into a container before it starts
``restrict_entrypoints``  limits a container to some of its methods
``entrypoint_hook``       runs a method of a container like its entrypoint
``entrypoint_waiter``     waits until a method of a container has run
``http_client``           sends requests to the ``@http`` methods of a container
``once``, ``dummy``       entrypoints: ``once`` runs its method at the start, ``dummy`` never
``faults``                loses replies, delays and duplicates calls, drops connections
========================  =====================================================================
"""

from __future__ import annotations

from ..entrypoints.timer import once
from . import faults
from .dependencies import replace_dependencies, worker_factory
from .entrypoints import dummy, entrypoint_hook, entrypoint_waiter, restrict_entrypoints
from .http import http_client
from .mocks import ClusterMock, ServiceMock
from .threads import run_sync

__all__ = [
    "ClusterMock",
    "ServiceMock",
    "dummy",
    "entrypoint_hook",
    "entrypoint_waiter",
    "faults",
    "http_client",
    "once",
    "replace_dependencies",
    "restrict_entrypoints",
    "run_sync",
    "worker_factory",
]
