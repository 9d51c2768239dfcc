"""
The Nameko processes of a test session: one that serves, one that calls, both told what to do over
their pipes (`peers/`).

They end when their standard input does, so they never outlive the tests. Everything here blocks,
but for `Nameko.call` and its kin, which wait in a thread.
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

#: Seconds for a process to start (imports, on a busy machine) and, over the call's own, to answer.
STARTING = 30.0
ANSWERING = 10.0


class NamekoError(Exception):
    """What a call by a Nameko client raised there; ``text`` is its ``str``."""

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
    """A script of `peers/` in its own process; one line in, one line out."""

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
                # Not ours: PYTHONPATH and the like would bring our packages into its environment.
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", **environment},
            )
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """``None`` while it lives."""
        return self._process.poll()

    def line(self, timeout: float) -> str:
        """The next line that it writes."""
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
        """Let it end by itself; kill it if it does not."""
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
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def __repr__(self) -> str:
        return f"<Nameko process {self.log.stem}>"


class Nameko:
    """
    One stack's Nameko: two services in a process, and a standalone client in another.

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
        """Whether its kombu writes plain dates and opens no envelope."""
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
        """Call by Nameko's standalone client; raises `NamekoError` with what it raised."""
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
        All *calls* in flight at once, by `call_async`; their results, or `NamekoError` (returned),
        in their order.
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
        """Fail if a process died: nothing that aiorpc sends may kill Nameko."""
        for peer in (self._services, self._client):
            assert peer.exit_code() is None, f"{peer} died\n{peer.tail()}"

    def stop(self) -> None:
        for peer in (self._client, self._services):
            peer.stop()
