"""The terminal transcripts in ``docs/cli.md`` are what the commands print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from aiorpc.cli.output import ExitCode

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.mark.alone  # `aiorpc ls` shows every service on the broker
@pytest.mark.long
@pytest.mark.timeout(180)
def test_transcripts_are_up_to_date(rabbitmq_uri: str) -> None:
    done = subprocess.run(
        [sys.executable, DOCS / "transcripts.py", rabbitmq_uri, "--check"],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nrun docs/transcripts.py {{URL}}"


def test_the_page_has_every_exit_code() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == list(ExitCode)
