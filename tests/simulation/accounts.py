"""
What the databases of a run saw: the rows of transactions, and whether they were committed. Knows
no SQL, and changes nothing in the world.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ledger import Ledger, Run

__all__ = ["Accounts"]


class Accounts:
    """
    Records what transactions did, and reports to *ledger* what breaks a promise.

    Attributes:
        rows: how often each row was committed, with the name of its table in front.
        handled: how often an event was handled, by an inbox.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.rows: Counter[tuple[Any, ...]] = Counter()
        self.handled: Counter[int] = Counter()

    def inserted(self, table: str, row: Sequence[Any]) -> None:
        """A transaction inserts *row*; it is not committed yet."""
        self._run_of(row).transaction.state = "open"

    def ended(self, rows: Sequence[tuple[str, Sequence[Any]]], *, committed: bool) -> None:
        """The transaction of *rows* was committed or rolled back."""
        for table, row in rows:
            run = self._run_of(row)
            run.transaction.state = "committed" if committed else "rolled back"
            self._ledger.tell("database", f"run {run.id} is {run.transaction.state}")
            if committed:
                self._committed(table, row, run)

    def _committed(self, table: str, row: Sequence[Any], run: Run) -> None:
        self.rows[table, *row] += 1
        if run.how != "returned":
            text = f"run {run.id} {run.how}, and its transaction committed"
            self._ledger.violated("not rolled back", text)
        if table == "handled":
            self.handled[row[0]] += 1
            if self.handled[row[0]] > 1:
                self._ledger.violated("twice", f"event {row[0]} has two effects")

    def troubled(self, begin: float, end: float) -> bool:
        """Whether a database, or a process that may hold its lock, failed in this time."""
        return any(
            start <= end
            and begin <= until
            and (where.startswith(("bank", "books")) or what in ("lost", "slow statement"))
            for start, until, what, where in self._ledger.troubles
        )

    def _run_of(self, row: Sequence[Any]) -> Run:
        return self._ledger.runs[row[1]]
