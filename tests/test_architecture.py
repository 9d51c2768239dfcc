"""The walls of the house, read from the code itself: a broken one names the file that broke it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiorpc

ROOT = Path(aiorpc.__file__).parent
#: From the ground up. Imports go down; rooms on one floor do not import one another, but for those
#: that stand in one line, from left to right: the right one may import the left.
FLOORS: list[list[str]] = [
    ["context", "exceptions"],
    ["config", "call", "timers", "from_thread"],
    ["wire", "middleware"],
    ["transports"],
    ["extensions"],
    ["calling"],
    ["entrypoints", "dependencies", "hosting"],
    ["sync", "__init__", "sqlalchemy", "testing", "cli"],
    ["__main__"],
]
STACKED = {
    *("sync", "__init__", "sqlalchemy", "testing", "cli"),
}
FLOOR = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}
FILES = {
    path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.rglob("*.py"))
}


def room(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imports(path: Path, tree: ast.Module) -> Iterator[tuple[str, ...]]:
    """What *path* imports of aiorpc, wherever the import stands (functions, TYPE_CHECKING too)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = path.parts[: len(path.parts) - node.level]
            module = tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                yield (*package, *module, alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "aiorpc":
            for alias in node.names:
                yield (*(node.module or "").split(".")[1:], alias.name)


def module_of(target: tuple[str, ...]) -> Path | None:
    """The file behind an imported name."""
    for length in range(len(target), -1, -1):
        base = Path(*target[:length])
        for candidate in (base.with_suffix(".py") if length else None, base / "__init__.py"):
            if candidate in FILES:
                return candidate
    return None


EDGES = {
    path: {
        found
        for target in imports(path, tree)
        if (found := module_of(target)) is not None and found != path
    }
    for path, tree in FILES.items()
}


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in FILES} <= set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_down(path: Path) -> None:
    own = room(path)
    for target in EDGES[path]:
        other = room(target)
        if other in {own, "__init__"} and own != "__init__":
            continue
        same_floor = FLOOR[other] == FLOOR[own] and {own, other} <= STACKED
        assert FLOOR[other] < FLOOR[own] or same_floor, f"{path} imports {target}"


def test_no_import_circle() -> None:
    """Counting imports for type checkers too."""
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        assert path not in trail, " -> ".join(map(str, (*trail[trail.index(path) :], path)))
        if path not in done:
            for target in EDGES[path]:
                visit(target, (*trail, path))
            done.add(path)

    for path in FILES:
        visit(path, ())


def test_entrypoints_dependencies_and_hosting_meet_only_at_extensions() -> None:
    family = {"entrypoints", "dependencies", "hosting"}
    for path, targets in EDGES.items():
        if room(path) in family:
            assert not {room(target) for target in targets} & (family - {room(path)}), path


def third_parties(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_only_the_amqp_transport_knows_aio_pika() -> None:
    for path, tree in FILES.items():
        if third_parties(tree) & {"aio_pika", "aiormq", "pamqp"}:
            assert path.parts[:2] == ("transports", "amqp"), path


def test_nobody_publishes_or_settles_past_the_hot_path() -> None:
    """The tags of confirms are counted by us: what aiormq sent itself would shift them."""
    aiormqs = {"basic_publish", "basic_ack", "basic_nack", "basic_reject", "default_exchange"}
    for path, tree in FILES.items():
        called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not called & aiormqs, path


def test_optional_third_parties_stay_in_their_leaf() -> None:
    leaves = {
        "sqlalchemy": {"sqlalchemy", "testing"},
        "marshmallow": {"sqlalchemy"},
        "marshmallow_sqlalchemy": {"sqlalchemy"},
        "typer": {"cli"},
        "rich": {"cli"},
        "pytest": {"testing", "sqlalchemy"},
    }
    for path, tree in FILES.items():
        for name in third_parties(tree) & set(leaves):
            assert room(path) in leaves[name], f"{path} imports {name}"


@pytest.mark.parametrize("own", ["wire", "call", "context", "exceptions", "config"])
def test_protocol_and_values_never_await(own: str) -> None:
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)
    for path, tree in FILES.items():
        if room(path) == own:
            assert not any(isinstance(node, waits) for node in ast.walk(tree)), path


def test_face_equals_all() -> None:
    modules = {room(path) for path in FILES} | {"annotations"}
    # "@": what pytest's rewriting of assertions adds
    public = {name for name in vars(aiorpc) if not name.startswith(("_", "@"))} - modules
    assert public | {"__version__"} == set(aiorpc.__all__)


def test_import_is_lean() -> None:
    """``import aiorpc`` pulls in no command line, no database, no broker client."""
    import subprocess
    import sys

    heavy = {"typer", "rich", "sqlalchemy", "starlette", "pytest", "aio_pika", "yaml"}
    code = f"import sys, aiorpc; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == "[]"


def test_rooms_are_small() -> None:
    for path in FILES:
        lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
        assert lines <= 500, f"{path} has {lines} lines: split it by what it is responsible for"
