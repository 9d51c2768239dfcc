"""
Kills a process at every point: `python -m tests.once [DATABASE ...]`. Prints a table, and exits
with 1 if an order or its effect is not there once.

    --every N    every N-th point only
    --at POINT   the points whose names contain this, such as "COMMIT" or "before COMMIT #1"
    --list       print the points instead
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.once.databases import KINDS
from tests.once.report import Report, table
from tests.once.stage import listed, play
from tests.servers import Urls, urls


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.once")
    parser.add_argument("databases", nargs="*", metavar="DATABASE", help=", ".join(KINDS))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--at", default="", metavar="POINT")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args(arguments)
    servers = urls()
    if None in (servers.rabbitmq, servers.postgresql, servers.mysql):
        print("make kills needs RabbitMQ, PostgreSQL and MariaDB: `make servers`")
        return 1
    kinds = given.databases or list(KINDS)
    if given.list:
        for kind in kinds:
            print(f"{kind}:", *asyncio.run(listed(servers, kind)), sep="\n  ")
        return 0
    reports = asyncio.run(_played(servers, kinds, given.every, given.at))
    print(table(reports))
    for report in reports:
        print(*[f"{report.database}: not reached: {each}" for each in report.missed], sep="\n")
        print(*[f"{report.database}: NOT ONCE: {each}" for each in report.wrong], sep="\n")
    return 1 if any(report.wrong for report in reports) else 0


async def _played(servers: Urls, kinds: list[str], every: int, at: str) -> list[Report]:
    """Play on all databases at a time, because the runs mostly wait."""
    return await asyncio.gather(*(play(servers, kind, every=every, at=at) for kind in kinds))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
