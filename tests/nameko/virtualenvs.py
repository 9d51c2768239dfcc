"""
Virtual environments with real Nameko, one per stack, in `.venv-nameko/` of the checkout.

Makes each one once, with pip and an interpreter that Nameko supports, and finds it again by the
pins written into it. Runs `python -m venv` and `pip install`, and touches only `.venv-nameko/`.
Test runs at the same time wait for one another. As a script it makes all of them: `python -m
tests.nameko.virtualenvs [STACK ...]`.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / ".venv-nameko"

#: Nameko imports `pkg_resources` (removed in setuptools 80) and names of werkzeug 2.
_COMMON = ("setuptools<80", "werkzeug<3")

#: The golden messages in `tests/data/nameko_messages.json` were captured with these stacks. The old
#: stack sends plain dates (kombu < 5.3) and dies of 16 bit integers in headers (py-amqp < 5.4).
STACKS: dict[str, tuple[str, ...]] = {
    "2.14.1": (*_COMMON, "nameko==2.14.1", "kombu==5.7.0", "amqp==5.4.2", "eventlet==0.41.3"),
    "2.14.1-old": (
        *_COMMON,
        "nameko==2.14.1",
        "kombu==5.2.4",
        "amqp==5.1.1",
        "eventlet==0.33.3",
        "dnspython<2.7",  # this eventlet cannot patch `dns.query` of later versions
    ),
    "3.0.0rc11": (*_COMMON, "nameko==3.0.0rc11", "kombu==5.7.0", "amqp==5.4.2", "eventlet==0.41.3"),
}

#: Nameko is not known to run on a later version.
NEWEST = (3, 11)

#: Seconds that pip may take for one stack.
PATIENCE = 240


class Unavailable(Exception):
    """This stack is not available on this machine. The text says why and names the remedy."""


def python_of(stack: str) -> Path:
    """
    Return the interpreter of the virtual environment of *stack*. Makes it if needed (10 s).

    Raises:
        Unavailable: no interpreter is old enough, or pip could not install the packages.
    """
    home = ROOT / stack
    python = home / "bin" / "python"
    ROOT.mkdir(exist_ok=True)
    with _alone(ROOT / f"{stack}.lock"):
        if not _is_made(home, stack):
            _make(home, stack)
    return python


def _pins(stack: str) -> str:
    return "\n".join(STACKS[stack]) + "\n"


def _is_made(home: Path, stack: str) -> bool:
    mark = home / "made-of.txt"
    return (
        (home / "bin" / "python").exists() and mark.is_file() and mark.read_text() == _pins(stack)
    )


def _make(home: Path, stack: str) -> None:
    shutil.rmtree(home, ignore_errors=True)
    interpreter = old_enough_python()
    _run([interpreter, "-m", "venv", str(home)], f"make a virtual environment with {interpreter}")
    pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    options = ["--quiet", "--no-input", "--retries", "1", "--timeout", "15"]
    _run([*pip, *options, *STACKS[stack]], f"install Nameko {stack} with pip")
    # Written last: an environment without it is incomplete and is made again.
    (home / "made-of.txt").write_text(_pins(stack))


@functools.cache
def old_enough_python() -> str:
    """Find an interpreter for Nameko: `AIORPC_NAMEKO_PYTHON`, or one of the usual names."""
    named = os.environ.get("AIORPC_NAMEKO_PYTHON")
    usual = [f"python3.{minor}" for minor in range(NEWEST[1], 8, -1)]
    for candidate in [named] if named else [sys.executable, *usual, "python3"]:
        if candidate and _version(candidate) <= NEWEST:
            return candidate
    raise Unavailable(
        f"Nameko needs CPython {NEWEST[0]}.{NEWEST[1]} or older with venv and pip, and "
        f"{named or 'none is on PATH'}{' is not one' if named else ''}; "
        "install python3.11 and python3.11-venv, or name one in AIORPC_NAMEKO_PYTHON"
    )


def _version(python: str) -> tuple[int, int]:
    """Return its version; a version that is too new if it cannot make virtual environments."""
    code = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return (99, 0)
    major, minor = done.stdout.split()
    return int(major), int(minor)


def _run(command: Sequence[str], purpose: str) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"could not {purpose} within {PATIENCE} s") from None
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if not line.startswith("WARNING")]
        raise Unavailable(f"could not {purpose}: {' / '.join(said[-3:])}") from None
    except OSError as error:
        raise Unavailable(f"could not {purpose}: {error}") from None


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    for name in sys.argv[1:] or STACKS:
        print(name, python_of(name))
