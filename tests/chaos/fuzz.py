"""
The whole of the fuzzing: `python -m tests.chaos.fuzz [requests] [connections] [--seeds 0:10000]
[--url URL] [--show]`. Plays 10,000 malformed messages and 1,000 spoiled connections on a private
RabbitMQ, or on that of `--url`. Prints the figures, and exits with 1 if a promise was broken.

A failure names its seed. `python -m tests.chaos.fuzz connections --seeds 461 --show` plays this
seed only, and prints what it did.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import ExitStack

from tests.chaos.fuzzed_connections import fuzz_connections
from tests.chaos.fuzzed_requests import fuzz_requests
from tests.servers import Rabbit

__all__ = ["PARTS", "fuzz", "main"]

#: What plays the seeds, and how many seeds are the whole.
PARTS = {"requests": (fuzz_requests, 10_000), "connections": (fuzz_connections, 1_000)}


def fuzz(url: str, parts: list[str], seeds: range | None = None, *, show: bool = False) -> int:
    """Play *parts*, print their figures, and return the number of broken promises."""
    broken = 0
    for part in parts:
        play, whole = PARTS[part]
        report = asyncio.run(play(url, seeds or range(whole), show=show))
        print(f"{part}: {report}", flush=True)
        for failure in report.failures:
            broken += 1
            print(f"  BROKEN: {failure}", flush=True)
    return broken


def _seeds(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end or int(first) + 1))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.chaos.fuzz")
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--seeds", type=_seeds, help="one seed, or FIRST:END without END")
    parser.add_argument("--url", help="a broker that may be used; default: a private one")
    parser.add_argument("--show", action="store_true", help="print what each seed did")
    options = parser.parse_args(arguments)
    if strange := set(options.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(strange)}")
    with ExitStack() as stack:
        url = options.url or stack.enter_context(Rabbit.fresh()).url
        parts = options.parts or list(PARTS)
        return 1 if fuzz(url, parts, options.seeds, show=options.show) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
