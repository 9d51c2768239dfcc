"""The tree of errors: what the docstring draws, what is raised, what users can import."""

from __future__ import annotations

import ast
import builtins
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiorpc
from aiorpc import exceptions
from tests.support.sources import sources

ERRORS = {
    name: error
    for name in exceptions.__all__
    if isinstance(error := getattr(exceptions, name), type)
}
FAMILIES = {"AioRpcError", "BadRequest", "RpcError"}


def drawn() -> dict[str, str]:
    """The tree of the module's docstring: each error's name, and its parent's."""
    parents: dict[str, str] = {}
    trail: list[str] = []
    for line in (exceptions.__doc__ or "").splitlines():
        before, branch, after = line.partition("── ")
        if branch:
            depth = len(before) // 4
            name = after.split()[0]
            parents[name] = trail[depth - 1]
            trail[depth:] = [name]
        elif line.strip() == "AioRpcError":
            trail = [line.strip()]
    return parents


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    bases = {name: error.__bases__[0].__name__ for name, error in ERRORS.items()}
    assert drawn() == {name: base for name, base in bases.items() if name != "AioRpcError"}


def test_every_error_can_be_imported_from_the_face() -> None:
    assert set(ERRORS) <= set(aiorpc.__all__)


def test_every_error_is_raised_somewhere() -> None:
    made: set[str] = set()
    for source in sources().values():
        for node in source.nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                made.add(node.func.id)
    assert set(ERRORS) - made - FAMILIES == set()


def raised_by_docstrings() -> Iterator[tuple[Path, str]]:
    """The names in the ``Raises:`` sections, with their file."""
    for path, source in sources().items():
        for node in source.nodes:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                _, _, section = (ast.get_docstring(node) or "").partition("Raises:\n")
                for names in re.findall(r"^    (\w[\w., ]*):", section, re.MULTILINE):
                    yield from ((path, name) for name in names.split(", "))


def test_docstrings_name_only_errors_that_exist() -> None:
    package = "\n".join(source.text for source in sources().values())
    own = set(re.findall(r"^ *class (\w+)", package, re.MULTILINE))
    own |= set(re.findall(r"^([A-Z]\w+)(?: =|: )", package, re.MULTILINE))
    others = {*vars(builtins), "asyncio.CancelledError", "concurrent.futures.CancelledError"}
    others |= {"HTTPException", "ClientDisconnect"}  # Starlette's
    found = list(raised_by_docstrings())
    assert len(found) > 100
    assert not [
        (path, name)
        for path, name in found
        if name not in others and name.split(".")[-1] not in own
    ]


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_survives_pickling(name: str) -> None:
    error = pickle.loads(pickle.dumps(ERRORS[name]("text")))
    assert type(error) is ERRORS[name]
    assert "text" in str(error)
