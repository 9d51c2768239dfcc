"""Runs every code block of the README and of the documentation; :class:`Reader` says how."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .markdown import PAGES, Block, blocks_of, page_id
from .runner import Reader

WITH_CODE = [page for page in PAGES if blocks_of(page)]
#: Blocks that Sphinx reads and checks: directives, and diagrams.
DIRECTIVES = ("{", "mermaid")


@pytest.mark.parametrize("page", WITH_CODE, ids=page_id)
async def test_the_code_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with Reader(page, tmp_path) as reader:
        for block in blocks_of(page):
            if block.not_run is None and not block.language.startswith(DIRECTIVES):
                await reader.follow(block)
        unused = set(reader.written) - reader.used
        assert not unused, f"{page.name} writes {unused}, and no block imports or runs them"


# Tests of the tests: they find a page that is wrong.

#: Language, code, and text of the error.
WRONG = {
    "a value in a comment": ("python", "1 + 1  # 3\n", "the page says 3, it is 2"),
    "a value deeper down": ("python", "if True:\n    f = str\n    f(1)  # '2'\n", "it is '1'"),
    "an exception": ("python", "raise ValueError('boom')\n", "boom"),
    "an awaited exception": ("python", "async def f(): 1 / 0\nawait f()\n", "division by zero"),
    "a file nobody uses": ("python", "# unused.py\n", "no block imports or runs"),
    "a file that fails": ("python", "# a.py\n1 / 0\n```\n```sh\npython a.py\n", "by zero"),
    "a failing test": (
        "python",
        "# test_a.py\ndef test_a(): assert 0\n```\n```sh\npytest test_a.py\n",
        "1 failed",
    ),
    "a test without the mode it needs": (
        "python",
        "# test_a.py\nasync def test_a(): ...\n```\n```sh\npytest test_a.py\n",
        "async def functions are not natively supported",
    ),
    "a configuration without a name": ("ini", "[pytest]\n", "which file is it"),
    "output": ("python", "print(1)\n```\n```text\n2\n", "and the page says"),
    "a command": ("sh", "aiorpc walk\n", "there is no command 'walk'"),
    "a command in a transcript": ("text", "$ aiorpc walk\n", "there is no command 'walk'"),
    "an option": ("sh", "aiorpc run services.web --sideways\n", "--sideways"),
    "a make target": ("sh", "make tea\n", "no target tea"),
    "a program": ("sh", "rm -r x\n", "what is 'rm'"),
    "the wrong project": ("sh", "pip install aiorpc\n", "that is another project"),
    "an extra": ("sh", "pip install 'aiorpc-amqp[tea]'\n", "no extra 'tea'"),
    "a key": ("yaml", "AMQP_URL: amqp://localhost/\n", "did you mean AMQP_URI"),
    "a name without quotes": ("json", "{a: 1}\n", "double quotes"),
    "a command of an agent": (
        "json",
        '{"mcpServers": {"tea": {"command": "aiorpc", "args": ["walk"]}}}\n',
        "there is no command 'walk'",
    ),
    "a language": ("tex", "x\n", "no way to test 'tex'"),
}
if sys.version_info < (
    3,
    14,
):  # since then, Python does not evaluate an annotation that nobody reads
    WRONG["an annotation"] = ("python", "def f(x: Any): ...\n", "name 'Any' is not defined")


@pytest.mark.parametrize(("language", "code", "told"), WRONG.values(), ids=WRONG)
async def test_a_wrong_block_is_found(
    language: str, code: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```{language}\n{code}```\n", encoding="utf-8")
    with pytest.raises(Exception, match=told):
        await test_the_code_blocks_of_a_page_run(page, tmp_path, monkeypatch)


async def test_a_block_that_is_not_run_needs_a_reason(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- not run: -->\n\n```python\n1\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="needs a reason"):
        blocks_of(page)


def test_output_belongs_to_the_block_before_and_a_mark_to_the_block_after(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nprint(1)\n```\n\n```text\n1\n```\n\nWords.\n\n```text\na picture\n```\n\n"
        "<!-- not run: it needs a server -->\n\n```sh\naiorpc ls\n```\n",
        encoding="utf-8",
    )
    assert blocks_of(page) == [
        Block(page, 2, "python", "print(1)\n", None, "1\n"),
        Block(page, 12, "text", "a picture\n"),
        Block(page, 18, "sh", "aiorpc ls\n", "it needs a server"),
    ]
