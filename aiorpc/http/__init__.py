"""
HTTP for services: ``@http`` methods on Starlette and uvicorn, and a gateway to other services.

An optional package: the extra ``http`` installs what it needs. ``import aiorpc`` does not load it.
"""

from __future__ import annotations

from . import requirements as _requirements  # noqa: F401  # isort: skip  # before its users

__all__: list[str] = []
