"""Finds log lines that blame aiorpc: tracebacks of its own, and errors that no fault explains."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from aiorpc import AioRpcError
from aiorpc.sqlalchemy.engine.pool import DatabaseUnreachable

from .ledger import Ledger
from .services import Refused

__all__ = ["LogLines"]

#: Lines at ERROR that a fault explains.
EXPLAINED = re.compile(
    r"still ran after .* \(SHUTDOWN_TIMEOUT\)|is\s+parked in queue|cannot be parked|"
    r"shop\.work raised|shop\.once raised|store\.(retry|later) raised Refused|"
    r"books\.(book|settle) raised|"
    r"\.\w+ raised TimeoutError|"
    r"call\(s\) ignored cancellation|did not close within|"
    r"(shop|store)\.single_tick: cannot (fire a tick|hold the right).*basic.nack"
)

#: Errors whose traceback a line may have.
EXPECTED = (AioRpcError, Refused, TimeoutError, SQLAlchemyError, DatabaseUnreachable)


class LogLines(logging.Handler):
    """Reports records to *ledger* that no fault explains."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.WARNING)
        self._ledger = ledger
        self.ended = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.ended:
            return
        text = record.getMessage()
        self._ledger.tell("log", f"{record.levelname} {record.name}", f": {text[:300]}")
        if record.name.startswith("sqlalchemy."):
            return  # its pool logs the connections that are lost
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, EXPECTED):
            lines = logging.Formatter().format(record)
            self._ledger.violated("traceback", lines[-1500:])
        elif record.levelno >= logging.ERROR and not EXPLAINED.search(text):
            self._ledger.violated("blamed", f"{record.name}: {text}")

    @contextmanager
    def attached(self, logger: logging.Logger) -> Generator[None]:
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)
