"""How checks run: one that fails or hangs does not end the others. Names of findings."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from aiorpc.config import resolve
from aiorpc.doctor.case import Case
from aiorpc.doctor.examining import examine
from aiorpc.doctor.findings import KINDS, Finding, NotChecked, Severity, ok, worst
from aiorpc.doctor.registry import CHECKS, check
from tests.support.files import REPOSITORY


@pytest.fixture
def only() -> Iterator[None]:
    """Without the checks of the doctor, but with those of the test."""
    all_checks = dict(CHECKS)
    CHECKS.clear()
    yield
    CHECKS.clear()
    CHECKS.update(all_checks)


def case() -> Case:
    return Case(resolve("memory://"))


@pytest.mark.usefixtures("only")
async def test_a_check_that_fails_does_not_end_the_others() -> None:
    @check
    async def fails(case: Case) -> AsyncGenerator[Finding]:
        yield ok("before", "is kept")
        raise ValueError("no such thing")

    @check
    async def works(case: Case) -> AsyncGenerator[Finding]:
        yield ok("it", "works")

    before, failed, fine = await examine(case())
    assert (before.name, before.severity) == ("fails", Severity.OK)
    assert (failed.name, failed.severity) == ("fails", Severity.NOT_CHECKED)
    assert failed.what == "the check failed: ValueError: no such thing"
    assert (fine.name, fine.subject, fine.severity) == ("works", "it", Severity.OK)


@pytest.mark.usefixtures("only")
async def test_a_check_that_hangs_is_ended_and_does_not_end_the_others() -> None:
    ended = asyncio.Event()

    @check
    async def hangs_for_ever(case: Case) -> AsyncGenerator[Finding]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        yield ok("", "")

    @check
    async def works(case: Case) -> AsyncGenerator[Finding]:
        yield ok("it", "works")

    hung, fine = await examine(case(), patience=0.01)
    assert ended.is_set()
    assert (hung.name, hung.severity) == ("hangs-for-ever", Severity.NOT_CHECKED)
    assert fine.severity is Severity.OK


@pytest.mark.usefixtures("only")
async def test_a_fact_is_asked_for_once_and_survives_the_end_of_its_first_check() -> None:
    asked, told = 0, asyncio.Event()

    async def ask() -> str:
        nonlocal asked
        asked += 1
        await told.wait()
        return "the fact"

    @check
    async def impatient(case: Case) -> AsyncGenerator[Finding]:
        async with asyncio.timeout(0.01):
            yield ok("", await case.once("fact", ask))

    @check
    async def patient(case: Case) -> AsyncGenerator[Finding]:
        asyncio.get_running_loop().call_later(0.05, told.set)
        yield ok("", await case.once("fact", ask))

    _, fine = await examine(case())
    assert fine.what == "the fact"
    assert asked == 1


@pytest.mark.usefixtures("only")
async def test_a_check_that_cannot_tell_says_what_to_do() -> None:
    @check
    async def cannot_tell(case: Case) -> AsyncGenerator[Finding]:
        raise NotChecked("needs a key", "give it one", "the lock")
        yield

    (found,) = await examine(case())
    assert found == Finding(
        "cannot-tell", Severity.NOT_CHECKED, "the lock", "needs a key", remedy="give it one"
    )


async def test_in_one_process_there_is_no_server_to_look_at() -> None:
    findings = await examine(case())
    assert {each.severity for each in findings} == {Severity.OK, Severity.NOT_CHECKED}
    assert not [each for each in findings if "the check failed" in each.what]


def test_names_of_findings_and_checks_are_words_with_hyphens_and_differ() -> None:
    for name in (*KINDS, *CHECKS):
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name), name
    assert not {*KINDS} & {*CHECKS}


def test_each_kind_says_why_and_what_to_do_in_sentences() -> None:
    for kind in KINDS.values():
        for text in (kind.why, kind.remedy):
            assert text[0].isupper() or text.startswith(("aiorpc", "alembic")), kind.name
        assert kind.why.endswith("."), kind.name


def test_the_worst_severity_is_that_of_the_report() -> None:
    def of(severity: Severity) -> Finding:
        return Finding("x", severity, "", "")

    assert worst([]) is Severity.OK
    assert worst([of(Severity.NOTE), of(Severity.OK)]) is Severity.NOTE
    assert worst([of(Severity.WARNING), of(Severity.NOT_CHECKED)]) is Severity.WARNING
    assert worst([of(Severity.WARNING), of(Severity.ERROR), of(Severity.OK)]) is Severity.ERROR


def test_each_kind_of_finding_has_a_test() -> None:
    tests = [*Path(__file__).parent.glob("*.py"), REPOSITORY / "tests/cli/commands/test_doctor.py"]
    text = "".join(path.read_text(encoding="utf-8") for path in tests)
    assert [name for name in KINDS if f'"{name}"' not in text] == []
