"""
Logs coroutines that a method made and did not await, so that their code did not run. Awaits
nothing. Replaces ``warnings.showwarning``, because only Python detects such coroutines.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TextIO

from ..context import current
from ..logs import logger

__all__ = ["report_unawaited"]

log = logger("aiorpc.worker")


def report_unawaited() -> None:
    """
    Log Python's "coroutine ... was never awaited" as an error with the service and method, if the
    warning comes from a worker. Python shows the other warnings as before. Idempotent.
    """
    if isinstance(warnings.showwarning, _Reporter):
        return
    warnings.showwarning = _Reporter(warnings.showwarning)
    # By default Python shows the warning once for each line. The user's filters come first.
    warnings.filterwarnings("always", _NEVER_AWAITED, RuntimeWarning, append=True)


_NEVER_AWAITED = "coroutine .* was never awaited"


class _Reporter:
    """Replaces ``warnings.showwarning``; passes other warnings to *shown*, its predecessor."""

    def __init__(self, shown: Callable[..., None]) -> None:
        self._shown = shown

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
            self._shown(message, category, filename, lineno, file, line)
            return
        log.error(
            "%s: %s, so it did not run: write `await` before it (%s, line %d; call id %s)",
            worker[-1].rpartition(".")[0],
            text.splitlines()[0],
            filename,
            lineno,
            worker[-1],
        )
