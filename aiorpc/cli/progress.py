"""
Shows the progress of a command on stderr, if stderr is a terminal. Imports rich only then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress"]


@contextmanager
def progress(done: str, total: float) -> Iterator[Callable[[float, str], None] | None]:
    """
    Yield a function that shows how much is done, and a text; ``None`` if nobody would see it. The
    end of the block removes the bar.

    Args:
        done: what is done, as a format of rich: ``{task.completed:,.0f} of {task.total:,.0f}``.
        total: what is done at the end.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn(done),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[now]}"),
        console=Console(stderr=True),
        auto_refresh=False,  # auto-refresh would start a thread
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=total, now="")
        yield lambda completed, now: bar.update(task, completed=completed, now=now, refresh=True)
