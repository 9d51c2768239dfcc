"""
Shortens the tracebacks of failed calls in the log: one failed query has over 100 lines of frames of
SQLAlchemy and its driver. Reads source files for the lines of code; no other I/O.
"""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections import Counter
from functools import lru_cache
from pathlib import Path

__all__ = ["shortened"]

_OWN = Path(__file__).parent
_STDLIB = Path(sysconfig.get_path("stdlib"))
_INSTALLED = ("site-packages", "dist-packages")


def shortened(error: BaseException, service_cls: type) -> str:
    """
    Return the traceback of *error* without the frames of libraries, as Python formats it.

    The frames of the package of *service_cls* stay, also if the package is installed. The last
    frame stays, because it raised *error*. The errors that caused *error* keep their types and
    texts.
    """
    whole = traceback.TracebackException.from_exception(error)
    home = _home_of(service_cls)
    skipped: Counter[str] = Counter()
    last = whole.stack[-1] if whole.stack else None
    _shorten(whole, home, skipped, set())
    library = None if last is None else _library_of(last.filename, home)
    if last is not None and library is not None and (library != _OWN.name or not whole.stack):
        skipped[library] -= 1
        whole.stack = traceback.StackSummary([*(whole.stack or ()), last])
    text = "".join(whole.format()).rstrip("\n")
    del skipped[_OWN.name]  # these frames are the same in every traceback
    if count := skipped.total():
        names = ", ".join(sorted(+skipped))
        text += f"\n({count} frames of {names} are left out: level DEBUG of aiorpc.worker has them)"
    return text


def _shorten(
    shown: traceback.TracebackException, home: Path | None, skipped: Counter[str], seen: set[int]
) -> None:
    """Drop the frames of libraries from *shown* and its causes, and count them in *skipped*."""
    if id(shown) in seen:
        return
    seen.add(id(shown))
    kept = traceback.StackSummary()
    for frame in shown.stack:
        library = _library_of(frame.filename, home)
        if library is None:
            kept.append(frame)
        else:
            skipped[library] += 1
    # Without a stack, Python formats only the type and the text of the error.
    shown.stack = kept or None  # type: ignore[assignment]
    for inner in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        if inner is not None:
            _shorten(inner, home, skipped, seen)


def _home_of(service_cls: type) -> Path | None:
    """Return the directory of the top-level package of *service_cls*, or the file of its module."""
    top = sys.modules.get(service_cls.__module__.partition(".")[0])
    file = getattr(top, "__file__", None)
    if file is None:
        return None
    return Path(file).parent if hasattr(top, "__path__") else Path(file)


@lru_cache(maxsize=1024)  # a service that fails often asks for the same files
def _library_of(filename: str, home: Path | None) -> str | None:
    """Return the name of the library of a file; ``None`` for the service's own code."""
    file = Path(filename)
    if home is not None and (file == home or home in file.parents):
        return None
    if _OWN in file.parents:
        return _OWN.name
    for index, part in enumerate(file.parts[:-1]):
        if part in _INSTALLED:
            return file.parts[index + 1].removesuffix(".py")
    if _STDLIB in file.parents or filename.startswith("<frozen"):
        return "Python"
    if filename.startswith("<sqlalchemy"):
        return "sqlalchemy"
    return file.parts[0] if file.suffix == ".pyx" else None
