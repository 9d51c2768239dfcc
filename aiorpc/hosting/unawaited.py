"""
Logs the coroutines that a method made and did not await: what they should do did not happen. Awaits
nothing. It replaces ``warnings.showwarning``, because only Python knows that nobody has awaited.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import TextIO

from ..context import current

__all__ = ["report_unawaited"]

log = logging.getLogger("aiorpc.worker")


def report_unawaited() -> None:
    """
    From now on, log Python's "coroutine ... was never awaited" as an error that names the service
    and method, if it happens in a worker. Python shows it otherwise. Idempotent.
    """
    if isinstance(warnings.showwarning, _Reporter):
        return
    warnings.showwarning = _Reporter(warnings.showwarning)
    # By default Python shows it once for each line. Filters of the user come first.
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
