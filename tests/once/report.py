"""What the runs on one database showed, and the table. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.report import markdown

_HEAD = [
    *("database", "the second process", "points", "awaits", "statements", "writes to the broker"),
    *("killed", "not reached", "orders", "lost", "twice", "other answer", "calls made again", "s"),
]


@dataclass
class Report:
    """
    Attributes:
        second: when the process that takes over starts.
        points: the points of the run in which nobody dies.
        killed: the points at which a process died.
        missed: the points that a process did not pass again, so that it lived on.
        orders: the orders that were made, with those between the kills.
        again: how often a caller made a call again.
        lost, twice, other: orders whose row, event or effect is missing or is there twice, and
            orders with two different answers; each with the point at which the process died.
    """

    database: str
    second: str
    points: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    orders: int = 0
    again: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def wrong(self) -> list[str]:
        return [*self.lost, *self.twice, *self.other]

    def row(self) -> list[str]:
        waits = sum(point.startswith(("suspended", "resumed")) for point in self.points)
        writes = sum("the write of" in point for point in self.points)
        figures = [
            *(len(self.points), waits, len(self.points) - waits - writes, writes),
            *(len(self.killed), len(self.missed), self.orders),
            *(len(self.lost), len(self.twice), len(self.other), self.again, round(self.seconds)),
        ]
        return [self.database, self.second, *map(str, figures)]


def table(reports: Sequence[Report]) -> str:
    """Return a Markdown table that is readable as plain text."""
    return markdown(_HEAD, [each.row() for each in reports])
