"""
What the databases of a run saw: the rows of transactions, and whether they were committed. Knows
no SQL, and changes nothing in the world.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ledger import Event, Ledger, Run

__all__ = ["Accounts"]


class Accounts:
    """
    Records what transactions did, and reports to *ledger* what breaks a promise.

    Attributes:
        rows: how often each row was committed, with the name of its table in front.
        handled, payments: how often an event was handled, and a payment made.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.rows: Counter[tuple[Any, ...]] = Counter()
        self.handled: Counter[int] = Counter()
        self.payments: Counter[int] = Counter()
        #: The events of each key of the outbox that the broker has not read, in their order.
        self._order: dict[str, list[int]] = {}
        self._keys: dict[int, str] = {}
        self._sent: set[int] = set()
        self._count = {"effects": self._payment, "handled": self._event, "promises": self._promise}

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
        self._count[table](row)

    def _payment(self, row: Sequence[Any]) -> None:
        self.payments[row[0]] += 1
        if self.payments[row[0]] > 1 and row[0] in self._ledger.keyed:
            self._ledger.violated("twice", f"the key of call {row[0]} has two effects")

    def _event(self, row: Sequence[Any]) -> None:
        self.handled[row[0]] += 1
        if self.handled[row[0]] > 1:
            self._ledger.violated("twice", f"event {row[0]} has two effects")

    # --- the outbox

    def promises(self) -> Event:
        """A method writes an event to its outbox."""
        return self._ledger.dispatching("bank")

    def _promise(self, row: Sequence[Any]) -> None:
        event, key = self._ledger.events[row[0]], row[2]
        event.confirmed, event.due = self._ledger.now(), self._ledger.handlers_listen()
        if key is not None:
            self._order.setdefault(key, []).append(event.number)
            self._keys[event.number] = key

    def sends(self, number: int) -> None:
        """A process sends an event of its outbox."""
        if self._ledger.events[number].confirmed is None:
            self._ledger.violated("ghost", f"event {number} is sent, and is not committed")

    def sent(self, number: int) -> None:
        """The broker reads an event of an outbox."""
        event = self._ledger.events[number]
        if number in self._sent and not self._ledger.troubled(event.began, self._ledger.now()):
            self._ledger.violated("twice", f"event {number} is sent again without a reason")
        self._sent.add(number)
        key = self._keys.get(number)
        order = self._order.get(key or "", [])
        if number in order:
            earlier = order[: order.index(number)]
            if earlier:
                text = f"event {number} of key {key} overtakes events {earlier}"
                self._ledger.violated("overtaken", text)
            order.remove(number)

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
