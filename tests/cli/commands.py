"""Runs ``aiorpc``: in this process where that is enough, in one of its own where signals matter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from typer.testing import CliRunner

from aiorpc.cli.app import app

#: The installed command; its directory, not the current one, is first on Python's path.
SCRIPT = Path(sys.executable).with_name("aiorpc")
#: Seconds that anything here may take.
PATIENCE = 20.0


@dataclass
class Done:
    """What a command that ended left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The error, which has to be all of stderr and one line."""
        assert "Traceback" not in self.stderr, self.stderr
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("error: "), self.stderr
        assert self.stdout == ""
        return lines[0].removeprefix("error: ")


def invoke(*arguments: str, stdin: str | None = None) -> Done:
    """``aiorpc *arguments`` in this process."""
    result = CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)
    return Done(result.exit_code, result.stdout, result.stderr)


def run(
    *arguments: str,
    cwd: Path | None = None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
) -> Done:
    """``aiorpc *arguments`` in a process of its own, to its end."""
    done = subprocess.run(
        [SCRIPT, *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Started:
    """
    ``aiorpc *arguments`` in a process of its own, and in a group of its own; the end of the block
    ends it.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        command: Sequence[str] = (str(SCRIPT),),
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self._process = subprocess.Popen(
            [*command, *arguments],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=stdin,
            text=True,
            process_group=0,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._lines: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        with self._more:
            return "".join(self._lines)

    def waits_for(self, text: str, times: int = 1) -> str:
        """Return the line in which *text* stands for the *times*th time."""

        def found() -> list[str]:
            return [line for line in self._lines if text in line]

        with self._more:
            assert self._more.wait_for(
                lambda: len(found()) >= times or self._process.poll() is not None, PATIENCE
            ), f"no {text!r} in:\n{''.join(self._lines)}"
        if len(found()) < times:  # it ended: let the reader come to its end, too
            self._reader.join(PATIENCE)
        assert len(found()) >= times, f"no {text!r} in:\n{self.output}"
        return found()[times - 1].rstrip("\n")

    def signal(self, signum: signal.Signals) -> None:
        self._process.send_signal(signum)

    def presses_ctrl_c(self) -> None:
        """As a terminal does: to the whole group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def ends(self) -> int:
        """Wait for its end; the exit code, or minus the signal that ended it."""
        code = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._more:
                self._lines.append(line)
                self._more.notify_all()
        with self._more:
            self._more.notify_all()
