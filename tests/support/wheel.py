"""
Tests the wheel as a user would. Builds it, installs it into an empty environment of each
interpreter found, and runs there the tests of a project that does not know this tree
(`tests/testing/project`).

    python -m tests.support.wheel [PYTHON ...]     with each interpreter, or only with these

Needs a package index for the wheel's dependencies. Writes to a temporary directory, and the wheel
to `dist/`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "tests" / "testing" / "project"
INTERPRETERS = ("python3.11", "python3.12", "python3.13", "python3.14")
#: Seconds after which a step has failed.
PATIENCE = 300

_LOOP = ("-o", "asyncio_default_fixture_loop_scope=function")
#: Pytest's arguments for each run of the project's tests.
RUNS: Mapping[str, Sequence[str]] = {
    "pytest-asyncio, auto": (*_LOOP, "-o", "asyncio_mode=auto", "test_auto.py"),
    "pytest-asyncio, strict": (
        *(*_LOOP, "-o", "asyncio_mode=strict"),
        *("test_strict.py", "test_module_loop.py", "test_anyio.py"),
    ),
    "anyio's plugin": ("-p", "no:asyncio", "test_anyio.py"),
}


class Failed(Exception):
    """A step failed; the text has its output."""


def build(directory: Path) -> Path:
    """
    Build the wheel of this tree in *directory*. Needs no network if hatchling is installed.

    Raises:
        Failed: the build failed.
    """
    offline = importlib.util.find_spec("hatchling") is not None
    isolation = ["--no-build-isolation"] if offline else []
    run([*_pip(sys.executable), "wheel", "--no-deps", *isolation, "-w", str(directory), str(ROOT)])
    (wheel,) = directory.glob("aiorpc_amqp-*.whl")
    return wheel


def run(
    command: Sequence[str],
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    within: float = PATIENCE,
) -> str:
    """
    Run *command* and return its output.

    Raises:
        Failed: it did not exit with 0 *within* so many seconds.
    """
    shown = " ".join(command)
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=_environment() | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{shown}\ndid not end within {within:g} s") from None
    if done.returncode:
        raise Failed(f"{shown}\nexited with {done.returncode}:\n{done.stdout}")
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    """
    Return our environment without the variables that would bring this tree or our options along.
    """
    ours = ("PYTHONPATH", "PYTHONHOME", "PYTEST_ADDOPTS", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if name not in ours}


def _pip(python: str) -> list[str]:
    return [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]


def interpreters(names: Sequence[str] = INTERPRETERS) -> list[str]:
    """Return the interpreters of *names* that exist, are 3.11 or newer, and have venv."""
    code = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
    found = []
    for name in names:
        path = shutil.which(name)
        if path and not subprocess.run([path, "-c", code], capture_output=True).returncode:
            found.append(path)
    return found


def try_wheel(wheel: Path, interpreter: str, directory: Path) -> None:
    """
    Install *wheel* into an empty environment and try it there.

    Raises:
        Failed: a step failed.
    """
    step = functools.partial(_step, interpreter)
    home = directory / Path(interpreter).name
    run([interpreter, "-m", "venv", str(home)])
    python = str(home / "bin" / "python")
    elsewhere = directory / f"project-{home.name}"
    shutil.copytree(PROJECT, elsewhere)

    with step("pip install, without extras"):
        run([*_pip(python), "install", str(wheel)])
        run([*_pip(python), "check"])
    with step("aiorpc --version"):
        printed = run([str(home / "bin" / "aiorpc"), "--version"], elsewhere)
        if wheel.name.split("-")[1] not in printed:
            raise Failed(f"aiorpc --version printed {printed!r}")
    with step("import, from the wheel"):
        imported = run([python, "-c", "import aiorpc.testing; print(aiorpc.__file__)"], elsewhere)
        if not imported.startswith(str(home)):
            raise Failed(f"aiorpc came from {imported}, not from the wheel in {home}")
    with step("pip install pytest pytest-asyncio anyio"):
        run([*_pip(python), "install", "pytest", "pytest-asyncio", "anyio"])
    for name, arguments in RUNS.items():
        with step(f"a project's tests under {name}"):
            run([python, "-m", "pytest", "-q", *arguments], elsewhere)


class _step:
    """Prints a step and its duration."""

    def __init__(self, interpreter: str, what: str) -> None:
        self._line = f"{Path(interpreter).name:<11} {what}"

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, exc_type: object, exc: object, tb: object) -> None:
        how = f"{time.monotonic() - self._began:.1f} s" if exc is None else "FAILED"
        print(f"{self._line}: {how}", flush=True)


def main(names: Sequence[str]) -> int:
    found = interpreters(names or INTERPRETERS)
    if not found:
        print(
            f"none of {', '.join(names or INTERPRETERS)} exists with venv and Python 3.11 or newer"
        )
        return 1
    with tempfile.TemporaryDirectory(prefix="aiorpc-wheel-") as name:
        directory = Path(name)
        try:
            wheel = build(directory)
            print(f"built {wheel.name}")
            for interpreter in found:
                try_wheel(wheel, interpreter, directory)
        except Failed as failed:
            print(failed)
            return 1
        (ROOT / "dist").mkdir(exist_ok=True)
        shutil.copy(wheel, ROOT / "dist")
    print(f"dist/{wheel.name} works on {', '.join(Path(each).name for each in found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
