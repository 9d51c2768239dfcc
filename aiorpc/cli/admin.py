"""
Opens the admin address of ``aiorpc run``. Imports ``aiorpc.admin`` only if there is an address, and
prometheus-client only for the first scrape, because they take a while.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from ..config import Settings
from ..exceptions import ConfigurationError
from ..hosting.report import Report
from .parser import settings_of

__all__ = ["admin_address", "metrics_of_process", "settings_of_run"]


def settings_of_run(arguments: argparse.Namespace) -> Settings:
    """
    Return the settings of ``aiorpc run``, with ``--admin``.

    Raises:
        ConfigurationError: see :func:`settings_of`; or ``--admin`` is no address.
    """
    settings = settings_of(arguments)
    if arguments.admin is None:
        return settings
    return settings.with_defines({"ADMIN_ADDRESS": arguments.admin}, "--admin")


def admin_address(
    settings: Settings,
    status: Callable[[], Report],
    metrics: Callable[[], Callable[[], bytes] | None],
) -> AbstractContextManager[object]:
    """
    Serve ``ADMIN_ADDRESS`` inside the block; do nothing if *settings* have none.

    Args:
        status: see :class:`aiorpc.admin.AdminServer`.
        metrics: returns the *metrics* of the server; called only if there is an address.

    Raises:
        ConfigurationError: the extra ``http`` is missing, or at the start of the block the address
            cannot be used.
    """
    if settings.admin_address is None:
        return nullcontext()
    try:
        from ..admin import AdminServer
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"ADMIN_ADDRESS: {error}") from None
    return AdminServer(settings.admin_address, status, metrics())


def metrics_of_process() -> Callable[[], bytes] | None:
    """
    Return a function that collects the metrics of this process, and those that the user's code
    registers at prometheus-client. Without prometheus-client, return None.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        return None

    def collect() -> bytes:
        from ..middleware.exposition import exposition

        return exposition()

    return collect
