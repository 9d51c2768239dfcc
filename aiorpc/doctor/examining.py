"""
Runs all checks at the same time. A check that fails or hangs does not end the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from .case import Case
from .checks import FAMILIES
from .findings import Finding, NotChecked, Severity
from .registry import CHECKS, Check

__all__ = ["examine"]

#: Seconds for one check.
PATIENCE = 20.0


async def examine(case: Case, patience: float = PATIENCE) -> list[Finding]:
    """Return the findings of all checks, in the order of the checks."""
    try:
        found = await asyncio.gather(
            *(_run(name, each, case, patience) for name, each in sorted(CHECKS.items(), key=_place))
        )
    finally:
        await case.aclose()
    return [finding for each in found for finding in each]


def _place(item: tuple[str, Check]) -> int:
    """Return the place of the check's family; checks of one family keep their order."""
    families = [each.__name__ for each in FAMILIES]
    module = item[1].__module__
    return families.index(module) if module in families else len(families)


async def _run(name: str, check: Check, case: Case, patience: float) -> Sequence[Finding]:
    found: list[Finding] = []

    def unknown(subject: str, what: str, remedy: str) -> None:
        found.append(Finding(name, Severity.NOT_CHECKED, subject, what, remedy=remedy))

    try:
        async with asyncio.timeout(patience), aclosing(check(case)) as findings:
            async for each in findings:
                if not each.name:
                    each = msgspec.structs.replace(each, name=name)
                found.append(each)  # one by one: those before an error count
    except NotChecked as error:
        unknown(error.subject, str(error), error.remedy)
    except TimeoutError:
        unknown("", f"the check did not end within {patience:g} s", "try again; see other findings")
    except Exception as error:  # noqa: BLE001 - a fault of one check must not hide the others
        text = f"the check failed: {type(error).__name__}: {error}"
        unknown("", text, "report this to the developers of aiorpc")
    return found
