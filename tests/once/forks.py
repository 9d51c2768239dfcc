"""
The server of forks: a process that has imported everything, and forks a process of the shop for
each line of its input, which names the run, the configuration and the socket to talk to. A fork
takes 10 ms, a new Python a second. It has no threads and no event loop.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from tests.once.service import serve


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets dead processes
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(0)
            serve(*json.loads(line))
            os._exit(0)


if __name__ == "__main__":
    main()
