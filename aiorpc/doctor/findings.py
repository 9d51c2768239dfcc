"""
What the doctor says: a finding, its kind and its severity. Values only.

A kind has the stable name of a finding, its severity, why it matters and what to do. It is made
once, beside the check that finds it. ``docs/doctor.md`` lists all kinds.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

__all__ = [
    "KINDS",
    "Finding",
    "FindingKind",
    "NotChecked",
    "Severity",
    "not_checked",
    "ok",
    "worst",
]


class Severity(enum.StrEnum):
    """How bad a finding is, from the mildest to the worst."""

    OK = "ok"
    NOTE = "note"
    NOT_CHECKED = "not checked"
    WARNING = "warning"
    ERROR = "error"


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    One line of the doctor.

    Attributes:
        name: of the kind; for ``ok`` and ``not checked``, of the check.
        subject: what the finding is about: a queue, an address, a database.
        what: what the check found there.
        why: why it matters.
        remedy: what to do.
        commands: for a shell, in order, if the remedy has commands.
    """

    name: str
    severity: Severity
    subject: str
    what: str
    why: str = ""
    remedy: str = ""
    commands: Sequence[str] = ()


class FindingKind:
    """One kind of finding. See :class:`Finding`."""

    def __init__(self, name: str, severity: Severity, *, why: str, remedy: str) -> None:
        assert name not in KINDS, name
        self.name = name
        self.severity = severity
        self.why = why
        self.remedy = remedy
        KINDS[name] = self

    def found(
        self,
        subject: str,
        what: str,
        *,
        remedy: str | None = None,
        severity: Severity | None = None,
        commands: Sequence[str] = (),
    ) -> Finding:
        """Return a finding about *subject*, with another remedy or severity if one is given."""
        return Finding(
            self.name,
            self.severity if severity is None else severity,
            subject,
            what,
            self.why,
            self.remedy if remedy is None else remedy,
            commands,
        )


#: All kinds, by name.
KINDS: dict[str, FindingKind] = {}


def ok(subject: str, what: str) -> Finding:
    """Return that *subject* is as it should be. The name of the check is added later."""
    return Finding("", Severity.OK, subject, what)


def not_checked(subject: str, what: str, remedy: str) -> Finding:
    """Return that the check cannot judge *subject*, and continues. See :class:`NotChecked`."""
    return Finding("", Severity.NOT_CHECKED, subject, what, remedy=remedy)


class NotChecked(Exception):
    """
    A check cannot tell, and ends.

    Args:
        what: what is not checked, and why.
        remedy: how to have it checked.
        subject: what it is about.
    """

    def __init__(self, what: str, remedy: str = "", subject: str = "") -> None:
        super().__init__(what)
        self.remedy = remedy
        self.subject = subject


def worst(findings: Sequence[Finding]) -> Severity:
    """Return the worst severity of *findings*."""
    order = list(Severity)
    return max((each.severity for each in findings), key=order.index, default=Severity.OK)
