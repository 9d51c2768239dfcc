"""The command line: `python -m tests.servers up | down | urls [--exports]`."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys

from . import ServerError, down, up, urls


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "urls"])
    parser.add_argument("--exports", action="store_true", help="print `export NAME=URL` lines")
    options = parser.parse_args()
    # An exception runs the cleanup: it frees the lock and removes the policy against services.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return _run(options.command, exports=options.exports)
    except ServerError as error:
        print(f"tests.servers {options.command}: {error}", file=sys.stderr)
        return 1


def _run(command: str, *, exports: bool) -> int:
    missing = []
    if command == "down":
        down(lambda line: print(line, flush=True))
        return 0
    if command == "up":
        stream = sys.stderr if exports else sys.stdout
        missing = up(lambda line: print(line, file=stream, flush=True))
    if command == "urls" or exports:
        for variable, url in urls().environment().items():
            print(f"{'export ' if exports else ''}{variable}={shlex.quote(url)}")
    return 1 if missing and os.environ.get("AIORPC_REQUIRE_SERVERS") == "1" else 0


if __name__ == "__main__":
    sys.exit(main())
