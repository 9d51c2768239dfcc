"""Imports what an extra installs. The error for a missing package names the ``pip install``."""

from __future__ import annotations

import importlib

__all__: list[str] = []

for name in ("sqlalchemy", "greenlet", "marshmallow", "marshmallow_sqlalchemy"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"aiorpc.sqlalchemy needs {error.name}, which is not installed: "
            'pip install "aiorpc-amqp[postgresql]", or [mysql] or [sqlite], or [sqlalchemy] for '
            "another driver",
            name=error.name,
        ) from None
