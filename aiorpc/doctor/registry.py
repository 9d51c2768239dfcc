"""
The list of checks, and the decorator that adds one.

A check is an async generator of findings, in one of the files of ``checks/``::

    SLOW = FindingKind(
        "name-slow", Severity.WARNING, why="Each connection waits.", remedy="Cache names."
    )


    @check
    async def names(case: Case) -> AsyncGenerator[Finding]:
        took = await case.resolving()
        if took > 1:
            yield SLOW.found(case.url.host, f"the resolver took {took:.1f} s")

It yields ``ok(...)`` for what it looked at and found in order. It raises ``NotChecked`` for what it
cannot tell; so do the attributes of ``case`` that need a connection or ``--management``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TypeAlias

from .case import Case
from .findings import Finding

__all__ = ["CHECKS", "Check", "check"]

Check: TypeAlias = Callable[[Case], AsyncGenerator[Finding]]

#: All checks in the order of their findings, by name.
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Add *function* to the checks. Its name, with hyphens, is the name of the check."""
    CHECKS[function.__name__.replace("_", "-")] = function
    return function
