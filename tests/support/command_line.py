"""
Runs ``aiorpc`` for tests: in this process, or in one of its own where signals matter.

Also writes the directory that a user would have, with a few services in it.
"""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from unittest import mock

from aiorpc.cli.app import run as run_here

__all__ = ["PATIENCE", "SCRIPT", "Done", "Project", "Started", "Terminal", "invoke", "run"]

#: The installed command; its directory, not the current one, is first on Python's path.
SCRIPT = Path(sys.executable).with_name("aiorpc")
#: Seconds that a process may take for what a test expects of it.
PATIENCE = 20.0


@dataclass
class Done:
    """The exit code and the output of a command that ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The error, which has to be the only line on stderr."""
        assert "Traceback" not in self.stderr, self.stderr
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("error: "), self.stderr
        assert self.stdout == ""
        return lines[0].removeprefix("error: ")


def invoke(*arguments: str, stdin: str = "") -> Done:
    """Run ``aiorpc *arguments`` in this process."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
    ):
        try:
            code = run_here(list(arguments))
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 0
        printed = []
        for stream in (output, errors):
            stream.flush()
            stream.seek(0)
            printed.append(stream.read())
    return Done(code, *printed)


def run(
    *arguments: str,
    cwd: Path | None = None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run ``aiorpc *arguments`` in a process of its own, to its end."""
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
    """``aiorpc *arguments`` in a process and a group of its own, until the block ends."""

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
        """Wait for a line with *text*, and return the *times*-th one."""

        def found() -> list[str]:
            return [line for line in self._lines if text in line]

        with self._more:
            assert self._more.wait_for(
                lambda: len(found()) >= times or self._process.poll() is not None, PATIENCE
            ), f"no {text!r} in:\n{''.join(self._lines)}"
        if len(found()) < times:  # it ended: let the reader finish, too
            self._reader.join(PATIENCE)
        assert len(found()) >= times, f"no {text!r} in:\n{self.output}"
        return found()[times - 1].rstrip("\n")

    def signal(self, signum: signal.Signals) -> None:
        """Send *signum* to the process alone."""
        self._process.send_signal(signum)

    def presses_ctrl_c(self) -> None:
        """Send SIGINT to the whole group, as a terminal does."""
        os.killpg(self._process.pid, signal.SIGINT)

    def ends(self) -> int:
        """Wait for its end; return the exit code, or minus the signal that ended it."""
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


class Terminal:
    """``aiorpc *arguments`` on a pseudo-terminal; :meth:`close` ends it."""

    def __init__(self, *arguments: str, cwd: Path, env: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [SCRIPT, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=cwd,
            env={**os.environ, "TERM": "dumb", **env},
            start_new_session=True,
            # A shell starts programs in the background with SIGINT ignored, and pytest may be one.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        os.close(theirs)

    def reads_until(self, text: str) -> str:
        """Return the output up to *text*."""
        read, ends = "", time.monotonic() + PATIENCE
        while text not in read:
            ready, _, _ = select.select([self._ours], [], [], max(0, ends - time.monotonic()))
            assert ready, f"no {text!r} in {read!r}"
            read += os.read(self._ours, 4096).decode().replace("\r", "")
        return read

    def sends(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def presses_ctrl_c(self, expected: str) -> str:
        self._process.send_signal(signal.SIGINT)
        return self.reads_until(expected)

    def ends(self) -> int:
        """Wait for its end; return the exit code."""
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._ours)


#: A service whose entrypoint fires when it starts, and whose method takes some seconds.
SLOW = """
import asyncio
from contextlib import asynccontextmanager

from aiorpc import Call, Entrypoint


class AtStart(Entrypoint):
    @asynccontextmanager
    async def listen(self, host):
        call = Call(host.service_name, self.method_name, kind="start")
        host.submit(self, call, lambda outcome: print("outcome:", outcome.ending.value))
        yield


class Slow:
    name = "slow"

    @AtStart.decorator
    async def work(self):
        print("began")
        await asyncio.sleep({seconds})
        print("finished")
"""


class Project:
    """Writes modules into a directory; no other service on the broker has its ``name``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"tests_{uuid.uuid4().hex[:12]}"

    def write(self, file: str, content: str) -> Path:
        """Write *file* with the dedented *content*."""
        path = self.directory / file
        path.write_text(textwrap.dedent(content), encoding="utf-8")
        return path

    def write_service(self) -> None:
        """Write ``greetings.py``, with the methods echo, add, birthday, fail, nap and whoami."""
        self.write(
            "greetings.py",
            f"""
            import asyncio
            from datetime import date

            from aiorpc import ContextData, rpc


            class Greetings:
                name = {self.name!r}
                context = ContextData()

                @rpc
                async def echo(self, *args, **kwargs):
                    return [args, kwargs]

                @rpc
                async def add(self, a: int, b: int = 1) -> int:
                    return a + b

                @rpc
                async def birthday(self):
                    return {{"born": date(1815, 12, 10), "name": "Ada ∞"}}

                @rpc
                async def count(self, n: int):
                    for number in range(n):
                        yield {{"number": number}}

                @rpc
                async def fail(self):
                    raise ValueError("no such\\nperson")

                @rpc
                async def nap(self):
                    await asyncio.sleep(60)

                @rpc
                async def whoami(self):
                    return dict(self.context)
            """,
        )

    def write_slow_service(self, seconds: float) -> None:
        """Write ``slow.py``: a method that runs when the service starts, and takes *seconds*."""
        self.write("slow.py", SLOW.format(seconds=seconds))
