"""Bounds on time, of several rings together: until a stamp is closed, until a silent node is gone past and put out."""

from __future__ import annotations

import pytest
from tidegrid.grid.ring.attendance import EARLIER_MAX
from tidegrid.grid.ring.local import RingOptions

from tests.unit.ring.world import DELAY, World

OPTIONS = RingOptions()
TICK = OPTIONS.tick or 0.0


def rotation(nodes: int) -> float:
    return nodes * DELAY


@pytest.mark.parametrize("nodes", [1, 2, 3, 7])
def test_without_faults_a_stamp_is_closed_within_two_ticks_and_two_rotations(nodes: int) -> None:
    world = World(nodes, nodes)
    world.run(0.5)
    for turn in range(40):
        process = world.random.choice(world.nodes)
        epoch, stamped_at = process.stamp(), world.now
        world.run(0.3 if turn % 4 else 3.0 * world.random.random())
        assert world.closed_at[epoch] - stamped_at <= 2 * (TICK + rotation(nodes)) + 3 * DELAY


@pytest.mark.parametrize("nodes", [2, 3, 7])
def test_at_rest_there_is_one_round_a_heartbeat(nodes: int) -> None:
    world = World(nodes, nodes)
    world.nodes[-1].stamp()
    world.run(2.0)
    closed, epoch, before = world.truth.closed, world.nodes[0].ring.epoch, world.tokens
    world.run(20.0)
    beats = 20.0 / (OPTIONS.heartbeat + rotation(nodes))
    assert before + nodes * (beats - 1) <= world.tokens <= before + nodes * (beats + 1)
    assert (world.truth.closed, world.nodes[0].ring.epoch) == (closed, epoch), "and time stands still"


def test_alone_there_is_nothing_at_rest() -> None:
    world = World(0, 1)
    world.nodes[0].stamp()
    world.run(2.0)
    assert world.nodes[0].ring.deadline() is None and world.tokens == 0


@pytest.mark.parametrize("loss", [0.1, 0.3])
@pytest.mark.parametrize("seed", range(10))
def test_lost_messages_delay_a_close_and_do_not_hinder_it(seed: int, loss: float) -> None:
    world = World(seed, 2 + seed % 4, loss)
    for _ in range(20):
        epoch, stamped_at = world.random.choice(world.nodes).stamp(), world.now
        world.run(0.05)
    while epoch not in world.closed_at:
        world.run(0.1)
        assert world.now < stamped_at + 20.0


@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("nodes", [2, 3, 5])
@pytest.mark.parametrize("origin", [True, False])
def test_a_silent_node_is_to_be_put_out_after_its_time(nodes: int, origin: bool, busy: bool) -> None:
    """Whether or not anybody has anything to close; also the origin, whose place another takes."""
    world = World(nodes, nodes)
    silent = world.nodes[0 if origin else -1].me
    world.run(0.5)
    world.silent = {silent}
    begun = world.now
    for _ in range(100):
        if busy:
            world.nodes[1 if origin else 0].stamp()
        world.run(0.1)
    seen = [at for at, who, gone in world.evictions if who != silent and silent in gone]
    assert all(gone == {silent} for _, who, gone in world.evictions if who != silent)
    slack = 0.0
    if not busy:
        slack = 2 * OPTIONS.heartbeat + OPTIONS.hop_timeout * 2**OPTIONS.hop_attempts + OPTIONS.regenerate_floor
        slack += nodes * OPTIONS.regenerate_stagger
    early = EARLIER_MAX * OPTIONS.evict_after + OPTIONS.hop_timeout
    assert OPTIONS.evict_after - early <= seen[0] - begun <= OPTIONS.evict_after + slack
