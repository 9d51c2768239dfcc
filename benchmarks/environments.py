"""
Creates the virtual environments of the peers below ``benchmarks/.venvs/``, and pins their versions.
Runs ``python -m venv`` and ``pip install``, and writes to that directory only.

An environment records its pins. When the pins change, the environment is created again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["REPOSITORY", "Unavailable", "python_of"]

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
ROOT = HERE / ".venvs"

#: What all that speak AMQP through aio-pika run on: the same versions for them and for us.
_AIO_PIKA = ("aio-pika==10.2.1", "aiormq==7.2.4", "pamqp==4.0.1", "uvloop==0.23.0")

#: Environment -> what pip installs into it. Dependencies of these are whatever pip finds.
PINS: dict[str, tuple[str, ...]] = {
    "aiorpc": (*_AIO_PIKA, "msgspec==0.22.0", "-e", f"{REPOSITORY}[uvloop]"),
    "aio-pika": _AIO_PIKA,
    "faststream": (*_AIO_PIKA, "faststream[rabbit]==0.7.8"),
    "nameko": (
        "setuptools<80",  # it imports pkg_resources
        "werkzeug<3",
        "nameko==2.14.1",
        "kombu==5.7.0",
        "amqp==5.4.2",
        "eventlet==0.41.3",
    ),
    "grpc": ("grpcio==1.85.1", "uvloop==0.23.0"),
    "fastapi": (
        "fastapi==0.165.0",
        "uvicorn==0.54.0",
        "httptools==0.9.0",
        "aiohttp==3.14.5",
        "uvloop==0.23.0",
    ),
    "plots": ("matplotlib==3.11.2",),
}

#: Nameko runs on nothing later; where this interpreter is later, an older one on PATH is taken.
_NEWEST = {"nameko": (3, 11)}

#: Seconds that pip may take for one environment.
PATIENCE = 600


class Unavailable(Exception):
    """An environment cannot be had on this machine. The text says why."""


def python_of(name: str) -> Path:
    """
    The interpreter of the environment *name*, which is made if need be.

    Raises:
        Unavailable: no interpreter is old enough, or pip could not install the packages.
    """
    home = ROOT / name
    python = home / "bin" / "python"
    made_of = home / "made-of.txt"
    interpreter = _interpreter(name)
    pins = "\n".join([interpreter, *PINS[name], ""])
    if made_of.is_file() and made_of.read_text() == pins:
        return python
    print(f"setting up {home.relative_to(REPOSITORY)}", file=sys.stderr)
    shutil.rmtree(home, ignore_errors=True)
    _run([interpreter, "-m", "venv", str(home)], "make a virtual environment")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run([*pip, *PINS[name]], f"install what {name} needs")
    made_of.write_text(pins)  # last: an environment without it is half made
    return python


def _interpreter(name: str) -> str:
    newest = _NEWEST.get(name)
    if newest is None or sys.version_info[:2] <= newest:
        return sys.executable
    for minor in range(newest[1], 8, -1):
        found = shutil.which(f"python3.{minor}")
        if found and _can_make_environments(found):
            return found
    raise Unavailable(f"{name} needs CPython {newest[0]}.{newest[1]} or older, and none is on PATH")


def _can_make_environments(python: str) -> bool:
    command = [python, "-c", "import ensurepip, venv"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list[str], purpose: str) -> None:
    environment = {**os.environ, "PYTHONPATH": ""}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"could not {purpose} within {PATIENCE} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise Unavailable(f"could not {purpose}: {' / '.join(said[-3:])}")
