"""Reads the code blocks and tables of Markdown pages. Runs nothing."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_NOT_RUN = re.compile(r"<!--\s*not run:\s*(?P<reason>.*?)\s*-->", re.DOTALL)
_FILE_NAME = re.compile(r"# (?P<name>[\w/]+\.py)(?:[ ,:(].*)?")


@dataclass(frozen=True)
class Block:
    """One fenced block of code."""

    page: Path
    #: The number of its first line of code, from 1.
    line: int
    language: str
    code: str
    #: The reason in the comment that says not to run it; ``None``: it is run.
    not_run: str | None = None
    #: Its output: the ``text`` block that follows directly.
    output: str | None = None

    @property
    def place(self) -> str:
        return f"{os.path.relpath(self.page, ROOT)}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """The file name in the first line, such as ``# greetings.py``."""
        first = self.code.partition("\n")[0]
        match = _FILE_NAME.fullmatch(first)
        return match["name"] if match and self.language == "python" else None


def page_id(page: Path) -> str:
    return os.path.relpath(page.with_suffix(""), ROOT)


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of *page* in order, each with the block of its output."""
    blocks: list[Block] = []
    not_run: str | None = None
    adjacent = False
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block" and (mark := _NOT_RUN.search(token.content)):
            assert mark["reason"], f"{page.name}: a block that is not run needs a reason"
            not_run = mark["reason"]
        elif token.type == "fence":
            assert token.map is not None
            language = token.info.strip()
            if language == "text" and adjacent and not_run is None:
                last = blocks.pop()
                blocks.append(
                    Block(last.page, last.line, last.language, last.code, None, token.content)
                )
                adjacent = False
            else:
                blocks.append(Block(page, token.map[0] + 2, language, token.content, not_run))
                adjacent = language in {"python", "sh"} and not_run is None
            not_run = None
        elif token.level == 0 and token.nesting >= 0:
            adjacent = False
    return blocks


def table_rows(page: Path) -> list[list[str]]:
    """Return the cells of every table row of *page*, unchanged."""
    rows = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not set(line) <= set("| -:"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            rows.append([cell.strip().replace(r"\|", "|") for cell in cells])
    return rows
