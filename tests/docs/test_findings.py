"""The page lists the findings of the doctor as the code has them."""

from __future__ import annotations

import runpy

from aiorpc.doctor.findings import KINDS

from .markdown import ROOT, table_rows

SCRIPT = runpy.run_path(str(ROOT / "docs" / "findings.py"))
PAGE = ROOT / "docs" / "doctor.md"


def test_the_page_has_the_findings_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert SCRIPT["page"]() == text, "run: python docs/findings.py"


def test_the_table_has_each_finding_once() -> None:
    names = [row[0].strip("`") for row in table_rows(PAGE) if row[0].strip("`") in KINDS]
    assert sorted(names) == sorted(KINDS)
