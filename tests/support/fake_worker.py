"""
A worker process for tests of the supervisor: it speaks like ``aiorpc.cli.worker``, but starts in
milliseconds, since it imports nothing of aiorpc.

``python -I fake_worker.py JOURNAL NUMBER FD``: it adds lines ``NUMBER PID EVENT`` to the file
JOURNAL, and does what the file ``JOURNAL.does`` says when it starts.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    journal, number, descriptor = sys.argv[1:]
    does = Path(f"{journal}.does").read_text(encoding="utf-8").split()
    parent = socket.socket(fileno=int(descriptor))
    written = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(event: str) -> None:
        os.write(written, f"{number} {os.getpid()} {event}\n".encode())

    def tell(kind: str, **fields: Any) -> None:
        parent.sendall(json.dumps({"type": kind, **fields}).encode() + b"\n")

    def finish(signum: int, frame: object) -> None:
        note(signal.Signals(signum).name)
        if "resists" in does:
            return
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, finish)
    note("started")
    if "speaks-nonsense" in does:
        parent.sendall(b"nonsense\n")
    if "fails" in does or "fails-for-good" in does:
        final = "fails-for-good" in does
        tell("failure", text="no disk", status=2 if final else 1, final=final)
        raise SystemExit(2 if final else 1)
    if "dies" in does:
        os.kill(os.getpid(), signal.SIGKILL)
    condition = {"alive": True, "ready": True, "reasons": [], "stops_within": 0.0}
    tell("condition", **condition | {"ready": False, "reasons": ["no broker yet"]})
    if "listens" in does:
        tell("listen", address=does[does.index("listens") + 1], key="WEB_SERVER_ADDRESS")
        data, descriptors, _, _ = socket.recv_fds(parent, 4096, 1)
        answer = json.loads(data)
        ports = [socket.socket(fileno=each).getsockname()[1] for each in descriptors]
        note(f"listens {answer.get('error') or ports}")
    if "hangs" not in does:
        note("ready")
        tell("condition", **condition)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
