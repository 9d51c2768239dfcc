"""What `make release` makes: the version from one place, the changelog's section, both packages."""

from __future__ import annotations

import importlib.util
import re
import tarfile
import tomllib
from pathlib import Path

import pytest

import aiorpc
from tests.support import release
from tests.support.files import REPOSITORY

CHANGELOG = """# Changelog

## [Unreleased]

- coming

## [1.1.0] - 2026-11-30

### Added

- second

## [1.0.0] - 2026-01-01

- first
"""


def test_a_section_of_the_changelog_ends_at_the_next_heading() -> None:
    assert release.section(CHANGELOG, "1.1.0") == "### Added\n\n- second"
    assert release.section(CHANGELOG, "1.0.0") == "- first"
    assert release.section(CHANGELOG, "1.2.0") == ""


def test_before_its_section_exists_a_version_has_the_notes_of_the_next_one() -> None:
    assert release.notes(CHANGELOG) == "- coming"
    assert release.notes((REPOSITORY / "CHANGELOG.md").read_text())


def test_the_version_is_written_in_one_place() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "aiorpc/__init__.py"
    written = re.compile(
        rf"^\W*_*version_*\W*=\W*{re.escape(aiorpc.__version__)}\W*$", re.MULTILINE
    )
    files = [*(REPOSITORY / "aiorpc").rglob("*.py"), REPOSITORY / "docs" / "conf.py"]
    found = [
        str(path.relative_to(REPOSITORY)) for path in files if written.search(path.read_text())
    ]
    assert found == ["aiorpc/__init__.py"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("build") is None, reason="make release installs build")
def test_the_packages_pass_their_checks_and_the_sdist_has_the_tests(tmp_path: Path) -> None:
    sdist, wheel = release.packages(tmp_path)
    assert wheel.name == f"aiorpc_amqp-{aiorpc.__version__}-py3-none-any.whl"
    if all(importlib.util.find_spec(each) for each in ("twine", "check_wheel_contents")):
        release.check(sdist, wheel)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CHANGELOG.md", "SECURITY.md", "LICENSE", "docs/index.md", "PKG-INFO"} <= names
    assert {"tests/testing/test_release.py", "aiorpc/py.typed"} <= names
    release.write_hashes(tmp_path)
    assert len((tmp_path / "SHA256SUMS").read_text().splitlines()) == 2
