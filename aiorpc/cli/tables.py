"""
Prints the tables of commands to stdout. Imports rich only then.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from ..logs import MOST, one_line

__all__ = ["PIPE", "Column", "print_rows"]

#: Columns for a pipe: a great width keeps each row on one line.
PIPE = 1000


class Column(NamedTuple):
    """A column. ``right``: numbers; ``wraps``: over several lines of a narrow terminal."""

    heading: str
    right: bool = False
    wraps: bool = False


def print_rows(
    columns: Sequence[Column],
    rows: Sequence[Sequence[object]],
    *,
    red: Collection[int] = (),
    most: int = MOST,
) -> None:
    """
    Print *rows*; ``-`` stands for None and for an empty text.

    Args:
        red: the numbers of the rows, from 0, that are red.
        most: characters of a cell at most.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.heading, justify=justify, no_wrap=not column.wraps)
    for number, row in enumerate(rows):
        # Text, because rich would read markup in a name: [red].
        cells = (Text("-" if cell in {None, ""} else one_line(str(cell), most)) for cell in row)
        table.add_row(*cells, style="red" if number in red else None)
    width = None if sys.stdout.isatty() else PIPE
    Console(width=width, highlight=False).print(table)
