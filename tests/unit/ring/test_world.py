"""Rings in a hostile world, by seed: safety at every step, and progress when the faults stop."""

from __future__ import annotations

import pytest

from tests.unit.ring.world import Faults, World

HOSTILE = Faults(loss=0.1, double=0.1, delay=0.005, close_full=0.05)


def play(seed: int, *, nodes: int = 3, seconds: float = 2.0, faults: Faults = HOSTILE, crash: float = 1.0) -> World:
    print(f"seed {seed}")
    world = World(seed, nodes=nodes)
    world.start_all()
    world.faults = faults
    world.storm(seconds, crash)
    world.calm()
    world.check_rest()
    return world


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_broken_and_all_is_closed_in_the_end(seed: int) -> None:
    world = play(seed, nodes=1 + seed % 4)
    assert world.truth.closed > 0 and world.highest_stamp > 0


@pytest.mark.parametrize("seed", range(5))
def test_without_faults_a_stamp_is_closed_within_a_few_ticks(seed: int) -> None:
    print(f"seed {seed}")
    world = World(seed)
    world.start_all()
    world.run(0.5)
    for _ in range(20):
        world.writes(0.1)
        stamped = world.highest_stamp
        world.writes(0.1)
        assert world.truth.closed >= stamped
    world.calm()
    world.check_rest()
