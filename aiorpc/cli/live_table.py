"""
Draws the figures of ``aiorpc top`` with rich: in place on a terminal, else one table after another.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..hosting.discovery.live_view import Row, View
from ..logs import one_line
from .tables import PIPE

__all__ = ["drawn", "printed", "refreshed"]

#: Columns of a terminal from which more figures are shown.
WIDE = 110


@contextmanager
def refreshed(interval: float) -> Generator[Callable[[View], None]]:
    """Yield a function that shows a view in place of the last one, until the block ends."""
    console = Console(highlight=False)
    waiting = Text(f"aiorpc top: the first figures come in {interval:g} s")
    with Live(waiting, console=console, screen=True, auto_refresh=False) as live:

        def show(view: View) -> None:
            live.update(drawn(view, console.width, console.height), refresh=True)

        yield show


def printed(view: View) -> None:
    """Print a view as a table, each method on one line."""
    console = Console(width=PIPE, highlight=False)
    console.print(drawn(view, PIPE, None), end="")


def drawn(view: View, width: int, height: int | None) -> Group:
    """
    Return what a terminal of *width* columns and *height* lines shows of *view*; without a height,
    what a pipe gets.
    """
    methods = sorted(view.methods, key=_busiest_first)
    foot = 2 if view.silent else 1
    room = len(methods) if height is None else max(0, height - 2 - foot)
    table = _table(methods[:room], wide=width >= WIDE, fills=height is not None)
    hidden = len(methods) - room + view.left_out
    if view.trouble:
        return Group(_heading(view), Text(one_line(view.trouble), style="red"))
    rows: list[Table | Text] = [_heading(view), table]
    if hidden > 0:
        rows.append(Text(f"... and {hidden} more methods", style="dim"))
    if view.silent:
        text = f"no answer: {', '.join(view.silent)}"
        rows.append(Text(one_line(text), style="red", no_wrap=True, overflow="ellipsis"))
    return Group(*rows)


def _busiest_first(row: Row) -> tuple[float, str, str]:
    return -(row.calls_per_second or 0.0) - (row.in_flight or 0), row.service, row.method


def _heading(view: View) -> Text:
    instances = sum(map(len, view.services.values()))
    rate = sum(each.calls_per_second or 0 for each in view.methods)
    live = sum(each.in_flight or 0 for each in view.methods)
    parts = [
        f"aiorpc top  {view.time[11:19]}Z",
        f"{len(view.services)} service(s), {instances} instance(s)",
        f"{rate:,.1f} calls/s, {live} live",
        view.broker,
    ]
    return Text("  ".join(parts), style="bold", no_wrap=True, overflow="ellipsis")


def _table(methods: list[Row], *, wide: bool, fills: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.expand = fills  # the terminal
    table.add_column("METHOD", no_wrap=True, overflow="ellipsis", ratio=1 if not wide else 2)
    for heading in ("CALLS/S", "ERR/S", "P50 ms", "P99 ms", "LIVE", "WAIT", "QUEUE", "CONS"):
        table.add_column(heading, justify="right", no_wrap=True)
    if wide:
        for heading in ("INST", "CALLS", "ERRORS"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("LAST ERROR", no_wrap=True, overflow="ellipsis", ratio=3)
    for each in methods:
        table.add_row(*_cells(each, wide=wide), style="red" if each.errors_per_second else None)
    return table


def _cells(row: Row, *, wide: bool) -> list[Text]:
    cells = [
        f"{row.service}.{row.method}",
        _figure(row.calls_per_second),
        _figure(row.errors_per_second),
        _figure(row.p50_ms),
        _figure(row.p99_ms),
        *(_count(each) for each in (row.in_flight, row.waiting, row.queue, row.consumers)),
    ]
    if wide:
        cells += [str(row.instances), _count(row.calls), _count(row.errors), row.last_error or "-"]
    # Text, because rich would read markup in a name: [red].
    return [Text(one_line(cell)) for cell in cells]


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _figure(value: float | None) -> str:
    """Return *value* with about three digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
