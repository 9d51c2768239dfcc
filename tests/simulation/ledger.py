"""
What happened in a run: calls, runs of methods, transactions and events, seen from outside. Finds
what must never happen. It has no clock of its own, and changes nothing in the world.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiorpc import (
    BadArguments,
    ConnectionLost,
    InProgress,
    MethodNotFound,
    RemoteError,
    RpcTimeout,
    UnknownService,
    UnserializableValueError,
)
from aiorpc.exceptions import DeliveryUncertain, Overloaded, ServiceUnavailable

from .accounts import Accounts
from .book import Book, Seen
from .loop import Process
from .workload import ENDLESS

__all__ = ["Call", "Event", "Ledger", "Run", "Transaction"]

#: Seconds after its deadline within which a call ends: the look at the queue, the tick of the
#: timers, and the callbacks that run before it.
GRACE = 0.08
#: Seconds after a fault in which its consequences excuse an error or a second run.
RECOVERY = 2.5
#: Seconds without a fault in which a call gets its answer, also if the services are busy.
PATIENCE = 3.5
#: Seconds after which the caller of a stream misses a sign of life of its service.
SILENCE = 5.0
#: CLOCK_TOLERANCE: clocks may differ so much, so requests may run so late.
TOLERANCE = 5.0
#: How often a handler with a Retry runs.
MOST_RUNS = 4
#: Errors of methods whose database failed.
OF_DATABASES = ("OperationalError", "DatabaseUnreachable", "PoolTimeout", "TimeoutError")
#: Errors that a call may end with because of a fault, and never without one.
EXCUSED = (ConnectionLost, RpcTimeout, DeliveryUncertain, Overloaded, UnknownService)


@dataclass(eq=False)
class Transaction:
    """A dependency that was opened for a worker."""

    process: Process
    state: str


@dataclass(eq=False)
class Run:
    """One run of a method or of a handler."""

    id: int
    process: Process
    began: float
    transaction: Transaction
    redelivered: bool
    ended: float | None = None
    how: str = "running"

    @property
    def runs(self) -> bool:
        return self.ended is None and self.process.alive

    def end(self, how: str, now: float) -> None:
        self.how, self.ended = how, now


@dataclass(eq=False)
class Call:
    """A call, as its caller sees it, and the runs of its method."""

    number: int
    process: Process
    service: str
    method: str
    script: dict[str, Any]
    timeout: float | None
    options: dict[str, Any]
    began: float
    deadline: float | None
    ended: float | None = None
    value: Any = None
    error: BaseException | None = None
    #: When the caller cancelled the call.
    cancelled: float | None = None
    #: Whether a deleted queue, or a crashed broker, may have had its request or its answer.
    doomed: bool = False
    runs: list[Run] = field(default_factory=list)
    correlation_id: str = ""
    #: The number of the first call with the same idempotency key.
    payment: int = 0
    #: The items of a stream that its program took, and the run that they are of.
    taken: int = 0
    source: int | None = None

    @property
    def streams(self) -> bool:
        return self.method == "listed"

    @property
    def key(self) -> str | None:
        key: str | None = self.options.get("idempotency_key")
        return key

    def __str__(self) -> str:
        return f"call {self.number} {self.service}.{self.method}"


@dataclass(eq=False)
class Event:
    """
    An event, and the runs of its handlers, by the name of the handler.

    Attributes:
        source: the service that sent it.
        due: whether the queues of all handlers existed when the event was sent, and still do.
        confirmed: when the broker had confirmed the event.
        cancelled: whether its publisher was cancelled before.
    """

    number: int
    began: float
    due: bool
    source: str = "shop"
    confirmed: float | None = None
    cancelled: bool = False
    runs: dict[str, list[Run]] = field(default_factory=dict)


class Ledger:
    """
    Records a run.

    Attributes:
        violations: what must never happen, and did. Each begins with its kind and a colon.
        troubles: faults: from, until, what, and where.
        story: the lines of the story, if it is told.
        max_attempts, window: settings of the services.
        at_once: the number of calls that an instance of a service runs at once.
        book, accounts: what the broker and the databases saw.
        numbers: the numbers of calls, by correlation id.
        kill: crashes a process.
        handlers_listen: returns whether the queues of all handlers exist.
        queues: the queues of the handlers that get each event.
    """

    handlers_listen: Callable[[], bool]
    kill: Callable[[Process], None]
    queues: dict[str, str]
    max_attempts: int
    at_once: int
    window: int

    def __init__(self, now: Callable[[], float], *, tell: bool = False) -> None:
        self.now = now
        self.calls: dict[int, Call] = {}
        self.events: dict[int, Event] = {}
        self.violations: list[str] = []
        self.troubles: list[tuple[float, float, str, str]] = []
        self.stalls: list[tuple[float, float, str]] = []
        self.transactions: list[Transaction] = []
        self.book = Book(self)
        self.accounts = Accounts(self)
        self.numbers: dict[str, int] = {}
        #: The payments with an idempotency key, by the key; and their calls.
        self._keys: dict[str, int] = {}
        self.keyed: dict[int, list[Call]] = {}
        #: Whether clocks are wrong, and whether the broker confirms requests by default.
        self.skewed = False
        self.confirms = True
        #: The numbers of calls whose request was sent twice.
        self.resent: set[int] = set()
        self.story: list[str] | None = [] if tell else None
        self._trace = hashlib.blake2b(digest_size=8)
        self._numbers = 0
        self.runs: dict[int, Run] = {}

    # --- the story

    def tell(self, process: object, text: str, aside: str = "") -> None:
        """
        Add a line to the trace, and to the story. The story also has *aside*, which may differ
        between two machines.
        """
        line = f"{self.now():11.6f}  {process!s:<10} {text}"
        self._trace.update(line.encode())
        if self.story is not None:
            self.story.append(line + aside)

    @property
    def trace(self) -> str:
        """The hash of all lines."""
        return self._trace.hexdigest()

    def violated(self, kind: str, text: str) -> None:
        self.violations.append(f"{kind}: {text}")
        self.tell("ledger", f"VIOLATION {kind}", f": {text}")

    def trouble(self, what: str, where: str, seconds: float = 0.0) -> None:
        """Record a fault of *where*, a process or the broker, that lasts *seconds*."""
        self.troubles.append((self.now(), self.now() + seconds + RECOVERY, what, where))

    def troubled(self, begin: float, end: float) -> bool:
        """Whether a fault or its consequences lay between *begin* and *end*."""
        return any(start <= end and begin <= until for start, until, _, _ in self.troubles)

    def parked_too_soon(self, seen: Seen) -> bool:
        """
        Whether fewer deliveries failed than MAX_ATTEMPTS says. The first one does not count,
        because it may be that of a process that stopped.
        """
        return seen.lost < self.max_attempts + (not seen.returned)

    # --- calls

    def new_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def called(
        self,
        process: Process,
        service: str,
        method: str,
        script: dict[str, Any],
        timeout: float | None,
        options: dict[str, Any],
        deadline: float | None = None,
    ) -> Call:
        now = self.now()
        own = None if timeout is None else now + timeout
        deadlines = [each for each in (own, deadline) if each is not None]
        call = Call(
            self.new_number(),
            process,
            service,
            method,
            script,
            timeout,
            options,
            now,
            min(deadlines, default=None),
        )
        call.payment = call.number
        if call.key is not None:
            call.payment = self._keys.setdefault(call.key, call.number)
            self.keyed.setdefault(call.payment, []).append(call)
        self.calls[call.number] = call
        self.tell(process, f"calls {call} timeout={timeout} {options or ''}")
        return call

    def answered(self, call: Call, value: Any) -> None:
        call.ended, call.value = self.now(), value
        self.tell(call.process, f"{call} -> {value}")
        self._check_end(call)
        runs = [run for each in self.keyed.get(call.payment, (call,)) for run in each.runs]
        run = next((each for each in runs if each.id == value.get("run")), None)
        if value.get("number") != call.payment:
            self.violated("wrong answer", f"{call} was answered with {value}")
        elif run is None or run.how != "returned":
            self.violated("answered unrun", f"{call} was answered with {value}, which no run made")
        elif run.transaction.state != "committed":
            self.violated("answered early", f"{call}: its transaction is {run.transaction.state}")

    def failed(self, call: Call, error: BaseException) -> None:
        call.ended, call.error = self.now(), error
        self.tell(call.process, f"{call} -> {type(error).__name__}")
        self._check_end(call)
        fault = self._error_fault(call, error)
        if fault:
            self.violated("wrong error", f"{call} {fault}: {type(error).__name__}: {error}")

    def publishing(self, number: int) -> None:
        """A process sends an event."""
        if self.events[number].cancelled:
            self.violated("not retracted", f"event {number} is sent after its publisher's end")

    # --- streams

    def takes(self, call: Call, item: Any) -> None:
        """The program takes an item of the stream *call*."""
        self.tell(call.process, f"{call} -> {item}")
        if call.source is None:
            call.source = item["run"]
        if item != {"number": call.number, "run": call.source, "item": call.taken}:
            self.violated("wrong answer", f"{call} got {item} as item {call.taken}")
        call.taken += 1

    def yields(self, run: Run, number: int, item: int) -> None:
        """The method yields an item."""
        call = self.calls[number]
        if call.source in (None, run.id) and item >= call.taken + self.window:
            text = f"{call} yields item {item}, and its caller took {call.taken}"
            self.violated("overran", text)

    def streamed(self, call: Call) -> None:
        """The program has all items of the stream *call*."""
        call.ended, call.value = self.now(), call.taken
        self.tell(call.process, f"{call} -> all {call.taken} items")
        self._check_end(call)
        run = next((each for each in call.runs if each.how == "returned"), None)
        if run is None or call.taken != call.script["items"] or call.source not in (None, run.id):
            self.violated("answered unrun", f"{call} ended after {call.taken} items")
        elif run.transaction.state != "committed":
            self.violated("answered early", f"{call}: its transaction is {run.transaction.state}")

    def sending(self, number: object, correlation_id: str, again: bool) -> None:
        """The client sends the request of a call, perhaps once more."""
        call = self.calls.get(number) if isinstance(number, int) else None
        if call is None:
            return
        self.numbers[correlation_id] = call.number
        call.correlation_id = correlation_id
        if again:
            self.resent.add(call.number)
            if call.options.get("resend") is False or call.streams:
                self.violated("sent again", f"{call} has resend=False")
        if call.ended is not None:
            self.violated("not retracted", f"{call} is sent after its end")

    def cancelled(self, call: Call) -> None:
        call.ended = call.cancelled = self.now()
        self.tell(call.process, f"{call} is cancelled")
        if call.deadline is None and not call.doomed and call.ended >= call.began + ENDLESS:
            self.violated("hung", f"{call} did not end within {ENDLESS:g} s")

    def _check_end(self, call: Call) -> None:
        assert call.ended is not None
        if call.deadline is None:
            return
        late = call.ended - call.deadline - GRACE
        if call.streams:  # its program takes the items that came before the error
            late -= call.script["slow"] * (self.window + 1)
        for start, until, name in self.stalls:
            if name == call.process.name and start <= call.ended and call.deadline <= until + GRACE:
                late -= until - start
        if late > 0:
            self.violated("late", f"{call} ended {late + GRACE:.3f} s after its deadline")

    def _error_fault(self, call: Call, error: BaseException) -> str:
        """Return why *call* must not end with *error*, or an empty text."""
        script, end = call.script, call.ended or 0.0
        expected = self._own_error(call)
        if expected is not None and isinstance(error, expected[0]):
            as_expected = getattr(error, "exc_type", expected[1]) == expected[1]
            if as_expected:
                return ""
        if isinstance(error, RemoteError):
            if error.exc_type in OF_DATABASES and self.accounts.troubled(call.began, end):
                return ""
            if error.exc_type == "TimeoutError" and self.stalls:
                return ""  # its dependencies could not close within CLEANUP_TIMEOUT
            nested = (each.__name__ for each in (*EXCUSED, RemoteError))
            if script.get("children") or script.get("event"):
                return (
                    ""
                    if error.exc_type in {*nested, "CancelledError", "Refused"}
                    else "unknown error"
                )
            return "its method does not raise"
        if call.key is not None and isinstance(error, InProgress | RpcTimeout):
            # SQLite has one lock for all keys, so others may keep it too.
            if self._has_others(call, end) or self._busy(call, end):
                return ""
            if isinstance(error, InProgress):
                # It waits for most of its time by the clock of the service, which may be skewed.
                left = 0.0 if call.deadline is None else call.deadline - end
                waited = end - call.began > left - 1.0
                slow = "did not say in time" in str(error) and waited
                return "" if slow or self.accounts.troubled(call.began, end) else "is the only one"
        if isinstance(error, RpcTimeout):
            idle = call.options.get("idle_timeout")
            if idle is not None and self._may_idle(call, idle, end):
                return ""
            return self._timeout_fault(call, end)
        if isinstance(error, ServiceUnavailable):
            return "" if call.options.get("fail_fast") and self.troubled(call.began, end) else "?"
        parked = isinstance(error, DeliveryUncertain) and call.method == "work"
        if parked and self.parked_too_soon(self.book.of(call.correlation_id)):
            return "was parked too soon"
        if isinstance(error, EXCUSED):
            return "" if self.troubled(call.began - 0.1, end) else "failed without a reason"
        return "has no such error"

    def _has_others(self, call: Call, end: float) -> bool:
        """Whether another call with the same key ran while *call* did."""
        return any(
            each is not call
            and each.began <= end
            and (each.ended is None or each.ended >= call.began or any(r.runs for r in each.runs))
            for each in self.keyed[call.payment]
        )

    def _may_idle(self, call: Call, idle: float, end: float) -> bool:
        """Whether no item of a stream may have come within *idle* seconds."""
        script = call.script
        gap = script["every"] + script.get("pause", 0.0) + 0.3
        return gap > idle or self._busy(call, end) or self.troubled(call.began - 0.5, end)

    def _timeout_fault(self, call: Call, end: float) -> str:
        assert call.deadline is not None
        if self.skewed or call.doomed:
            return ""
        if end < call.deadline - 0.02 and not self.troubled(call.began, end):
            return "timed out before its deadline"
        slowest = self.slowest(call)
        quick = slowest < call.deadline - call.began - 0.3 and not self._busy(call, end)
        if quick and not self.troubled(call.began - 0.5, end):
            return "timed out without a reason"
        returned = any(run.how == "returned" for run in call.runs)
        if returned or call.streams or call.options.get("confirm", self.confirms):
            left = call.deadline - self._healed(call, end)
            if left > slowest + PATIENCE + (SILENCE if call.streams else 0.0):
                return f"was lost: nothing failed in its last {left:.1f} s"
        return ""

    def _healed(self, call: Call, end: float) -> float:
        """Return when the last fault ended that may have kept *call* from its answer."""
        began, places = call.began - 0.5, None
        returned = [run for run in call.runs if run.how == "returned"]
        if returned:  # only its answer may be lost, and not by a fault of another process
            began = returned[0].ended or began
            places = {call.process.name, "broker", *(run.process.name for run in returned)}
        return max(
            (
                until
                for start, until, _, where in self.troubles
                if start <= end and began <= until and (places is None or where in places)
            ),
            default=began,
        )

    def _busy(self, call: Call, end: float) -> bool:
        """Whether its service may have run as many other calls as it runs at once."""
        others = sum(
            each.service == call.service
            and each.began <= end
            and (each.ended is None or each.ended >= call.began)
            for each in self.calls.values()
        )
        return others > self.at_once

    def _own_error(self, call: Call) -> tuple[type[Exception], str] | None:
        script = call.script
        if script.get("fail"):
            return RemoteError, "Refused"
        if script.get("unserializable"):
            return RemoteError, "UnserializableValueError"
        return {
            "missing": (MethodNotFound, ""),
            "nobody": (UnknownService, ""),
            "typed": (BadArguments, ""),
            "unencodable": (UnserializableValueError, ""),
        }.get(call.method)

    def slowest(self, call: Call) -> float:
        """Seconds that the method of *call* may take, and those that wait before it."""
        script = call.script
        own = script.get("sleep", 0.0) + script.get("busy", 0.0)
        own += sum(child["script"].get("sleep", 0.0) for child in script.get("children", ()))
        if call.streams:
            own += script["items"] * (script["every"] + script["slow"]) + script.get("pause", 0.0)
        return own

    # --- runs

    def opened(self, process: Process, state: str = "open") -> Transaction:
        transaction = Transaction(process, state)
        self.transactions.append(transaction)
        return transaction

    def began(
        self,
        number: int,
        process: Process,
        transaction: Transaction,
        redelivered: bool,
        deadline: float | None,
    ) -> Run:
        """A method begins; *deadline* is that of its context."""
        call = self.calls[number]
        if call.deadline is not None and not self.skewed:
            latest = call.deadline + (self.now() - call.began) + GRACE
            if deadline is None or deadline > latest:
                self.violated("deadline lost", f"{call} runs until {deadline}, not {latest:.3f}")
        run = self._new_run(process, transaction, redelivered)
        self.tell(process, f"runs {call}{' again' if redelivered else ''} (run {run.id})")
        earlier = [each for each in call.runs if each.process is process]
        if any(each.runs for each in earlier):
            self.violated("beside itself", f"{call} runs twice at a time in {process}")
        if call.method in ("once", "listed") and call.runs:
            self.violated("twice", f"{call} is at-most-once and runs again in {process}")
        if call.runs and not self.troubled(call.began, self.now()):
            self.violated("twice", f"{call} runs again in {process} without a reason")
        kept = number not in self.resent
        if kept and any(each.how == "returned" for each in earlier):
            self.violated("answer not kept", f"{call} ran in {process}, and runs there again")
        if call.deadline is not None and run.began > call.deadline + TOLERANCE + GRACE:
            self._ran_late(call, process)
        call.runs.append(run)
        return run

    def _ran_late(self, call: Call, process: Process) -> None:
        assert call.deadline is not None
        stalled = any(
            start <= self.now() and call.deadline <= until + RECOVERY
            for start, until, _ in self.stalls
        )
        if not stalled and not self.skewed:
            late = self.now() - call.deadline
            self.violated("ran late", f"{call} runs {late:.3f} s after its deadline")

    def _new_run(self, process: Process, transaction: Transaction, redelivered: bool) -> Run:
        run = Run(len(self.runs) + 1, process, self.now(), transaction, redelivered)
        self.runs[run.id] = run
        return run

    # --- events

    def dispatching(self, source: str = "shop") -> Event:
        event = Event(self.new_number(), self.now(), self.handlers_listen(), source)
        self.events[event.number] = event
        return event

    def handling(
        self, number: int, handler: str, process: Process, transaction: Transaction, again: bool
    ) -> Run:
        event = self.events[number]
        run = self._new_run(process, transaction, again)
        self.tell(process, f"handles event {number} by {handler} (run {run.id})")
        runs = event.runs.setdefault(handler, [])
        beside = any(each.runs for each in runs if each.process is process)
        if beside and not self._copied(number, handler):
            self.violated("beside itself", f"event {number} runs twice at a time in {process}")
        done = [each for each in runs if each.how == "returned"]
        if done and handler != "everywhere" and not self.troubled(event.began, self.now()):
            self.violated("twice", f"event {number} is handled again by {handler}")
        runs.append(run)
        return run

    def _copied(self, number: int, handler: str) -> bool:
        """
        Whether an event and its copy may have come to one process, which cannot know that they are
        one event: its publisher sent it twice; or its delivery failed, and then that of its copy,
        or the ack of the original, which the copy replaces.
        """
        # Broadcast events have a queue for each process, and come as often as the others.
        seen = self.book.of((number, self.queues.get(handler, self.queues["single"])))
        failed = seen.lost + seen.returned
        if handler == "later":  # a retry is a copy too
            failed += 1
        return failed > 1 or seen.originals > 1

    # --- the end

    def finish(self, *, parked: set[tuple[int, str]]) -> None:
        """Check what has to hold when everything is at rest."""
        for call in self.calls.values():
            if call.ended is None and call.process.alive:
                self.violated("hung", f"{call} of {call.process} has not ended")
            self._check_cancelled(call)
            self._check_deadline(call)
        for event in self.events.values():
            if event.confirmed is None or not event.due:
                continue
            for handler, queue in self.queues.items():
                if queue.startswith(f"evt-{event.source}-"):
                    self._check_event(event, handler, queue, parked=(event.number, queue) in parked)

    def _check_event(self, event: Event, handler: str, queue: str, *, parked: bool) -> None:
        if handler in ("book", "settle"):
            self._check_booked(event, handler, parked=parked)
            return
        runs = event.runs.get(handler, [])
        if parked:
            seen = self.book.of((event.number, queue))
            failed = sum(run.how == "failed" for run in runs)
            if self.parked_too_soon(seen) and failed < MOST_RUNS:
                self.violated("parked too soon", f"event {event.number} of {handler}: {seen}")
        elif not any(run.how in ("returned", "raised") for run in runs):
            self.violated("event lost", f"event {event.number} never reached {handler}")

    def _check_booked(self, event: Event, handler: str, *, parked: bool) -> None:
        if parked and not self.accounts.troubled(event.began, self.now()):
            self.violated("parked too soon", f"event {event.number} of {handler}")
        elif not parked and not self.accounts.handled[event.number]:
            self.violated("event lost", f"event {event.number} never reached {handler}")

    def closed(self) -> None:
        """Check what has to hold after all processes have stopped."""
        for transaction in self.transactions:
            if transaction.state == "open" and transaction.process.alive:
                self.violated("left open", f"a transaction in {transaction.process}")

    def _check_deadline(self, call: Call) -> None:
        if call.deadline is None or self.skewed:
            return
        for run in call.runs:
            latest = call.deadline + call.script.get("stubborn", 0.0) + 0.5
            if run.began > call.deadline:
                # It was on its way from the queue at the deadline. Clocks differ, so the service
                # then trusts the expiration, which counts from the arrival (rule 2).
                latest += call.deadline - call.began
            outlived = run.ended is not None and run.ended > latest
            if outlived and not self.troubled(call.began, run.ended or 0.0):
                self.violated("outlived", f"{call} ran on after its deadline")

    def _check_cancelled(self, call: Call) -> None:
        if call.cancelled is None or self.troubled(call.cancelled - 1.0, call.cancelled + 1.0):
            return
        for run in call.runs:
            if run.process.began > call.cancelled:
                continue  # a cancellation reaches the processes that listen, and is not kept (18)
            least = call.script.get("stubborn", 0.0) + 0.3
            if run.ended is not None and run.ended > call.cancelled + least:
                self.violated("not cancelled", f"{call} ran on after its caller cancelled it")
            if run.began > call.cancelled + 0.3:
                self.violated("not cancelled", f"{call} began after its caller cancelled it")
