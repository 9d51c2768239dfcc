"""What a refusal measured, which promises that breaks, and the table. Values only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.report import Report, markdown

__all__ = ["RefusalReport", "refusal_table"]


@dataclass
class RefusalReport:
    """
    Attributes:
        neighbours: the calls whose messages the broker need not refuse.
        once: the calls of an at-most-once method; ``None`` if the library has no such methods.
        refused: the calls whose messages the broker refuses; ``None`` without such calls.
        lost: events that the broker confirmed, and that no handler handled.
        twice_here: calls of all kinds that ran more than once in one process.
        notes: what else there is to say.
        complaints: failures that the figures do not show.
    """

    name: str
    neighbours: Report
    once: Report | None = None
    refused: Report | None = None
    lost: int = 0
    twice_here: int = 0
    notes: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def _calls(self) -> list[Report]:
        """The calls that should be answered."""
        return [each for each in (self.neighbours, self.once) if each is not None]

    @property
    def _all(self) -> list[Report]:
        return [*self._calls, *([self.refused] if self.refused is not None else [])]

    def failures(
        self, *, floor: float, errors: frozenset[str], refused_errors: frozenset[str]
    ) -> list[str]:
        """List the broken promises. *floor*: the part of the neighbours that must be answered."""
        wrong = list(self.complaints)
        uncertain = errors | {"DeliveryUncertain"}
        wrong += self.neighbours.failures(floor=floor, allowed=errors, twice=None)
        if self.once is not None:
            wrong += self.once.failures(floor=0.0, allowed=uncertain, twice=0)
        if self.refused is not None:
            if strange := set(self.refused.errors) - refused_errors:
                wrong.append(f"callers of refused calls saw {', '.join(sorted(strange))}")
            wrong += [f"{each} refused calls hung" for each in [self.refused.hung] if each]
        if self.lost:
            wrong.append(f"{self.lost} confirmed events were lost")
        if self.twice_here:
            wrong.append(f"{self.twice_here} calls ran twice in one process")
        return wrong

    def row(self) -> list[str]:
        calls, every = self._calls, self._all
        refused = [] if self.refused is None else [_ends(self.refused)]
        return [
            self.name,
            str(sum(each.offered for each in calls)),
            str(sum(each.answered for each in calls)),
            _errors(sum((each.errors for each in calls), Counter[str]())),
            str(sum(each.hung for each in every)),
            str(self.lost + sum(each.lost for each in every)),
            str(sum(each.wrong for each in every)),
            str(self.twice_here),
            str(self.neighbours.twice),
            "-" if self.once is None else str(self.once.twice),
            "; ".join([*refused, *self.notes]) or "-",
        ]


HEAD = [
    "scenario",
    "calls",
    "answered",
    "errors",
    "hung",
    "lost",
    "wrong",
    "twice in one process",
    "twice in all",
    "at most once, twice",
    "callers of refused messages saw",
]


def refusal_table(reports: Sequence[RefusalReport]) -> str:
    """Return a Markdown table that is readable as plain text."""
    return markdown(HEAD, [report.row() for report in reports])


def _errors(errors: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in errors.most_common()) or "none"


def _ends(report: Report) -> str:
    answered = Counter({"answers": report.answered} if report.answered else {})
    return _errors(report.errors + answered)
