"""
A service whose cron fires each second in one process of many: `python -m tests.chaos.singletons`.
It appends a line for each run to a file: the tick, the process and the time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time

from aiorpc import cron, serve
from aiorpc.entrypoints import singletons

LEDGER = os.environ["CHAOS_TICKS"]
record_of = singletons._record_of
fired: list[float] = []


def noting(tick: float) -> singletons.Message:
    fired.append(tick)
    return record_of(tick)


singletons._record_of = noting


class Service:
    name = os.environ["CHAOS_SERVICE"]

    @cron("* * * * * *", singleton=True)
    def tick(self) -> None:
        with open(LEDGER, "a", encoding="ascii") as ledger:
            ledger.write(f"{fired[-1]:.0f} {os.getpid()} {time.time()}\n")


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s"
    )
    sys.exit(asyncio.run(serve(Service, config=json.loads(os.environ["CHAOS_CONFIG"]))))
