"""
The figures of this process, for those who report them, such as metrics: what happened, by
``count``, and what is true now, by ``measure``. Nobody pays for a figure that nobody reports.

Values; nothing here awaits or does I/O. Threads with other event loops may use this module.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["Figure", "Measured", "count", "figures", "measure", "on_count"]

T = TypeVar("T")

#: The name of a figure, and the values of its labels.
Figure: TypeAlias = tuple[str, tuple[str, ...]]


#: The name, the labels and the value of each figure of an object.
Measured: TypeAlias = Iterable[tuple[str, tuple[str, ...], float]]

_measured: WeakKeyDictionary[Any, Callable[[Any], Measured]] = WeakKeyDictionary()
_lock = Lock()
#: Attempts to read the figures of an owner that another thread uses.
_ATTEMPTS = 10
_reporters: list[Callable[[Figure], None]] = []


def measure(owner: T, read: Callable[[T], Measured]) -> None:
    """Read the figures of *owner* by *read* from now on, until *owner* is garbage."""
    with _lock:
        _measured[owner] = read


def figures() -> dict[Figure, float]:
    """Return the sums of all figures that can be measured now."""
    with _lock:
        measured = list(_measured.items())
    sums: defaultdict[Figure, float] = defaultdict(float)
    for owner, read in measured:
        for name, labels, value in _read(owner, read):
            sums[name, labels] += value
    return dict(sums)


def _read(owner: T, read: Callable[[T], Measured]) -> Measured:
    for _ in range(_ATTEMPTS):
        try:
            return list(read(owner))
        except RuntimeError:  # the thread of the owner changed a dict or a set meanwhile
            pass
    return ()


def count(name: str, *labels: str) -> None:
    """Count one event, such as a lost connection."""
    for reporter in _reporters:
        reporter((name, labels))


def on_count(reporter: Callable[[Figure], None]) -> Callable[[], None]:
    """Call *reporter* for each event from now on; return a function that ends that."""
    _reporters.append(reporter)

    def remove() -> None:
        if reporter in _reporters:
            _reporters.remove(reporter)

    return remove
