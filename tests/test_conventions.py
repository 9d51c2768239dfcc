"""What holds for the tests themselves, read from their source. CONTRIBUTING.md says why."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import aiorpc
from tests.support.files import REPOSITORY

TESTS = REPOSITORY / "tests"
FILES = {
    path.relative_to(TESTS): path.read_text(encoding="utf-8")
    for path in sorted(TESTS.rglob("*.py"))
    if path != Path(__file__)
}
#: Folders that test the whole, or hold what tests need; every other folder is named as in aiorpc.
OF_THE_WHOLE = {"chaos", "data", "docs", "foreign", "nameko", "servers"} | {
    "once",
    "services",
    "simulation",
    "support",
    "typing",
}


def test_folders_mirror_the_source() -> None:
    source = Path(aiorpc.__file__).parent
    for path in FILES:
        folder = path.parts[0]
        if len(path.parts) > 1 and folder not in OF_THE_WHOLE:
            assert (source / folder).is_dir(), f"{path}: there is no aiorpc/{folder}"


#: What an import of a test module begins with. Only files with such text are parsed.
RELATIVE_OR_OF_A_TEST = re.compile(r"^\s*from (\.|\S*\btest_)", re.MULTILINE)


def test_no_test_module_imports_another() -> None:
    """What two of them need is in tests/support: a change of one test cannot break another."""
    wrong = []
    for path, text in FILES.items():
        tree = ast.parse(text if RELATIVE_OR_OF_A_TEST.search(text) else "")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                modules = names if node.level else names[: len((node.module or "").split("."))]
                local = node.level or modules[0] == "tests"
                if local and any(name.startswith("test_") for name in modules):
                    wrong.append(f"{path}:{node.lineno}")
    assert wrong == []


SLEEP = re.compile(r"(?<![\w.])(?:asyncio|time)\.sleep\(([\d.]+)\)")


def test_a_sleep_has_its_reason_beside_it() -> None:
    """Sleeping for 0 s lets other tasks run, and 30 s or more stands for work that never ends."""
    unexplained = []
    for path, text in FILES.items():
        if path.parts[0] == "simulation":
            continue  # in virtual time
        lines = text.splitlines()
        for number, line in enumerate(lines):
            for seconds in SLEEP.findall(line):
                explained = "#" in line or lines[number - 1].strip().startswith("#")
                if 0 < float(seconds) < 30 and not explained:
                    unexplained.append(f"{path}:{number + 1} {line.strip()}")
    assert unexplained == []


def test_comments_for_a_type_checker_stand_where_one_reads() -> None:
    """mypy and pyright read tests/typing alone."""
    for path, text in FILES.items():
        if path.parts[0] != "typing":
            assert "# type: ignore" not in text, path
            assert "# pyright: ignore" not in text, path


def test_the_mark_alone_stands_in_the_file_of_the_test() -> None:
    """The Makefile looks for it there."""
    marked = [path for path, text in FILES.items() if "mark.alone" in text]
    assert marked
    assert [path for path in marked if not path.name.startswith("test_")] == []


NAMED = re.compile(r"`(tests/\S+)::(\w+)`")


def test_every_test_that_the_docs_name_exists() -> None:
    for page in sorted((REPOSITORY / "docs").rglob("*.md")):
        for file, test in NAMED.findall(page.read_text(encoding="utf-8")):
            text = (REPOSITORY / file).read_text(encoding="utf-8")
            assert f"def {test}(" in text, f"{page.name} names {test}, which {file} has not"
