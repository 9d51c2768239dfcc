"""
Makes the table of the doctor's findings in ``doctor.md`` from the code::

    python docs/findings.py             write it
    python docs/findings.py --check     print whether it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from aiorpc.doctor.checks import FAMILIES
from aiorpc.doctor.findings import KINDS, FindingKind

PAGE = Path(__file__).with_name("doctor.md")
BEGIN = "<!-- findings: made by docs/findings.py -->\n"
END = "<!-- end of findings -->\n"


def kinds() -> list[FindingKind]:
    """Return all kinds, in the order of the checks."""
    ordered = [
        value
        for family in FAMILIES
        for value in vars(family).values()
        if isinstance(value, FindingKind)
    ]
    assert {each.name for each in ordered} == {*KINDS}
    return list(dict.fromkeys(ordered))


def table() -> str:
    """Return the table in Markdown."""
    rows = [
        f"| `{each.name}` | {each.severity.value} | {each.why} | {each.remedy} |"
        for each in kinds()
    ]
    head = ["| Finding | Severity | Why it matters | What to do |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows]).replace("*", r"\*") + "\n"


def page() -> str:
    """Return the page with the table of today."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    assert rest, f"{PAGE.name} has no line {BEGIN}"
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        fresh = page() == PAGE.read_text(encoding="utf-8")
        print("up to date" if fresh else "out of date: run python docs/findings.py")
        sys.exit(not fresh)
    PAGE.write_text(page(), encoding="utf-8")
