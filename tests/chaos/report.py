"""
What a scenario measured, which promises that breaks, and the table. Values only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Seconds past its deadline within which a caller must have its answer or error.
PROMPT = 0.05


@dataclass
class Report:
    """
    Attributes:
        offered: calls that the callers made.
        answered: right answers.
        errors: calls that ended with an error, by its name.
        hung: calls that had not ended `HANGS` seconds past their deadline.
        lost: calls that were answered but never ran. If every call had more time than the fault
            took, also calls that ended with ``RpcTimeout`` and never ran.
        wrong: answers that belong to another call, or to no call.
        twice: calls that ran more than once.
        overrun: the longest time past a deadline, in seconds.
        lag: the longest delay of the callers' own event loop, in seconds.
        again: seconds from the end of the fault to the next right answer.
        slowest: seconds of the slowest right answer.
        complaints: failures that the figures do not show.
    """

    name: str
    offered: int = 0
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    hung: int = 0
    lost: int = 0
    wrong: int = 0
    twice: int = 0
    overrun: float = 0.0
    lag: float = 0.0
    again: float | None = None
    slowest: float = 0.0
    complaints: list[str] = field(default_factory=list)

    @property
    def success(self) -> float:
        return self.answered / self.offered if self.offered else 0.0

    def failures(self, *, floor: float, allowed: frozenset[str], twice: int | None) -> list[str]:
        """List the broken promises. *twice*: how many calls may run twice; ``None``: any number."""
        wrong = list(self.complaints)
        wrong += [f"{count} calls {what}" for what, count in self._never() if count]
        if self.success < floor:
            wrong.append(f"{self.success:.1%} of the calls succeeded, fewer than {floor:.1%}")
        if strange := set(self.errors) - allowed:
            wrong.append(f"callers saw {', '.join(sorted(strange))}")
        if twice is not None and self.twice > twice:
            wrong.append(f"{self.twice} calls ran twice")
        if self.overrun > PROMPT + 2 * self.lag:  # the deadline is late, and the diagnosis too
            wrong.append(f"a call ended {self.overrun * 1000:.0f} ms past its deadline")
        if self.again is None:
            wrong.append("no call was answered after the fault")
        return wrong

    def _never(self) -> list[tuple[str, int]]:
        return [("hung", self.hung), ("were lost", self.lost), ("got a wrong answer", self.wrong)]

    def row(self) -> list[str]:
        errors = ", ".join(f"{count} {name}" for name, count in self.errors.most_common())
        return [
            self.name,
            str(self.offered),
            str(self.answered),
            errors or "none",
            str(self.hung),
            str(self.lost),
            str(self.wrong),
            str(self.twice),
            f"{max(0.0, self.overrun) * 1000:.0f}",
            "never" if self.again is None else f"{self.again:.2f}",
        ]


HEAD = [
    "scenario",
    "offered",
    "answered",
    "errors",
    "hung",
    "lost",
    "wrong",
    "run twice",
    "past deadline, ms",
    "again after, s",
]


def table(reports: Sequence[Report]) -> str:
    """Return a Markdown table that is readable as plain text."""
    return markdown(HEAD, [report.row() for report in reports])


def markdown(head: list[str], body: list[list[str]]) -> str:
    rows = [head, *body]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        _line([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]) for row in rows
    ]
    return "\n".join([lines[0], _line(["-" * width for width in widths]), *lines[1:]])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
