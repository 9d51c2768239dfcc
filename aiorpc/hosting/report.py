"""
How a process and its worker processes are, for liveness and readiness probes: the answer of
``/livez`` and ``/readyz``, and what a worker process sends to its parent. Values; no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

__all__ = ["Report", "WorkerReport"]


class WorkerReport(msgspec.Struct, frozen=True):
    """
    How one process that runs services is.

    Attributes:
        number: the worker's number, from 1; it stays the same when the worker is replaced.
        alive: whether the event loop runs.
        ready: whether all services serve calls.
        reasons: why the process is not alive or not ready, one sentence each.
    """

    number: int
    pid: int
    alive: bool
    ready: bool
    reasons: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True):
    """
    How all processes of one ``aiorpc run`` are.

    Attributes:
        alive: whether each process is alive.
        ready: whether each process is ready, and there is one.
        reasons: why not; with several workers, each reason names its worker.
    """

    alive: bool
    ready: bool
    reasons: tuple[str, ...] = ()
    workers: tuple[WorkerReport, ...] = ()

    @classmethod
    def of(cls, workers: Iterable[WorkerReport], others: Iterable[str] = ()) -> Report:
        """
        Return the report on *workers*.

        Args:
            others: more reasons why the whole is not ready, such as a worker that starts.
        """
        workers, others = tuple(workers), tuple(others)
        return cls(
            alive=all(each.alive for each in workers),
            ready=bool(workers) and not others and all(each.ready for each in workers),
            reasons=(*others, *_reasons(workers)),
            workers=workers,
        )


def _reasons(workers: tuple[WorkerReport, ...]) -> Iterator[str]:
    for each in workers:
        lead = f"worker {each.number} (process {each.pid}): " if len(workers) > 1 else ""
        for reason in each.reasons:
            yield f"{lead}{reason}"
