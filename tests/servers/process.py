"""One detached process: start it, find it again later, end only it.

The process outlives the Python that started it: a short-lived shell starts it, so it becomes a
child of init. It leaves neither a zombie nor a `ResourceWarning` in a test run. Touches processes
and their logs, and looks for free ports on loopback.
"""

from __future__ import annotations

import os
import pwd
import random
import resource
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import eventually_blocking

LOOPBACK = "127.0.0.1"

# Below the range from which kernels take the source ports of outgoing connections (32768 on Linux,
# 49152 on macOS). A client that dials a stopped server on a port of that range can connect to
# itself, and then the server finds its own port taken.
PORTS = range(20_000, 25_000)

# The limit of open files. Erlang reserves tables for the limit, so it is not the system's highest.
OPEN_FILES = 65_536

# POSIX shells give a background command /dev/null as its input; `$1` is the limit, `$2` the log.
_DETACH = 'ulimit -S -n "$1"; log="$2"; shift 2; "$@" >>"$log" 2>&1 & echo $!'


class ServerError(Exception):
    """A server could not be started, stopped or queried; the text says which one and why."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user that a server runs as, because most servers refuse root."""

    name: str
    uid: int
    gid: int

    @classmethod
    def unprivileged(cls, *names: str) -> Account | None:
        """Return the first of `names` that exists, else `nobody`; None if we are not root."""
        if os.geteuid() != 0:
            return None
        for name in (*names, "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(name, entry.pw_uid, entry.pw_gid)
        raise ServerError(f"none of the users {', '.join(names)}, nobody exists to run a server as")

    def owns(self, path: Path) -> None:
        """Make this user the owner of `path`, but of nothing below it."""
        os.chown(path, self.uid, self.gid)

    def reaches(self, directory: Path) -> bool:
        """Return whether this user may enter `directory`; a closed home directory forbids it."""
        ask: list[str | Path] = ["/bin/sh", "-c", 'test -x "$0"', directory]
        return run(ask, account=self, cwd=Path("/")).returncode == 0


@dataclass(frozen=True, slots=True)
class Process:
    """A process, known by its id and its start time, so that a reused id is not mistaken for it."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        return started_at(self.pid) == self.started

    def end(self, with_signal: signal.Signals, patience: float) -> None:
        """
        Send `with_signal`, wait `patience` seconds, then send SIGKILL. Do nothing if it is gone.
        """
        if self._ended_by(with_signal, patience) or self._ended_by(signal.SIGKILL, 10):
            return
        raise ServerError(f"process {self.pid} is still there 10 s after SIGKILL")

    def _ended_by(self, number: signal.Signals, patience: float) -> bool:
        if not self.alive:
            return True
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return True
        except PermissionError:
            raise ServerError(
                f"process {self.pid} belongs to another user: end it as the user who started it"
            ) from None
        return eventually_blocking(lambda: not self.alive, patience)


def started_at(pid: int) -> str | None:
    """
    Return when process `pid` started, in a unit of this machine; None if it is gone or a zombie.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _started_at_by_ps(pid)
    # proc(5): "pid (comm) state ...", where comm may hold anything; the start time is field 22.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _started_at_by_ps(pid: int) -> str | None:
    line = run(["ps", "-o", "stat=,lstart=", "-p", str(pid)]).stdout.strip()
    state, _, started = line.partition(" ")
    return None if not line or state.startswith("Z") else started.strip()


def start(
    command: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path,
    environment: Mapping[str, str],
    account: Account | None,
) -> Process:
    """Start `command` in its own session, and append its output to `log`."""
    arguments = [_open_files(), log, *command]
    shell = ["/bin/sh", "-c", _DETACH, "sh", *map(str, arguments)]
    answer = run(shell, cwd=cwd, environment=environment, account=account, new_session=True)
    pid = int(answer.stdout) if answer.stdout.strip() else 0
    started = started_at(pid) if pid else None
    if started is None:
        raise ServerError(f"{command[0]} did not start: {answer.stderr.strip() or tail(log)}")
    return Process(pid, started)


def _open_files() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    account: Account | None = None,
    within: float = 60,
    given: str = "",
    new_session: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end as `account`. Code 127: it is missing; 124: it was too slow."""
    try:
        return subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=None if environment is None else dict(environment),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[account.gid] if account else None,
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within,
            start_new_session=new_session,
            check=False,
        )
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(list(command), 127, "", str(error))
    except subprocess.TimeoutExpired:
        said = f"{command[0]} gave no answer within {within:g} s"
        return subprocess.CompletedProcess(list(command), 124, "", said)


def must(done: subprocess.CompletedProcess[str], what: str) -> str:
    """Return the output of a command. Raises `ServerError` with its last lines if it failed."""
    if done.returncode == 0:
        return done.stdout
    said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
    raise ServerError(f"{what} failed with code {done.returncode}:\n{said}")


def wait_ready(
    title: str, process: Process, answers: Callable[[], bool], log: Path, within: float
) -> None:
    """Return when `answers()` is true. Raises `ServerError` with the log's end if it ends first."""
    if not eventually_blocking(lambda: answers() or not process.alive, within):
        raise ServerError(f"{title} did not answer within {within:g} s; {tail(log)}")
    if not process.alive:
        raise ServerError(f"{title} ended while it was starting; {tail(log)}")


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of `log` under a heading with its path."""
    try:
        with log.open(errors="replace") as text:
            last = "".join(f"    {line}" for line in deque(text, lines))
    except OSError as error:
        return f"its log cannot be read: {error}"
    return f"the last lines of {log}:\n{last.rstrip()}" if last else f"{log} is empty"


def free_ports(count: int) -> list[int]:
    """Return `count` different TCP ports of `PORTS` that are free on loopback."""
    with ExitStack() as held:  # holds all sockets at once, so no port is given twice
        found: list[int] = []
        for port in random.sample(PORTS, len(PORTS)):
            if len(found) == count:
                break
            probe = held.enter_context(socket.socket())
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            found.append(port)
    if len(found) < count:
        raise ServerError(f"no {count} free ports among {PORTS.start} to {PORTS.stop - 1}")
    return found
