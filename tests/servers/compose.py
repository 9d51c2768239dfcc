"""Starts and stops the servers of `compose.yaml`, if a Docker engine answers. Touches Docker."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .process import ServerError, must, run
from .state import REPOSITORY

COMPOSE_FILE = REPOSITORY / "compose.yaml"

# The file's `x-urls`, which this package can read without a YAML parser.
_URL = re.compile(r"^  (AIORPC_TEST_\w+): (\S+)$", re.MULTILINE)

_PULL_AND_START = 600.0  # seconds


def urls(file: Path = COMPOSE_FILE) -> dict[str, str]:
    """Return the URLs of the composed servers, by the environment variable of each."""
    return dict(_URL.findall(file.read_text()))


def engine_answers() -> bool:
    """Return whether a Docker engine and `docker compose` are there."""
    return (
        run(["docker", "version", "--format", "{{.Server.Version}}"], within=10).returncode == 0
        and run(["docker", "compose", "version"], within=10).returncode == 0
    )


def start(services: Iterable[str]) -> list[str]:
    """Start `services`, wait until they are healthy, and return the ones that were not running."""
    wanted = list(services)
    running = _compose("ps", "--services", "--status", "running", within=60).split()
    new = [service for service in wanted if service not in running]
    try:
        _compose("up", "-d", "--wait", *wanted, within=_PULL_AND_START)
    except ServerError:
        with suppress(ServerError):  # the first error says more
            remove(new)
        raise
    return new


def remove(services: Iterable[str]) -> None:
    """Stop `services` and remove their containers, with the data."""
    if names := list(services):  # without names it would be all of them
        _compose("rm", "--stop", "--force", "--volumes", *names, within=60)


def _compose(*arguments: str, within: float) -> str:
    command: list[str | Path] = ["docker", "compose", "--file", COMPOSE_FILE, *arguments]
    done = run(command, cwd=REPOSITORY, within=within)
    return must(done, f"docker compose {' '.join(arguments)}")
