"""Counts what the library logs, and finds what it should never log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from aiorpc import AioRpcError

__all__ = ["SEED", "LogLines", "counted_log"]

#: The seed that is played, where several are played at once.
SEED: ContextVar[int] = ContextVar("SEED")


class LogLines(logging.Handler):
    """
    Counts the lines of all records from INFO on. A line break in a text makes another line.

    Attributes:
        count: lines so far.
        seed: the seed that is played where `SEED` is not set.
        faults: tracebacks of errors that are not aiorpc's, and complaints of
            asyncio about tasks and futures.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.count = 0
        self.seed: int | None = None
        self.faults: list[str] = []
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        lines = f"{record.name}: {record.getMessage()}".splitlines()
        self.count += len(lines)
        self._lines += lines
        error = record.exc_info[1] if record.exc_info else None
        if (error and not isinstance(error, AioRpcError)) or record.name == "asyncio":
            text = logging.Formatter().format(record)
            self.faults.append(
                f"seed {SEED.get(self.seed)}, a traceback in the log: {text[-1500:]}"
            )

    def take(self) -> list[str]:
        """Return the lines since the last call."""
        lines, self._lines = self._lines, []
        return lines


@contextmanager
def counted_log() -> Iterator[LogLines]:
    root, log = logging.getLogger(), LogLines()
    level = root.level
    root.setLevel(logging.INFO)
    root.addHandler(log)
    try:
        yield log
    finally:
        root.removeHandler(log)
        root.setLevel(level)
