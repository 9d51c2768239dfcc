"""
Checks the names and the values of arguments of public functions and classes, so that each error
names the argument, what it must be, and what it is. Pure functions; imports only floor 1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from .context import EMPTY
from .exceptions import ConfigurationError, likely

__all__ = [
    "COUNT",
    "FLAG",
    "MAPPING",
    "MIDDLEWARE",
    "MOMENT",
    "NAME",
    "PRIORITY",
    "SECONDS",
    "SHORT_TEXT",
    "STRINGS",
    "TEXT",
    "TIMEOUT",
    "Kind",
    "check",
    "check_middleware",
    "check_names",
    "optional",
    "shown",
]

#: Characters of a wrong value that an error shows.
_SHOWN = 60


class Kind(NamedTuple):
    """What a value must be: *fits* decides, and *text* completes "must be ..."."""

    fits: Callable[[Any], bool]
    text: str


def _is_short(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value.encode()) <= 255
    except UnicodeEncodeError:
        return False


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and value == value  # not NaN


FLAG = Kind(lambda value: isinstance(value, bool), "True or False")
TEXT = Kind(lambda value: isinstance(value, str), "a str")
SHORT_TEXT = Kind(_is_short, "a str of at most 255 bytes")
NAME = Kind(lambda value: value != "" and _is_short(value), "a name, a str of 1 to 255 bytes")
MOMENT = Kind(lambda value: isinstance(value, datetime), "a datetime")
MAPPING = Kind(
    lambda value: isinstance(value, Mapping) and all(isinstance(key, str) for key in value),
    "a mapping whose keys are str",
)
STRINGS = Kind(
    lambda value: (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(each, str) for each in value)
    ),
    "a list of str",
)
MIDDLEWARE = Kind(
    lambda value: isinstance(value, Sequence) and all(map(callable, value)), "a list of functions"
)
COUNT = Kind(lambda value: type(value) is int and value >= 1, "a whole number of at least 1")
PRIORITY = Kind(
    lambda value: type(value) is int and 0 <= value <= 255, "a whole number from 0 to 255"
)
SECONDS = Kind(lambda value: _is_number(value) and value > 0, "a number of seconds above 0")
TIMEOUT = Kind(
    lambda value: value is None or _is_number(value), "a number of seconds, or None for no limit"
)


def optional(kind: Kind) -> Kind:
    """Return a kind that ``None`` fits too."""
    return Kind(lambda value: value is None or kind.fits(value), f"{kind.text}, or None")


def check(owner: str, given: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """
    Check the values in *given*, which are arguments of *owner*, by their *kinds*.

    Raises:
        ConfigurationError: a value is something else.
    """
    for name, value in given.items():
        kind = kinds[name]
        if not kind.fits(value):
            raise ConfigurationError(f"{name} of {owner} must be {kind.text}, got {shown(value)}")


def shown(value: Any) -> str:
    """Return *value* as an error shows it, with its type; only the type of other values."""
    name = type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"{value[:_SHOWN]!r}... ({name} of {len(value)} characters)"
    simple = (
        isinstance(value, float | str)
        or (isinstance(value, int) and abs(value) < 1 << 64)
        or (isinstance(value, list) and STRINGS.fits(value) and len(repr(value)) <= _SHOWN)
    )
    return f"{value!r} ({name})" if simple else f"a value of type {name}"


def check_names(
    owner: str, given: Iterable[str], known: Collection[str], remedies: Mapping[str, str] = EMPTY
) -> None:
    """
    Check that *owner*, a function or class, has all options in *given*.

    Args:
        remedies: what to write instead of an option, by its name.

    Raises:
        TypeError: an option is not *known*; the text names the nearest one, or the remedy.
    """
    for name in given:
        if name not in known:
            remedy = remedies.get(name)
            hint = likely(name, known) if remedy is None else f": {remedy}"
            raise TypeError(
                f"{owner} has no option {name!r}{hint}. Its options: {', '.join(sorted(known))}"
            )


def check_middleware(owner: str, given: Any) -> None:
    """
    Check the argument ``middleware`` of *owner*.

    Raises:
        ConfigurationError: *given* is no list or tuple of functions.
    """
    if not MIDDLEWARE.fits(given):
        several = isinstance(given, Sequence)
        wrong = next(each for each in given if not callable(each)) if several else given
        raise ConfigurationError(
            f"middleware of {owner} must be {MIDDLEWARE.text}, got {shown(wrong)}: write "
            "middleware=[function]"
        )
