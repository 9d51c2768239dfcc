"""
Logs coroutines that a method made and did not await, so that their code did not run. Awaits
nothing. Replaces ``warnings.showwarning``, because only Python detects such coroutines.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from ..context import current
from ..logs import logger

__all__ = ["reporting_unawaited"]

log = logger("aiorpc.worker")


#: The number of containers that run; the last one restores ``warnings.showwarning``.
_running = 0


@contextmanager
def reporting_unawaited() -> Iterator[None]:
    """
    Inside the block, log Python's "coroutine ... was never awaited" as an error with the service
    and method, if the warning comes from a worker. Python shows the other warnings as before.
    """
    global _running
    if not isinstance(warnings.showwarning, _Reporter):
        warnings.showwarning = _Reporter(warnings.showwarning)
        _add_filter()
    _running += 1
    try:
        yield
    finally:
        _running -= 1
        reporter = warnings.showwarning
        if not _running and isinstance(reporter, _Reporter):
            warnings.showwarning = reporter.shown
            _remove_filter()


_NEVER_AWAITED = "coroutine .* was never awaited"
#: Our entry in ``warnings.filters``, or nothing.
_filter: list[object] = []


def _add_filter() -> None:
    """By default Python shows the warning once for each line. The user's filters come first."""
    count = len(warnings.filters)
    warnings.filterwarnings("always", _NEVER_AWAITED, RuntimeWarning, append=True)
    _filter[:] = warnings.filters[count:]  # nothing, if the user has the same filter


def _remove_filter() -> None:
    filters: list[object] = warnings.filters  # type: ignore[assignment]
    for entry in _filter:
        if entry in filters:  # not inside of another warnings.catch_warnings()
            filters.remove(entry)
    _filter.clear()


class _Reporter:
    """Replaces ``warnings.showwarning``; passes other warnings to *shown*, its predecessor."""

    def __init__(self, shown: Callable[..., None]) -> None:
        self.shown = shown

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = str(message)
        worker = current.get().call_id_stack
        if not (worker and category is RuntimeWarning and "was never awaited" in text):
            self.shown(message, category, filename, lineno, file, line)
            return
        log.error(
            "%s: %s, so it did not run: write `await` before it (%s, line %d; call id %s)",
            worker[-1].rpartition(".")[0],
            text.splitlines()[0],
            filename,
            lineno,
            worker[-1],
        )
