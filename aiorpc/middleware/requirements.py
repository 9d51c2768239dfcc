"""Names the ``pip install`` that brings a missing package."""

from __future__ import annotations

import importlib

__all__ = ["require"]


def require(package: str, extra: str) -> None:
    """
    Import *package*, which the *extra* of aiorpc installs.

    Raises:
        ModuleNotFoundError: it is not installed; the text names the ``pip install``.
    """
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"aiorpc.middleware.{extra} needs {error.name}, which is not installed: "
            f'pip install "aiorpc-amqp[{extra}]"',
            name=error.name,
        ) from None
