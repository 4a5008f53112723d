"""Runs by seed: nothing is broken in the storm, and in the calm after it everything is answered, closed and followed.

More seeds: `TIDEGRID_SEEDS=1000 TIDEGRID_FIRST_SEED=5000 pytest tests/simulation`, or the module play.py by itself.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.options import Options
from tests.simulation.play import explain, run
from tests.simulation.world import World

FIRST_SEED = int(os.environ.get("TIDEGRID_FIRST_SEED", "0"))
SEEDS = int(os.environ.get("TIDEGRID_SEEDS", "130"))


def play(options: Options) -> World:
    try:
        return run(options)
    except Exception as error:
        pytest.fail(explain(options, error), pytrace=False)


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_no_invariant_is_broken(seed: int) -> None:
    world = play(Options.of(seed))
    assert world.truth.closed > 0


def test_a_run_is_a_function_of_its_options() -> None:
    one, other = play(Options.of(3)), play(Options.of(3))
    assert list(one.trace) == list(other.trace)
    assert one.judge.valid == other.judge.valid and one.chance.random() == other.chance.random()
