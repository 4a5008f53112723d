"""Every rule is needed: switch one off, and the world must show it, within a few seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.ring import closing, control, hop, ownership, promise, ring, token, vigil
from tidegrid.grid.ring.ring import Carried, Ring

from tests.unit.ring.test_world import HOSTILE, play
from tests.unit.ring.world import Faults, Violation, World

Patch = pytest.MonkeyPatch


def nothing_in_flight_counted(patch: Patch) -> None:
    patch.setattr(promise.PartitionPromise, "lowest", property(lambda self: None))


def promise_up_to_the_own_epoch(patch: Patch) -> None:
    right = promise.floor
    patch.setattr(
        ring, "floor", lambda promises, owned, epoch, closed: right(promises, owned, Epoch(epoch + 1), closed)
    )
    patch.setattr(ring, "begin", lambda *a: replace(token.begin(*a), floor=a[4]))


def promise_before_open(patch: Patch) -> None:
    right = promise.floor
    patch.setattr(
        ring, "floor", lambda promises, owned, epoch, closed: right([p for p in promises if p.open], (), epoch, closed)
    )


def intro_not_capped(patch: Patch) -> None:
    patch.setattr(Ring, "_capped", lambda self, epoch: epoch)


def carried_epoch_not_capped(patch: Patch) -> None:
    def carry(self: Ring, now: float, position: Position, epoch: Epoch, *, at_tail: bool = False) -> Carried:
        self._raise(epoch)
        return Carried.TAKEN

    patch.setattr(Ring, "carry", carry)


def no_limit(patch: Patch) -> None:
    patch.setattr(control.ControlState, "limit", property(lambda self: Epoch(self._closed + 10_000)))
    patch.setattr(control.ControlState, "_add_map", _acts_from(lambda self: self._closed + 8))


def acts_at_once(patch: Patch) -> None:
    patch.setattr(control.ControlState, "_add_map", _acts_from(lambda self: self._closed + 1))


def _acts_from(activation: Callable[[control.ControlState], int]) -> Callable[..., tuple[control.ControlEvent, ...]]:
    def add(self: control.ControlState, spec: control.MapSpec) -> tuple[control.ControlEvent, ...]:
        self._declarations.declare(spec, max(Epoch(activation(self)), self.highest_activation))
        return ()

    return add


def open_at_own_epoch(patch: Patch) -> None:
    patch.setattr(ownership, "open_stamp", lambda own, closed, last: own)
    patch.setattr(Ring, "carry", lambda self, *a, **k: Carried.TAKEN)


def view_forgotten_in_the_token(patch: Patch) -> None:
    patch.setattr(ring, "renew", lambda held, view, changed: token.renew(held, view, ()))
    patch.setattr(closing, "renew", lambda held, view, changed: token.renew(held, view, ()))


def coverage_by_counting_members(patch: Patch) -> None:
    patch.setattr(
        closing, "complete", lambda held, view, partitions: held.view == view.position and len(held.visited) > 0
    )


def no_tails(patch: Patch) -> None:
    patch.setattr(ring, "visit", lambda held, node, floor, tails, *rest: token.visit(held, node, floor, {}, *rest))


def closes_below_closed(patch: Patch) -> None:
    right = closing.close_record

    def lower(*args: object) -> object:
        record = right(*args)  # type: ignore[arg-type]
        record.close.epoch = max(1, record.close.epoch - 2)
        return record

    patch.setattr(closing, "close_record", lower)


def limit_span_of_two(patch: Patch) -> None:
    patch.setattr(control.ControlState, "limit", property(lambda self: Epoch(self._closed + 2)))


def nothing_sent_again(patch: Patch) -> None:
    patch.setattr(hop.Hop, "time_passed", lambda self, now: self.forget() if self.due and now >= self.due else None)
    patch.setattr(vigil.Vigil, "lost_at", lambda self, rank: None)


def no_wakes(patch: Patch) -> None:
    patch.setattr(Ring, "_wake_origin", lambda self, now, *, again=False: self._vigil.woke(now, again=again))
    patch.setattr(vigil.Vigil, "lost_at", lambda self, rank: None)


@pytest.mark.parametrize(
    "mutation",
    [
        nothing_in_flight_counted,
        promise_up_to_the_own_epoch,
        promise_before_open,
        intro_not_capped,
        carried_epoch_not_capped,
        no_limit,
        acts_at_once,
        open_at_own_epoch,
        view_forgotten_in_the_token,
        coverage_by_counting_members,
        no_tails,
        closes_below_closed,
        limit_span_of_two,
        nothing_sent_again,
        no_wakes,
    ],
    ids=lambda mutation: mutation.__name__,
)
def test_is_caught(mutation: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        for seed in range(100):
            play(seed, nodes=2 + seed % 2, seconds=3.0, faults=HOSTILE, crash=2.0)


def unstable_views(seed: int, *, expect_control: bool) -> None:
    world = World(seed)
    world.expect_control = expect_control
    world.start_all()
    world.faults = Faults(delay=0.001, close_delay=0.02)
    world.storm(3.0, crash=8.0)


def test_close_without_expecting_the_control_position_is_caught() -> None:
    """C: a VIEW between the promises and the CLOSE gives a partition to somebody who promised nothing."""
    for seed in range(300):
        unstable_views(seed, expect_control=True)
        try:
            unstable_views(seed, expect_control=False)
        except Violation as violation:
            print(f"seed {seed}: {violation}")
            return
    pytest.fail("no seed caught it")


def test_the_unbroken_world_is_not() -> None:
    """The same plays as above, without a mutation."""
    for seed in range(30):
        play(seed, nodes=2 + seed % 2, seconds=3.0, faults=HOSTILE, crash=2.0)
