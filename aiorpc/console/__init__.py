"""
The console: one page in a browser that shows what services do. ``aiorpc console`` serves it.

An optional package: it needs the extra ``http``. Only the command line imports it.
"""

from __future__ import annotations

from ..http import requirements as _requirements  # noqa: F401  # isort: skip  # before its users
from .server import ConsoleServer

__all__ = ["ConsoleServer"]
