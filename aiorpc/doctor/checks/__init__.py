"""
One file per family of checks. A check is added by :func:`aiorpc.doctor.registry.check`.
"""

from __future__ import annotations

from . import (
    broker,
    clocks,
    configuration,
    databases,
    management,
    network,
    permissions,
    policies,
    queues,
    services,
    topology,
)

__all__ = ["FAMILIES"]

#: In the order of their findings.
FAMILIES = (
    *(configuration, network, broker, management, permissions),
    *(topology, services, queues, policies, clocks, databases),
)
