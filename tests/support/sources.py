"""The source files of aiorpc as text and as syntax trees. Read and parsed once in a process."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

import aiorpc

__all__ = ["ROOT", "Source", "sources"]

ROOT = Path(aiorpc.__file__).parent


@dataclass
class Source:
    """A file: its text, its syntax tree, and all nodes of the tree."""

    text: str
    tree: ast.Module
    nodes: list[ast.AST]


@functools.cache
def sources() -> dict[Path, Source]:
    """The files of aiorpc by their path below `ROOT`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        found[path.relative_to(ROOT)] = Source(text, tree, [*ast.walk(tree)])
    return found
