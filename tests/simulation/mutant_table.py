"""Measures after how many calls and steps the simulator finds each mutant; writes `mutants.md`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .mutants import MUTANTS, Mutant

__all__ = ["LIMIT", "Found", "find", "main"]

#: Seeds that are played for each mutant, at most.
LIMIT = 150
TABLE = Path(__file__).with_name("mutants.md")
TABLE_OF_DATABASES = Path(__file__).with_name("mutants_of_databases.md")
HEAD = """# Faults that the simulator finds{what}

Each row is a fault that `mutants.py` puts into aiorpc. The simulator plays seeds from 0 on{which}
until an invariant is violated. For a fault that aiorpc had, and that one seed of thousands
showed, it plays this seed. `python -m tests.simulation mutants{option}` writes this table.

| fault | found as | seed | calls | steps |
| --- | --- | ---: | ---: | ---: |
"""


class Found(tuple[str, int, int, int]):
    """The kind of the violation, the seed, and the calls and steps until it was found."""

    __slots__ = ()


def find(mutant: Mutant, seeds: int = LIMIT) -> Found | None:
    """Play seeds with *mutant* until one fails; ``None`` if none of *seeds* does."""
    first, end = (0, seeds) if mutant.seed is None else (mutant.seed, mutant.seed + 1)
    command = [
        *(sys.executable, "-m", "tests.simulation", "--seeds", f"{first}:{end}"),
        *("--mutant", str(MUTANTS.index(mutant))),
        *(["--databases"] if mutant.databases else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"FAILED seed (\d+) after (\d+) calls, (\d+) steps: (.*?):", done.stdout)
    if found is None and done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return found and Found((found[4], int(found[1]), int(found[2]), int(found[3])))


def main(*, databases: bool) -> int:
    """Measure all mutants of services with or without *databases*; write their table."""
    rows, missed = [], 0
    pool = ThreadPoolExecutor(2 * (os.cpu_count() or 1))
    mutants = [each for each in MUTANTS if each.databases is databases]
    for mutant, found in zip(mutants, pool.map(find, mutants), strict=True):
        missed += found is None
        if found is None:
            rows.append(f"| {mutant.name} | not found in {LIMIT} seeds | | | |")
        else:
            kind, seed, calls, steps = found
            rows.append(f"| {mutant.name} | {kind} | {seed} | {calls:,} | {steps:,} |")
        print(rows[-1], flush=True)
    head = HEAD.format(what="", which="", option="")
    if databases:
        which = ", those\nwhose services have databases,"
        head = HEAD.format(what=" in services with databases", which=which, option=" --databases")
    table = TABLE_OF_DATABASES if databases else TABLE
    table.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    return 1 if missed else 0
