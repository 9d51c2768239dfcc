"""
The walls of the house, read from the source: an error names the file that breaks one. They hold for
folders, so a new file in a folder stands between the same walls. Imports nothing but aiorpc's face.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiorpc
from tests.support.sources import Source, sources

#: From the ground up. A room (a folder, or a file beside the folders) imports the floors below its
#: own. Rooms on one floor do not import one another, except those in `STACKED`.
FLOORS: list[list[str]] = [
    ["context", "exceptions", "figures", "logs", "tracebacks"],
    ["config", "call", "checks", "timers", "from_thread", "former_hooks", "blocking"],
    ["wire", "declarations", "installed", "management", "sockets"],
    ["transports"],
    ["extensions"],
    ["calling", "contracts", "guards"],
    ["entrypoints", "dependencies", "hosting"],
    ["http", "mcp", "middleware", "parked"],
    ["admin", "console"],
    ["sync", "__init__", "sqlalchemy", "testing", "doctor", "cli"],
    ["__main__"],
]
STACKED = {
    *("sync", "__init__", "sqlalchemy", "testing", "doctor", "cli"),
}
FLOOR = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}


def room(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imports(path: Path, nodes: list[ast.AST]) -> Iterator[tuple[str, ...]]:
    """What *path* imports of aiorpc, wherever the import stands (functions, TYPE_CHECKING too)."""
    for node in nodes:
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
            if candidate in sources():
                return candidate
    return None


@functools.cache
def edges() -> dict[Path, set[Path]]:
    """The files that each file imports."""
    return {
        path: {
            found
            for target in imports(path, source.nodes)
            if (found := module_of(target)) is not None and found != path
        }
        for path, source in sources().items()
    }


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in sources()} <= set(FLOOR)


def test_contributing_shows_every_room_on_its_floor() -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = {
        int(floor): set(re.findall(r"`(\w+)/?`", rooms))
        for floor, rooms in re.findall(r"^\| (\d+) \| (.*?) \|", text, re.MULTILINE)
    }
    assert shown == {number: set(rooms) for number, rooms in enumerate(FLOORS[:-1], 1)}


def test_imports_go_down() -> None:
    wrong = []
    for path, targets in edges().items():
        own = room(path)
        for target in targets:
            other = room(target)
            if other in {own, "__init__"} and own != "__init__":
                continue
            same_floor = FLOOR[other] == FLOOR[own] and {own, other} <= STACKED
            if not (FLOOR[other] < FLOOR[own] or same_floor):
                wrong.append(f"{path} imports {target}")
    assert wrong == []


def test_no_import_circle() -> None:
    """Counting imports for type checkers too."""
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        assert path not in trail, " -> ".join(map(str, (*trail[trail.index(path) :], path)))
        if path not in done:
            for target in edges()[path]:
                visit(target, (*trail, path))
            done.add(path)

    for path in sources():
        visit(path, ())


def test_entrypoints_dependencies_and_hosting_meet_only_at_extensions() -> None:
    family = {"entrypoints", "dependencies", "hosting"}
    for path, targets in edges().items():
        if room(path) in family:
            assert not {room(target) for target in targets} & (family - {room(path)}), path


def test_commands_import_neither_one_another_nor_the_command_line() -> None:
    """So a process imports the module of its own command only."""
    commands, app = Path("cli/commands"), Path("cli/app.py")
    for path, targets in edges().items():
        if path.parent == commands:
            assert not [each for each in targets if each.parent == commands or each == app], path


def third_parties(source: Source) -> set[str]:
    found = set()
    for node in source.nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_only_the_amqp_transport_imports_amqp_libraries() -> None:
    for path, source in sources().items():
        if third_parties(source) & {"aio_pika", "aiormq", "pamqp"}:
            assert path.parts[:2] == ("transports", "amqp"), path


def test_the_codec_is_values_and_bytes() -> None:
    """It reads and writes frames without I/O, without waiting and without the rooms that do."""
    for path, source in sources().items():
        if path.parts[:2] == ("transports", "codec"):
            assert not third_parties(source) & {"asyncio", "socket", "ssl", "select"}, path
            rooms = {target.parts[:2] for target in edges()[path] if room(target) == "transports"}
            assert rooms <= {("transports", "codec"), ("transports", "__init__.py")}, path


def test_no_transport_has_a_method_that_breaks_its_connection() -> None:
    """Tests do that from outside: ``testing/connections.py`` knows how."""
    hooks = {"drop_connection", "restore_connection", "hold_confirms", "forbid"}
    for path, source in sources().items():
        if room(path) != "testing":
            made = {node.name for node in source.nodes if isinstance(node, ast.FunctionDef)}
            assert not made & hooks, path


def test_no_file_sends_or_acks_by_aiormq() -> None:
    """We count the tags of confirms: a message that aiormq sent itself would shift them."""
    aiormqs = {"basic_publish", "basic_ack", "basic_nack", "basic_reject", "default_exchange"}
    for path, source in sources().items():
        called = {node.attr for node in source.nodes if isinstance(node, ast.Attribute)}
        assert not called & aiormqs, path


def test_optional_third_parties_stay_in_their_leaf() -> None:
    leaves = {
        "sqlalchemy": {"sqlalchemy", "testing"},
        "marshmallow": {"sqlalchemy"},
        "marshmallow_sqlalchemy": {"sqlalchemy"},
        "starlette": {"http", "admin", "console"},
        "cronsim": {"entrypoints"},
        "uvicorn": {"http"},
        "opentelemetry": {"middleware"},
        "prometheus_client": {"middleware"},
        "rich": {"cli"},
        "pytest": {"testing", "sqlalchemy"},
        "mcp": {"mcp"},
        "mcp_types": {"mcp"},
    }
    for path, source in sources().items():
        for name in third_parties(source) & set(leaves):
            assert room(path) in leaves[name], f"{path} imports {name}"


#: The parts of a room whose imports go down too: each may import the parts to the left of it.
INSIDE = {
    "http": [
        *("requirements", "problems", "routes", "requests", "responses", "arguments"),
        *("exchange", "parser", "listener", "server", "entrypoint"),
        *(
            "hangups",
            "item_streams",
            "operations",
            "keys",
            "connection",
            "calls",
            "openapi",
            "page",
        ),
        *("hosted", "gateway"),
        "__init__",
    ],
    "admin": ["app", "server", "__init__"],
    "console": [
        *("gate", "shapes", "live", "describing", "parking", "trying", "app", "server"),
        "__init__",
    ],
    "sqlalchemy": [
        "requirements",
        "engine",
        "holding",
        "session",
        "providers",
        "retry",
        "records",
        "outbox",
        "inbox",
        "idempotency",
        "tables",
        "facts",
        "schemas",
        "__init__",
    ],
}


@pytest.mark.parametrize("own", INSIDE)
def test_imports_go_down_inside_a_room(own: str) -> None:
    floor = {part: number for number, part in enumerate(INSIDE[own])}
    for path, targets in edges().items():
        if room(path) == own:
            mine = path.parts[1].removesuffix(".py")
            for target in targets:
                if room(target) == own:
                    other = target.parts[1].removesuffix(".py")
                    assert floor[other] <= floor[mine], f"{path} imports {target}"


def test_only_the_schemas_know_marshmallow() -> None:
    for path, source in sources().items():
        if third_parties(source) & {"marshmallow", "marshmallow_sqlalchemy"}:
            assert path.parts[:2] == ("sqlalchemy", "schemas"), path


@pytest.mark.parametrize(
    "own",
    [
        *("wire", "transports/codec", "call", "context", "exceptions", "config"),
        *("sqlalchemy/engine/urls", "sqlalchemy/engine/url_arguments"),
        *("sqlalchemy/engine/configuration", "sqlalchemy/schemas/made"),
    ],
)
def test_protocol_and_values_never_await(own: str) -> None:
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)
    mine = [
        path for path in sources() if f"{path.with_suffix('').as_posix()}/".startswith(f"{own}/")
    ]
    assert mine
    for path in mine:
        assert not any(isinstance(node, waits) for node in sources()[path].nodes), path


def test_face_equals_all() -> None:
    modules = {room(path) for path in sources()} | {"annotations"}
    # "@": what pytest's rewriting of assertions adds
    public = {name for name in dir(aiorpc) if not name.startswith(("_", "@"))} - modules
    assert public | {"__version__"} == set(aiorpc.__all__)


def loaded(code: str, modules: set[str]) -> list[str]:
    """Return which of *modules* a new Python has after *code*."""
    import subprocess
    import sys

    code = f"import sys; {code}; print(*sorted({modules!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.split()


def test_import_is_lean() -> None:
    """``import aiorpc`` pulls in no command line, no database, no broker client."""
    heavy = {"argparse", "rich", "sqlalchemy", "starlette", "uvicorn", "pytest", "aio_pika", "yaml"}
    assert loaded("import aiorpc", heavy) == []


def test_a_host_loads_nothing_that_few_processes_use() -> None:
    few = {
        *("aiorpc.transports.amqp.reader", "aiorpc.transports.memory.reader", "aiorpc.management"),
        *("aiorpc.hosting.discovery.asking", "aiorpc.hosting.discovery.stacks", "aiorpc.parked"),
        *("aiorpc.hosting.discovery.arguments", "aiorpc.hosting.refusals"),
        "aiorpc.entrypoints.sensitive",
        *(
            "aiorpc.admin",
            "aiorpc.doctor",
            "aiorpc.hosting.processes",
            "aiorpc.hosting.discovery.watching",
        ),
        *("prometheus_client", "opentelemetry", "rich", "starlette", "uvicorn"),
    }
    host = "import aiorpc.cli.serving, aiorpc.transports.amqp.transport"
    code = f"{host}, aiorpc.transports.memory.transport"
    code += ", aiorpc.entrypoints.rpc, aiorpc.entrypoints.consumer"
    assert loaded(code, few) == []


# Size and names

#: What the reason for a function of more than 40 lines begins with; it stands beside the `def`.
REASON = "# long: "


def test_no_file_has_more_than_400_lines() -> None:
    lines = {path: len(source.text.splitlines()) for path, source in sources().items()}
    assert {path: number for path, number in lines.items() if number > 400} == {}


def test_no_class_has_more_than_250_lines() -> None:
    large = [
        f"{path}:{node.lineno} {node.name}"
        for path, source in sources().items()
        for node in source.nodes
        if isinstance(node, ast.ClassDef) and length(node) > 250
    ]
    assert large == []


def test_no_function_has_more_than_40_lines_without_a_reason_beside_it() -> None:
    large = [
        f"{path}:{node.lineno} {node.name}"
        for path, source in sources().items()
        for node in source.nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and length(node) > 40
        and not any(REASON in line for line in beside(node, source))
    ]
    assert large == []


def beside(node: ast.stmt, source: Source) -> list[str]:
    """The first line of *node*, and the line above it."""
    return source.text.splitlines()[node.lineno - 2 : node.lineno]


def length(node: ast.stmt) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def test_every_module_says_what_it_is() -> None:
    assert [path for path, source in sources().items() if not ast.get_docstring(source.tree)] == []


def test_one_name_is_one_class() -> None:
    """But for ``aiorpc.sync``, whose names are those of the asynchronous API on purpose."""
    files: dict[str, list[Path]] = {}
    for path, source in sources().items():
        for node in source.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files.setdefault(node.name, []).append(path)
    twice = {name: where for name, where in files.items() if len({*where} - {SYNC}) > 1}
    assert twice == {}


SYNC = Path("sync.py")


def test_no_file_has_a_name_that_fits_any_file() -> None:
    """A file has the name of what it is about. These names fit any file."""
    nothing = {"utils", "util", "helpers", "common", "core", "manager", "misc", "base_classes"}
    for path in sources():
        assert not nothing & {*path.with_suffix("").parts}, path
        assert not path.name.startswith(("amqp_", "memory_")), f"{path}: the folder says it"
