"""
What tests of services need: a service without a container, a container without its neighbours, its
entrypoints fired and awaited, and faults that strike when they are told to. It needs no pytest; the
fixtures are in ``aiorpc.testing.plugin``, which pytest finds by itself.

========================  =====================================================================
``worker_factory``        an instance of a service class whose dependencies are mocks
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

__all__ = [
    "dummy",
    "entrypoint_hook",
    "entrypoint_waiter",
    "faults",
    "once",
    "replace_dependencies",
    "restrict_entrypoints",
    "worker_factory",
]
