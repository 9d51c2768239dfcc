"""A private server: its data, its ports and its processes, apart from any other on the machine.

Touches its own directory, loopback ports and the processes it starts. The subclasses `Rabbit`,
`PostgreSQL` and `MariaDB` have a module each.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

from .process import Account, Process, ServerError, free_ports, must, run, start, wait_ready
from .state import Record, State

# Variables of a user's shell that would configure the server.
_FOREIGN = ("RABBITMQ_", "ERL_", "PG", "MYSQL", "MARIADB", "NOTIFY_SOCKET", "LC_", "TMPDIR")

READY_WITHIN = 120.0  # seconds; a loaded two-core machine needs 20 for RabbitMQ
END_WITHIN = 20.0  # seconds until SIGKILL

# Directories that are in root's PATH but not in a user's.
_SYSTEM_PATH = ("/usr/local/sbin", "/usr/sbin", "/opt/homebrew/bin", "/opt/homebrew/sbin")


class PrivateServer(ABC):
    """One private server. `record` describes it and is written to the state file at each change.

    Subclasses name the program, fill the data directory, give the command that starts the server,
    and check whether it is ready.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    accounts: ClassVar[tuple[str, ...]]
    ports: ClassVar[tuple[str, ...]]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, record: Record, state: State) -> None:
        self.record = record
        self.state = state
        self.directory = Path(record.directory)
        self.log = self.directory / "server.log"
        self.account = Account.unprivileged(*self.accounts)

    @classmethod
    @abstractmethod
    def program(cls) -> Path | None:
        """Return the path of the server's program, or None if it is not installed."""

    @abstractmethod
    def prepare(self) -> None:
        """Write what the first start needs into the empty directory."""

    @abstractmethod
    def command(self) -> list[str | Path]:
        """
        Return the command that runs the server in the foreground, on `record.ports` of loopback.
        """

    @abstractmethod
    def answers(self) -> bool:
        """Return whether the server serves clients."""

    @classmethod
    @abstractmethod
    def url_at(cls, ports: dict[str, int]) -> str:
        """Return the URL for clients."""

    @classmethod
    def create(cls, state: State, name: str) -> Self:
        """Start an empty server called `name`, in `state.directory` if its user can enter that."""
        server = cls.allocate(state, name)
        server.prepare()
        server.start()
        return server

    @classmethod
    def allocate(cls, state: State, name: str, **given: int) -> Self:
        """Make the directory and the record of a server; `given` are ports that it shares."""
        ports = dict(zip(cls.ports, free_ports(len(cls.ports)), strict=True)) | given
        directory = cls._fresh_directory(state.directory / name)
        url = cls.url_at(ports)
        record = Record(name, cls.kind, "private", url, str(directory), ports=ports)
        state.put(record)  # from now on `down` can remove it
        return cls(record, state)

    @classmethod
    def _fresh_directory(cls, wanted: Path) -> Path:
        shutil.rmtree(wanted, ignore_errors=True)
        wanted.mkdir(parents=True, mode=0o755)
        account = Account.unprivileged(*cls.accounts)
        if account is None:
            return wanted
        if not account.reaches(
            wanted
        ):  # the checkout is in a home directory that other users cannot enter
            wanted.rmdir()
            wanted = Path(tempfile.mkdtemp(prefix=f"aiorpc-{wanted.name}-"))
        account.owns(wanted)
        return wanted

    @property
    def url(self) -> str:
        return self.record.url

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs, else None."""
        server = self.record.processes.get("server")
        return server.pid if server and server.alive else None

    def start(self) -> None:
        """Start the server with its former data and ports, and return when it serves clients."""
        if self.pid is not None:
            return
        server = self._spawn(self.command(), self.log)
        self._note({**self.record.processes, "server": server})
        try:
            wait_ready(self.title, server, self.answers, self.log, READY_WITHIN)
        except ServerError:
            self.kill()
            raise

    def stop(self) -> None:
        """Shut the server down. Its data, its ports and its companions stay for `start`."""
        self._end("server", self.stop_signal)

    def kill(self) -> None:
        """Kill the server with SIGKILL, as a power cut would."""
        self._end("server", signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the process with SIGSTOP, as a virtual machine stops that is moved."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue the process after `freeze`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)

    def remove(self) -> None:
        """Stop the server and everything that was started for it, and remove its data."""
        self.thaw()
        self.stop()
        for role in self.record.processes:
            self._end(role, signal.SIGTERM)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.state.forget(self.record.name)

    def environment(self) -> dict[str, str]:
        """Return our environment without the variables that configure the server or its tools."""
        kept = {key: one for key, one in os.environ.items() if not key.startswith(_FOREIGN)}
        return {**kept, "HOME": str(self.directory), "LC_ALL": "C", "TZ": "UTC"}

    def _spawn(self, command: list[str | Path], log: Path) -> Process:
        """Start `command` as the server's user, in its directory and environment."""
        return start(
            command,
            log=log,
            cwd=self.directory,
            environment=self.environment(),
            account=self.account,
        )

    def run_tool(self, command: list[str | Path], *, given: str = "", within: float = 120) -> str:
        """
        Run `command` to its end as the server's user, and return its output. Raises `ServerError`.
        """
        done = run(
            command,
            cwd=self.directory,
            environment=self.environment(),
            account=self.account,
            given=given,
            within=within,
        )
        return must(done, " ".join(map(str, command)))

    def _end(self, role: str, with_signal: signal.Signals) -> None:
        process = self.record.processes.get(role)
        if process is not None:
            process.end(with_signal, END_WITHIN)

    def _note(self, processes: dict[str, Process]) -> None:
        self.record = replace(self.record, processes=processes)
        self.state.put(self.record)

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """Write a file into the server's directory, readable by the server's user."""
        path = self.directory / name
        path.write_text(text)
        path.chmod(mode)
        if self.account is not None:
            self.account.owns(path)
        return path


def find_program(names: Iterable[str], *directories: str) -> Path | None:
    """Find the first of `names` in `directories` (patterns; newest match first), PATH or sbin."""
    searched = [str(path) for pattern in directories for path in _newest_first(pattern)]
    searched += [os.environ.get("PATH", os.defpath), *_SYSTEM_PATH]
    for name in names:
        if found := shutil.which(name, path=os.pathsep.join(searched)):
            return Path(found).resolve()
    return None


def _newest_first(pattern: str) -> list[Path]:
    def version(path: Path) -> list[int]:
        digits = "".join(c if c.isdigit() else " " for c in str(path))
        return [int(number) for number in digits.split()]

    root = Path(pattern).anchor
    return sorted(Path(root).glob(pattern.removeprefix(root)), key=version, reverse=True)


def installed(server: type[PrivateServer]) -> Path:
    """Return the program of `server`. Raises `ServerError` if it is no longer installed."""
    if (program := server.program()) is None:
        raise ServerError(f"{server.title} is not installed on this machine")
    return program
