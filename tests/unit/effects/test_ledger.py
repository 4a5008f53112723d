"""How far an effect is, compared with a set of what is settled."""

from __future__ import annotations

import random

import pytest
from tidegrid.effects.ledger import Ledger
from tidegrid.effects.place import Place, Waiting


def change(epoch: int, row: int) -> Waiting:
    return Waiting(Place(epoch, 0, epoch * 10, row), "event", b"k", b"v", 0, 0)


def test_the_cursor_stays_below_what_is_not_settled() -> None:
    ledger = Ledger(4)
    first, second = change(5, 0), change(5, 1)
    assert ledger.take(5, [first, second]) == [first, second]
    assert ledger.take(7, [change(7, 0)]) == [change(7, 0)]
    ledger.mark(9)
    assert (ledger.cursor, ledger.held) == (4, 3)
    ledger.settle(Place(7, 0, 70, 0))
    ledger.settle(second.place)
    assert (ledger.cursor, ledger.held) == (4, 3)
    ledger.settle(first.place)
    assert (ledger.cursor, ledger.held) == (9, 0)


def test_quiet_epochs_move_it_and_an_old_mark_does_not() -> None:
    ledger = Ledger(4)
    ledger.mark(8)
    assert ledger.cursor == 8
    ledger.mark(6)
    assert ledger.cursor == 8
    assert ledger.take(9, []) == [] and ledger.cursor == 9


def test_what_was_settled_beyond_the_cursor_is_not_given_again() -> None:
    ledger = Ledger(4, [Place(5, 0, 50, 1), Place(6, 0, 60, 0), Place(3, 0, 30, 0)])
    assert ledger.take(5, [change(5, 0), change(5, 1)]) == [change(5, 0)]
    assert ledger.take(6, [change(6, 0)]) == []
    assert ledger.cursor == 4
    ledger.settle(Place(5, 0, 50, 0))
    assert ledger.cursor == 6


def test_nothing_is_settled_twice_and_no_epoch_comes_twice() -> None:
    ledger = Ledger(0)
    ledger.take(1, [change(1, 0), change(1, 1)])
    ledger.settle(change(1, 0).place)
    with pytest.raises(KeyError):
        ledger.settle(change(1, 0).place)
    with pytest.raises(AssertionError):
        ledger.take(1, [])


@pytest.mark.parametrize("seed", range(40))
def test_any_order_and_restarts_at_any_moment(seed: int) -> None:
    """What a restart is told is what a state file keeps: the cursor, and what was settled beyond it."""
    rng = random.Random(seed)
    history = {epoch: [change(epoch, row) for row in range(rng.randrange(4))] for epoch in range(1, 30)}
    settled: set[Place] = set()
    ledger, cursor, came = Ledger(0), 0, 0
    left: list[Waiting] = []
    while cursor < 29:
        action = rng.random()
        if action < 0.05:
            ledger, came = Ledger(cursor, [place for place in settled if place.epoch > cursor]), cursor
            left = []
        elif action < 0.4 and came < 29:
            came += 1
            fresh = ledger.take(came, history[came]) if history[came] or rng.random() < 0.5 else []
            ledger.mark(came)
            assert not settled & {one.place for one in fresh}
            left += fresh
        elif left:
            one = left.pop(rng.randrange(len(left)))
            ledger.settle(one.place)
            settled.add(one.place)
        assert ledger.cursor >= cursor
        cursor = ledger.cursor
        open_epochs = [e for e in range(1, came + 1) if any(one.place not in settled for one in history[e])]
        reachable = min(open_epochs) - 1 if open_epochs else came
        assert cursor <= reachable and not any(history[e] for e in range(cursor + 1, reachable + 1))
        assert all(one.place in settled for e in range(1, cursor + 1) for one in history[e])
        assert ledger.held == sum(len(history[e]) for e in range(cursor + 1, came + 1))
    assert settled == {one.place for changes in history.values() for one in changes}
