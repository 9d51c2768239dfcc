"""The plain way of reading ``aiorpc run ...``: as typer reads it, or not at all, and without it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from typer.main import get_command

from aiorpc.cli.app import app
from aiorpc.cli.run_line import RunLine, read

from .commands import Started
from .conftest import Project


def as_typer_reads(arguments: list[str]) -> RunLine:
    group = get_command(app)
    with group.make_context("aiorpc", ["run"], resilient_parsing=True) as parent:
        command = group.get_command(parent, "run")
        context = command.make_context("run", arguments, parent=parent)
    found = context.params
    return RunLine(
        list(found["modules"]), found["config"], list(found["define"] or ()), found["broker"]
    )


@pytest.mark.parametrize(
    "line",
    [
        "service",
        "one two:Two --broker memory://",
        "--broker memory:// one",
        "--config=config.yaml one --define=a=1 -d b=[2,3] two --define c",
        "-c first.yaml -b memory:// one -c second.yaml --broker=amqp://host/?heartbeat=5",
    ],
)
def test_a_plain_line_is_read_as_typer_reads_it(line: str) -> None:
    assert read(["run", *line.split()]) == as_typer_reads(line.split())


@pytest.mark.parametrize(
    "line",
    [
        *("", "run", "call x.y", "--debug run one", "--help"),
        *("run --help", "run one --reload", "run one --debug", "run -h"),
        *("run one --broker", "run one --unknown 3", "run one -cconfig.yaml", "run -- one"),
        *("run one --conf x", "run one --broker -c", "run --broker= one", "run one -c=x"),
    ],
)
def test_what_is_not_plain_is_left_to_typer(line: str) -> None:
    assert read(line.split()) is None


def test_completion_is_left_to_typer() -> None:
    assert read(["run", "one"], {}) is not None
    assert read(["run", "one"], {"_AIORPC_COMPLETE": "complete_bash"}) is None


def test_paths_are_paths() -> None:
    line = read(["run", "one", "--config", "here.yaml"])
    assert line is not None
    assert line.config == Path("here.yaml")


def test_a_service_is_run_without_the_command_lines_libraries(project: Project) -> None:
    project.write(
        "lean.py",
        "import sys\nfrom aiorpc import once\n\n"
        "class Lean:\n    name = 'lean'\n\n    @once\n    def look(self):\n"
        "        heavy = {'typer', 'rich', 'pydantic', 'yaml', 'sqlalchemy', 'starlette'}\n"
        "        sys.stdout.write(f'loaded: {sorted(heavy & set(sys.modules))}\\n')\n"
        "        sys.stdout.flush()\n",
    )
    command = ("run", "lean", "--broker", "memory://")
    with Started(*command, cwd=project.directory) as process:
        assert process.waits_for("loaded:").endswith("loaded: []")
        process.waits_for("ready")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
