"""Sets up the logging of a process that ``aiorpc run`` started, by the configuration."""

from __future__ import annotations

import logging
from typing import Any

from ..config import Settings
from ..exceptions import ConfigurationError

__all__ = ["set_up_logging"]

#: For ``str.format``, with the worker process.
LOG_FORMAT = "%(asctime)s %(levelname)-7s {}%(name)s: %(message)s"


def set_up_logging(settings: Settings, worker: str = "") -> None:
    """
    Set up logging by ``LOGGING``. Default: INFO and above to stderr, with the name of the *worker*
    process.

    Raises:
        ConfigurationError: ``logging.config.dictConfig`` refuses ``LOGGING``.
    """
    if settings.logging is None:
        of_worker = f"[{worker}] " if worker else ""
        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT.format(of_worker))
    else:
        from logging.config import dictConfig  # imports handlers, sockets and queues

        # The modules have already created loggers. By default, dictConfig disables loggers that it
        # does not name, also the logger that reports a ready service.
        defaults: dict[str, Any] = {"version": 1, "disable_existing_loggers": False}
        try:
            dictConfig(defaults | settings.logging)
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            reasons = ": ".join(str(each) for each in (error, error.__cause__) if each is not None)
            raise ConfigurationError(f"{settings.source}: LOGGING: {reasons}") from error
