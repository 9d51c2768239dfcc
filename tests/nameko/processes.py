"""
The Nameko processes of a test session: one serves, one calls. Both take commands over pipes
(`peers/`).

They end when their standard input ends, so they cannot outlive the tests. The functions here block,
except `Nameko.call` and `Nameko.call_all`, which wait in a thread.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.nameko.peers import values

PEERS = Path(__file__).parent / "peers"

#: Seconds for a process to start on a busy machine, and to answer beyond the call's timeout.
STARTING = 30.0
ANSWERING = 10.0


class NamekoError(Exception):
    """The error that a call by a Nameko client raised; ``text`` is its ``str``."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        super().__init__(*told["args"])
        self.type: str = told["type"]
        self.module: str = told["module"]
        self.text: str = told["text"]
        self.exc_type: str | None = told["exc_type"]
        self.value: str | None = told["value"]

    def __str__(self) -> str:
        return f"{self.type}: {self.text}"


class Peer:
    """A script of `peers/` in its own process. It answers each line with one line."""

    def __init__(
        self, python: Path, script: str, url: str, log: Path, environment: Mapping[str, str]
    ) -> None:
        self.log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(python), "-W", "ignore", str(PEERS / script), url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                # Without PYTHONPATH and similar variables, which would bring our packages along.
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", **environment},
            )
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """The exit status; ``None`` while the process runs."""
        return self._process.poll()

    def line(self, timeout: float) -> str:
        """Wait for the next line of its output."""
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout
        received = b""
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"nothing from {self} within {timeout} s\n{self.tail()}")
                piece = os.read(output, 65536)
                if not piece:
                    raise AssertionError(f"{self} ended: {self._process.wait()}\n{self.tail()}")
                received += piece
        return received.decode()

    def ask(self, line: str, timeout: float) -> str:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
            return self.line(timeout)

    def stop(self) -> None:
        """Close its input, and kill it if it does not end by itself."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def tail(self) -> str:
        """Return the last lines of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def __repr__(self) -> str:
        return f"<Nameko process {self.log.stem}>"


class Nameko:
    """
    Nameko of one stack: two services in one process, and a standalone client in another.

    Attributes:
        x, y: names of the services in `peers/services.py`.
    """

    def __init__(self, stack: str, python: Path, url: str, token: str, logs: Path) -> None:
        self.stack = stack
        self.url = url
        self.x = f"nk_x_{token}"
        self.y = f"nk_y_{token}"
        names = {"PEER_SERVICE_X": self.x, "PEER_SERVICE_Y": self.y}
        self._services = Peer(python, "serve.py", url, logs / f"{stack}-services.log", names)
        self._client = Peer(python, "client.py", url, logs / f"{stack}-client.log", {})
        try:
            assert self._services.line(STARTING) == "ready\n"
        except BaseException:
            self.stop()
            raise

    @property
    def is_old(self) -> bool:
        """Whether its kombu writes plain dates and does not decode envelopes."""
        return self.stack.endswith("-old")

    @property
    def is_3(self) -> bool:
        return self.stack.startswith("3.")

    async def call(
        self,
        service: str,
        method: str,
        *args: Any,
        context: Mapping[str, Any] | None = None,
        timeout: float = 5.0,
        **kwargs: Any,
    ) -> Any:
        """Call by Nameko's standalone client. Raises `NamekoError` with the client's error."""
        calls = [(args, kwargs)]
        (answer,) = await self.call_async(service, method, calls, context=context, timeout=timeout)
        if isinstance(answer, NamekoError):
            raise answer
        return answer

    async def call_async(
        self,
        service: str,
        method: str,
        calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]],
        *,
        context: Mapping[str, Any] | None = None,
        timeout: float = 5.0,
    ) -> list[Any]:
        """
        Make all *calls* at the same time by `call_async`. Return their results, or a `NamekoError`
        for each that failed, in order.
        """
        command = {
            "service": service,
            "method": method,
            "calls": calls,
            "context": context,
            "timeout": timeout,
        }
        line = values.dumps(command)
        said = await asyncio.to_thread(self._client.ask, line, timeout + ANSWERING)
        return [
            one["result"] if "result" in one else NamekoError(one["error"])
            for one in values.loads(said)["answers"]
        ]

    def check(self) -> None:
        """Fail if a process died: no message of aiorpc may kill Nameko."""
        for peer in (self._services, self._client):
            assert peer.exit_code() is None, f"{peer} died\n{peer.tail()}"

    def stop(self) -> None:
        for peer in (self._client, self._services):
            peer.stop()
