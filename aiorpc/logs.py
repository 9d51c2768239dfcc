"""
The loggers of aiorpc, the one function that escapes and cuts text from outside, and the one that
writes how many there are of a thing. No I/O of its own.

A name or an error of a peer may hold line breaks. Unescaped, it could write lines into a log that
look like lines of the program.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

__all__ = ["counted", "indented", "logger", "named", "one_line"]

#: Characters of a log line, or of an error's text, that are shown.
MOST = 2000


def one_line(text: str, most: int = MOST) -> str:
    """Return *text* with line breaks and control characters escaped, cut to *most* characters."""
    if len(text) > most:
        text = f"{text[:most]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def counted(number: int, word: str) -> str:
    """Return *number* and *word*: ``1 message``, ``1,000 messages``, ``2 addresses``."""
    plural = f"{word}es" if word.endswith("s") else f"{word}s"
    return f"{number:,} {word if number == 1 else plural}"


def logger(name: str) -> logging.Logger:
    """Return the logger *name*, whose records are one line each, except for tracebacks."""
    found = logging.getLogger(name)
    found.addFilter(_escape)  # a second time, this does nothing
    return found


def named(service: str, method: str = "") -> dict[str, str]:
    """
    Return the ``extra`` of a line about *service* outside of a call, for formatters of JSON. For
    lines inside a call, see :class:`aiorpc.CallLogFilter`.
    """
    return {"service": service, "method": method}


def _escape(record: logging.LogRecord) -> bool:
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - logging reports an argument whose __str__ raises
        return True
    escaped = one_line(message)
    if escaped is not message:
        record.msg, record.args = escaped, None
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = indented(record.exc_info[1], record.exc_text)
    return True


def indented(
    error: BaseException, text: str | None, change: Callable[[str], str] = str
) -> str | None:
    """
    Return the traceback of *error* with later lines of its texts indented. Return *text* if there
    are none; *text* is the traceback, or ``None`` for Python's. It has the texts after *change*.
    """
    broken = {own for each in _chain(error) if not (own := change(_text_of(each))).isprintable()}
    if not broken:
        return text
    text = text or logging.Formatter().formatException((type(error), error, error.__traceback__))
    for each in sorted(broken, key=len, reverse=True):
        text = text.replace(each, "\n    | ".join(map(one_line, each[: 5 * MOST].splitlines())))
    return text


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield *error* and the errors that its traceback shows."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += each.__cause__, each.__context__
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a __str__ may raise anything
        return ""
