"""
The admin address of a process: ``/livez``, ``/readyz`` and ``/metrics``, for probes and scrapers.
No route changes anything.

An optional package: the extra ``http`` installs what it needs. ``import aiorpc`` does not load it.
"""

from ..http import requirements as _requirements  # noqa: F401  # isort: skip  # before its users
from ..hosting.report import Report, WorkerReport
from .app import AdminApp
from .server import AdminServer

__all__ = ["AdminApp", "AdminServer", "Report", "WorkerReport"]
