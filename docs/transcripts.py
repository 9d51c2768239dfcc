"""
Makes the terminal transcripts of ``cli.md``: runs the commands that they show, on a real RabbitMQ::

    python docs/transcripts.py amqp://guest:guest@localhost/             write them
    python docs/transcripts.py amqp://guest:guest@localhost/ --check     print which are out of date

A transcript is a ``text`` block that begins with ``$ ``. The shell runs the command behind ``$ ``,
in one directory for the whole page. ``cd`` applies to all later commands, and ``$ echo $?`` is the
exit code of the command before. The first ``aiorpc run`` runs until the page ends; then it gets
Ctrl-C, and its transcript shows its whole output. A later ``aiorpc run`` has to fail.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")
BLOCK = re.compile(r"(?<=^```text\n)\$ .*?(?=^```$)", re.MULTILINE | re.DOTALL)
#: Seconds that a command of the page may take.
PATIENCE = 30.0


class Reader:
    """Runs the commands of the page in a terminal of 100 columns."""

    def __init__(self, url: str, home: Path) -> None:
        self.home = self.directory = home
        self.url = url
        self.code = 0
        self._running: subprocess.Popen[str] | None = None
        self._log = home / ".log"
        self._environment = {
            **os.environ,
            "AMQP_URI": url,
            "COLUMNS": "100",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # a new project has no plugins
        }

    def read(self, block: str) -> str:
        """Return the transcript of *block*, without the output of ``aiorpc run``."""
        lines: list[str] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                lines += [line, *self.types(line.removeprefix("$ "))]
        return "".join(f"{line.rstrip()}\n" for line in lines)

    def types(self, command: str) -> list[str]:
        """Run *command* and return the lines that it prints."""
        if command == "echo $?":
            return [str(self.code)]
        if command.startswith("cd "):
            self.directory /= command.removeprefix("cd ")
            return []
        if command.startswith("aiorpc run ") and self._running is None:
            self._start(command)
            return []
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.directory,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.code = done.returncode
        return self.neutral(done.stdout).splitlines()

    def _start(self, command: str) -> None:
        with self._log.open("w", encoding="utf-8") as log:
            self._running = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )
        ends = time.monotonic() + PATIENCE
        while " ready: " not in self._log.read_text(encoding="utf-8"):
            if self._running.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"{command}: {self._log.read_text(encoding='utf-8')}")
            time.sleep(0.05)

    def presses_ctrl_c(self) -> str:
        """Stop ``aiorpc run`` and return its whole output."""
        assert self._running is not None, "the page runs no service"
        self._running.send_signal(signal.SIGINT)
        self._running.wait(PATIENCE)
        printed = self.neutral(self._log.read_text(encoding="utf-8"))
        return re.sub(r"^(?=.* SIGINT: )", "^C\n", printed, flags=re.MULTILINE)

    def close(self) -> None:
        """End ``aiorpc run`` if it still runs."""
        if self._running is not None and self._running.poll() is None:
            self._running.kill()
            self._running.wait()

    def neutral(self, printed: str) -> str:
        """Replace this machine's name, its paths and its broker in the output."""
        broker = self.url.rpartition("@")[2].rstrip("/")
        for ours, shown in (
            (broker, "localhost:5672"),
            (f"{socket.gethostname()}:", "ada:"),
            (str(self.home), "/home/ada"),
        ):
            printed = printed.replace(ours, shown)
        return re.sub(r"\x1b\[[\d;]*m", "", printed)


def renewed(page: str, url: str) -> str:
    """Return *page* with new transcripts."""
    with tempfile.TemporaryDirectory() as home, contextlib.closing(Reader(url, Path(home))) as you:
        made = [you.read(block) for block in BLOCK.findall(page)]
        run = you.presses_ctrl_c()
    first = next(at for at, block in enumerate(made) if block.startswith("$ aiorpc run "))
    made[first] += run
    blocks = iter(made)
    return BLOCK.sub(lambda _: next(blocks), page)


def differences(old: str, new: str) -> Iterator[str]:
    """Yield where two pages differ, apart from times and process ids."""

    def timeless(text: str) -> list[str]:
        return [re.sub(r"\d+([.,:-]\d+)*", "0", line) for line in text.splitlines()]

    return difflib.unified_diff(timeless(old), timeless(new), "cli.md", "new output", n=1)


def main() -> int:
    url, *options = sys.argv[1:]
    page = PAGE.read_text(encoding="utf-8")
    new = renewed(page, url)
    if options == ["--check"]:
        changes = "\n".join(differences(page, new))
        print(changes or "cli.md is up to date")
        return 1 if changes else 0
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
