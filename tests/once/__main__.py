"""
Kills a process at every point: `python -m tests.once [DATABASE ...]`. Prints a table, and exits
with 1 if an order or its effect is not there once.

    --every N    every N-th point only
    --at POINT   the points whose names contain this, such as "COMMIT" or "before COMMIT #1"
    --beside     with a second process that works beside the one that dies
    --list       print the points instead
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Iterable

from tests.once.databases import KINDS
from tests.once.report import Report, table
from tests.once.stage import listed, play
from tests.servers import urls


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.once")
    parser.add_argument("databases", nargs="*", metavar="DATABASE", help=", ".join(KINDS))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--at", default="", metavar="POINT")
    parser.add_argument("--beside", action="store_true")
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
    plays = (
        play(servers, kind, every=given.every, at=given.at, beside=given.beside) for kind in kinds
    )
    reports = asyncio.run(_together(plays))
    print(table(reports))
    for report in reports:
        print(*[f"{report.database}: not reached: {each}" for each in report.missed], sep="\n")
        print(*[f"{report.database}: NOT ONCE: {each}" for each in report.wrong], sep="\n")
    return 1 if any(report.wrong for report in reports) else 0


async def _together(plays: Iterable[Awaitable[Report]]) -> list[Report]:
    """Play on all databases at a time, because the runs mostly wait."""
    return await asyncio.gather(*plays)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
