"""The short form of the simulator: the same seeds each time, and some new ones in `make test`."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.simulation.__main__ import main
from tests.simulation.faults import Fault
from tests.simulation.loop import PROCESS, Process, SimulationLoop, Stuck
from tests.simulation.mutant_table import find
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.shrink import shrink
from tests.simulation.world import Result, simulate


# In 2000984, the broker drops an item of a stream that waits for its caller. In 3000119, a request
# comes again to a process that has answered its copy. 5 has databases.
# In 134990671, a process that ends has both a request and its needless copy.
@pytest.mark.parametrize(
    "seed",
    [
        *("2", "8"),
        *(
            pytest.param(seed, marks=pytest.mark.slow)
            for seed in ("5", "2000984", "3000119", "134990671")
        ),
    ],
)
def test_a_seed_breaks_no_promise(seed: str) -> None:
    assert simulate(seed).violations == []


def test_a_seed_gives_the_same_trace_twice() -> None:
    first, second = simulate("4"), simulate("4", tell=True)
    assert first.struck
    assert first.violations == []
    assert (first.trace, first.steps) == (second.trace, second.steps)
    assert second.story
    assert simulate("4", []).trace != first.trace


def test_the_seeds_are_printed_so_that_anyone_can_play_them_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--seeds", "0"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"seeds (\d+:\d+), again: make simulate SEEDS=\1", first)
    assert last == "failed seeds: hung 0, lost 0, wrong 0, twice 0, other 0"
    assert main(["--seeds", "2:3"]) == 0
    assert capsys.readouterr().out.startswith("seeds 2:3, again: make simulate SEEDS=2:3\n1 seeds")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_todays_code(mutant: Mutant) -> None:
    source = importlib.util.find_spec(mutant.module)
    assert source is not None
    assert source.origin is not None
    assert Path(source.origin).read_text(encoding="utf-8").count(mutant.old) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant",
    [MUTANTS[1], *(each for each in MUTANTS if each.seed is not None)],
    ids=lambda mutant: mutant.name,
)
def test_a_fault_of_aiorpc_is_found(mutant: Mutant) -> None:
    assert find(mutant) is not None  # the other mutants: mutants.md


def test_callbacks_of_a_process_keep_their_order_and_those_of_two_interleave() -> None:
    ran: list[tuple[str, int]] = []

    async def main() -> None:
        for process in (Process(loop, "a"), Process(loop, "b")):
            for number in range(20):
                process.soon(lambda n=number: ran.append((PROCESS.get().name, n)))
        await asyncio.sleep(1)

    loop = SimulationLoop("order")
    loop.begin(main())
    loop.end([])
    assert [number for name, number in ran if name == "a"] == list(range(20))
    assert [number for name, number in ran if name == "b"] == list(range(20))
    assert [name for name, _ in ran] != sorted(name for name, _ in ran)


def test_a_crashed_process_runs_nothing_more_not_even_its_finally() -> None:
    ran: list[str] = []

    async def life() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ran.append("finally")

    async def main() -> None:
        process = Process(loop, "crashing")
        process.spawn(life())
        await asyncio.sleep(1)
        process.crash()
        await asyncio.sleep(20)
        assert ran == []

    loop = SimulationLoop("crash")
    loop.begin(main())
    loop.end([])
    assert loop.complaints == []


def test_a_deadlock_is_found() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    loop = SimulationLoop("deadlock")
    with pytest.raises(Stuck):
        loop.begin(main())
    loop.end([])


def test_a_failing_run_is_shortened_to_the_faults_that_it_needs() -> None:
    faults = [Fault("cut", at, "shop-0") for at in range(12)]
    needed = {faults[3], faults[8]}

    def play(seed: object, chosen: Sequence[Fault]) -> Result:
        violations = ["lost: a call"] if needed <= set(chosen) else []
        return Result(seed, struck=list(chosen), violations=violations)

    failed = Result("1", faults=faults, struck=faults, violations=["lost: a call"])
    assert set(shrink(failed, play).struck) == needed
