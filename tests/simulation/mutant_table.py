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
HEAD = """# Faults that the simulator finds

Each row is a fault that `mutants.py` puts into aiorpc. The simulator plays the seeds 0, 1, 2, ...
until an invariant is violated. `python -m tests.simulation mutants` writes this table.

| fault | found as | seed | calls | steps |
| --- | --- | ---: | ---: | ---: |
"""


class Found(tuple[str, int, int, int]):
    """The kind of the violation, the seed, and the calls and steps until it was found."""

    __slots__ = ()


def find(mutant: Mutant, seeds: int = LIMIT) -> Found | None:
    """Play seeds with *mutant* until one fails; ``None`` if none of *seeds* does."""
    command = [
        *(sys.executable, "-m", "tests.simulation", "--seeds", f"0:{seeds}"),
        *("--mutant", str(MUTANTS.index(mutant))),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"FAILED seed (\d+) after (\d+) calls, (\d+) steps: (.*?):", done.stdout)
    if found is None and done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return found and Found((found[4], int(found[1]), int(found[2]), int(found[3])))


def main() -> int:
    rows, missed = [], 0
    pool = ThreadPoolExecutor(2 * (os.cpu_count() or 1))
    for mutant, found in zip(MUTANTS, pool.map(find, MUTANTS), strict=True):
        missed += found is None
        if found is None:
            rows.append(f"| {mutant.name} | not found in {LIMIT} seeds | | | |")
        else:
            kind, seed, calls, steps = found
            rows.append(f"| {mutant.name} | {kind} | {seed} | {calls:,} | {steps:,} |")
        print(rows[-1], flush=True)
    TABLE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    return 1 if missed else 0
