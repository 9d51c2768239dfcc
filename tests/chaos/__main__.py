"""
The long form: `python -m tests.chaos [--short] [WORD ...]` plays the scenarios whose names contain
a word, or all. Prints the table, and exits with 1 if a promise was broken. Without a word, or with
the word `fuzz`, it also plays `tests/chaos/fuzz.py`.
"""

from __future__ import annotations

import asyncio
import sys

from tests.chaos.fuzz import PARTS, fuzz
from tests.chaos.report import Report, table
from tests.chaos.scenarios import SCENARIOS, play
from tests.servers import Rabbit, urls


def main(arguments: list[str]) -> int:
    short = "--short" in arguments
    words = [word for word in arguments if not word.startswith("-")]
    chosen = [each for each in SCENARIOS if not words or any(word in each.name for word in words)]
    ledger = urls().postgresql
    if ledger is None or Rabbit.program() is None:
        print("make chaos needs PostgreSQL and an installed RabbitMQ: `make servers`")
        return 1
    reports: list[Report] = []
    broken = 0
    with Rabbit.fresh() as node:
        for scenario in chosen if short else [each.longer() for each in chosen]:
            report = asyncio.run(play(scenario, node, ledger))
            reports.append(report)
            print(table([report]).splitlines()[-1], flush=True)
            for failure in scenario.failures(report):
                broken += 1
                print(f"  BROKEN: {failure}", flush=True)
        if not words or "fuzz" in words:
            broken += fuzz(node.url, list(PARTS), range(100) if short else None)
    print("\n" + table(reports))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
