"""Imports what the extra installs. The error for a missing package names the ``pip install``."""

from __future__ import annotations

import importlib

__all__: list[str] = []

for name in ("starlette", "uvicorn"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"aiorpc.http needs {error.name}, which is not installed: "
            'pip install "aiorpc-amqp[http]"',
            name=error.name,
        ) from None
