"""The record of what runs, `.servers/state.json`. Touches that directory, or AIORPC_SERVERS_DIR."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .probes import listens
from .process import Process, ServerError

REPOSITORY = Path(__file__).resolve().parents[2]


def servers_directory() -> Path:
    """Return the directory for the data of private servers and for the record."""
    return Path(os.environ.get("AIORPC_SERVERS_DIR") or REPOSITORY / ".servers").absolute()


@dataclass(frozen=True, slots=True)
class Record:
    """One server that `up` or a test started: how to reach it and how to stop it.

    `ours` is false for a composed server that was running before: `down` does not stop it.
    `ports` and `processes` are by role: {"amqp": ..., "distribution": ..., "epmd": ...} and
    {"server": ..., "epmd": ...} for RabbitMQ, {"server": ...} for the databases, none for Compose.
    """

    name: str
    kind: str
    way: Literal["compose", "private"]
    url: str
    directory: str = ""
    ours: bool = True
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Return whether the process that was started still runs, and its port is open."""
        server = self.processes.get("server")
        if self.way == "private" and not (server and server.alive):
            return False
        return listens(self.url)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Record:
        processes = {role: Process(**one) for role, one in value["processes"].items()}
        return replace(cls(**value), processes=processes)


class State:
    """The records on disk. Each change is one locked read-modify-write."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or servers_directory()
        self.path = self.directory / "state.json"

    def records(self) -> dict[str, Record]:
        """Return every record by its name; none if the file is missing or cannot be read."""
        try:
            values = json.loads(self.path.read_text())
            return {name: Record.from_json(value) for name, value in values.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def put(self, record: Record) -> None:
        with self.locked("state.lock", within=10):
            self._write({**self.records(), record.name: record})

    def forget(self, name: str) -> None:
        with self.locked("state.lock", within=10):
            self._write({key: one for key, one in self.records().items() if key != name})

    @contextmanager
    def locked(self, name: str, within: float) -> Iterator[None]:
        """
        Hold the lock file `name`. Raises `ServerError` if another process holds it for `within` s.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + within
        with (self.directory / name).open("w") as lock:
            while not _taken(lock.fileno()):
                if time.monotonic() >= end:
                    raise ServerError(
                        f"another `tests.servers` has held {lock.name} for {within:g} s: "
                        "wait for it, or end it"
                    )
                time.sleep(0.05)  # flock() has no timeout
            yield

    def _write(self, records: dict[str, Record]) -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps({name: asdict(one) for name, one in records.items()}, indent=2))
        draft.replace(self.path)  # a reader sees the old file or the new one, never a part


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
