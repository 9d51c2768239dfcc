"""
Plays seeds: `python -m tests.simulation --seeds 1000` new ones, `--seeds 0:1000` those,
`--seed 42` one, with its story. `mutants` measures which faults of aiorpc the simulator finds.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .world import Result

#: What a kind of violation means to a user.
MEANING = {
    "hung": ("hung", "late", "deadlock", "livelock", "drain hung"),
    "lost": (
        *("event lost", "not recovered", "answered unrun", "parked too soon", "not parked"),
        *("acked early", "not durable", "overcounted"),
    ),
    "wrong": (
        *("wrong answer", "wrong error", "answered early", "ran late", "outlived"),
        *("not rolled back", "ghost", "overtaken"),
        *("not cancelled", "not retracted", "sent again", "unmarked", "deadline lost"),
        *("overran", "protocol"),
    ),
    "twice": ("twice", "beside itself", "answer not kept"),
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["mutants"])
    parser.add_argument("--seed", help="play this seed twice, and print its story")
    parser.add_argument("--seeds", default="1000", help="how many new seeds, or FROM:TO")
    parser.add_argument("--calls", type=int, help="play new seeds until they made so many calls")
    parser.add_argument("--mutant", type=int, help="put this fault into aiorpc first")
    parser.add_argument(
        "--databases", action="store_true", help="only seeds, or mutants, of services with them"
    )
    options = parser.parse_args(arguments)
    if options.command == "mutants":
        from . import mutant_table

        return mutant_table.main(databases=options.databases)
    if options.mutant is not None:
        from . import mutants

        mutants.install(mutants.MUTANTS[options.mutant])
    if options.seed is not None:
        return one(options.seed)
    return many(*(options.seeds, options.calls, options.databases), stop=options.mutant is not None)


def one(seed: str) -> int:
    """Play *seed* twice, shorten its faults if it fails, and print the story."""
    from .shrink import shrink
    from .world import simulate

    result, again = simulate(seed, tell=True), simulate(seed)
    if result.violations:
        print(f"seed {seed} has {len(result.struck)} faults; looking for the fewest that fail")
        fewest = shrink(result).struck
        result = simulate(seed, fewest, tell=True)
    print("\n".join(result.story))
    print(f"\nseed {seed}, with {len(result.struck)} faults:")
    for fault in result.struck:
        print(f"  {fault}")
    for violation in result.violations:
        print(f"VIOLATED: {violation}")
    print(f"{result.calls} calls, {result.steps} steps, {result.seconds:.1f} virtual seconds")
    print(f"trace of all faults: {again.trace}, and again: {simulate(seed).trace}")
    return 1 if result.violations else 0


def many(which: str, most_calls: int | None, databases: bool, *, stop: bool) -> int:
    """Play many seeds, and print a line for each that fails, and a summary."""
    from .databases import has_databases
    from .world import simulate

    first, count = _range(which)
    if most_calls is None:
        played = f"{first}:{first + count}"
        print(f"seeds {played}, again: make simulate SEEDS={played}", flush=True)
    else:
        print(f"seeds from {first} on", flush=True)
    began, seeds, calls, answered, steps, faults = time.perf_counter(), 0, 0, 0, 0, 0
    seconds = 0.0
    kinds: Counter[str] = Counter()
    failed: list[Result] = []
    with suppress(KeyboardInterrupt):  # then the summary is of the seeds so far
        while calls < most_calls if most_calls is not None else seeds < count:
            seed = str(first + seeds)
            seeds += 1
            if databases and not has_databases(seed):
                continue
            result = simulate(seed)
            calls, answered = calls + result.calls, answered + result.answered
            steps, seconds = steps + result.steps, seconds + result.seconds
            faults += len(result.struck)
            kinds.update({violation.partition(":")[0] for violation in result.violations})
            if result.violations:
                failed.append(result)
                text = result.violations[0].splitlines()[0][:200]
                print(f"FAILED seed {result.seed} after {calls} calls, {steps} steps: {text}")
                print(f"  make simulate SEED={result.seed}", flush=True)
                if stop:
                    return 1
            if seeds % 100 == 0:
                print(f"  {seeds} seeds, {calls} calls, {len(failed)} failed", flush=True)
    sys.unraisablehook = lambda unraisable: None  # an interrupted run ends without its finalizers
    took = time.perf_counter() - began
    print(
        f"{seeds} seeds, {calls} calls ({answered} answered), {faults} faults, {steps} steps, "
        f"{seconds / 3600:.1f} virtual hours in {took:.0f} s: {calls / took:.0f} calls a second"
    )
    named = [name for names in MEANING.values() for name in names]
    summary = {meaning: sum(kinds[name] for name in names) for meaning, names in MEANING.items()}
    summary["other"] = sum(count for kind, count in kinds.items() if kind not in named)
    print("failed seeds: " + ", ".join(f"{name} {count}" for name, count in summary.items()))
    return 1 if failed else 0


def _range(which: str) -> tuple[int, int]:
    begin, colon, end = which.partition(":")
    if colon:
        return int(begin), int(end) - int(begin)
    return random.SystemRandom().randrange(10**9), int(begin)


if __name__ == "__main__":
    logging.getLogger("aiorpc").setLevel(logging.WARNING)
    logging.lastResort = None  # the story has the log lines
    logging.getLogger("sqlalchemy").addHandler(logging.NullHandler())  # of a run that has ended
    sys.exit(main(sys.argv[1:]))
