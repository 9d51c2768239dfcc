"""Checks of clocks. Awaits the management API."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from ...exceptions import AioRpcError
from ..case import USE_MANAGEMENT, Case
from ..findings import Finding, FindingKind, NotChecked, Severity, ok
from ..registry import check

__all__ = ["skew"]

SKEW = FindingKind(
    "clock-skew",
    Severity.ERROR,
    why="Deadlines travel as times of day. A service whose clock is ahead answers in-time calls "
    "with RpcTimeout; one that is behind works for callers that have given up.",
    remedy="Synchronise the clocks of all hosts (chrony, systemd-timesyncd).",
)


def skew(case: Case, subject: str, ahead: float, exact_to: float) -> Finding:
    """Judge a clock that is *ahead* seconds ahead of ours, to so many seconds."""
    tolerance = case.settings.clock_tolerance
    direction = "ahead of" if ahead > 0 else "behind"
    text = f"its clock is {abs(ahead):.1f} s {direction} the clock here (to {exact_to:.1f} s)"
    if abs(ahead) - exact_to > tolerance:
        return SKEW.found(subject, f"{text}; CLOCK_TOLERANCE is {tolerance:g} s")
    if abs(ahead) - exact_to > tolerance / 2:
        return SKEW.found(subject, text, severity=Severity.WARNING)
    return ok(subject, text)


@check
async def clock(case: Case) -> AsyncGenerator[Finding]:
    management = case.management
    try:
        ahead, exact_to = await management.ahead()
    except AioRpcError as error:
        raise NotChecked(str(error), USE_MANAGEMENT) from None
    yield skew(case, management.url, ahead, exact_to)
