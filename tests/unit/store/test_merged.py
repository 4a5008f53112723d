"""Merged tables beside a list of operands that is folded from the beginning for every look."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.store.merged import MERGE, Fold, MergedTable
from tidegrid.grid.store.version import DELETE, PUT

KEYS = (b"a", b"b", b"c")


def fold_at(epoch: Epoch) -> Fold:
    """Tells epochs and orders apart; deletes when an operand says so."""

    def fold(state: bytes | None, operand: bytes) -> bytes | None:
        return None if operand == b"-" else (state or b"") + operand + b"@%d " % epoch

    return fold


class Said(NamedTuple):
    stamp: Stamp
    number: int
    key: bytes
    op: int
    value: bytes


def folded(said: list[Said], key: bytes, epoch: int) -> bytes | None:
    state: bytes | None = None
    for one in sorted(one for one in said if one.key == key and one.stamp[0] <= epoch):
        state = fold_at(one.stamp[0])(state, one.value) if one.op == MERGE else one.value if one.op == PUT else None
    return state


@pytest.mark.parametrize("seed", range(60))
def test_operands_in_any_order_come_to_what_their_stamps_say(seed: int) -> None:
    chance = random.Random(seed)
    table, said = MergedTable(fold_at), []
    numbers = dict.fromkeys(KEYS, 0)
    closed = 0
    for position in range(1, 40):
        epoch = closed + chance.randint(1, 4)
        stamp = (Epoch(epoch), Position(position), 0)
        rows = []
        for key in chance.choices(KEYS, k=chance.randint(1, 4)):
            numbers[key] += 1
            op = chance.choice((MERGE, MERGE, MERGE, PUT, DELETE))
            value = b"" if op == DELETE else b"-" if op == MERGE and chance.random() < 0.2 else b"%d" % position
            rows.append(Said(stamp, numbers[key], key, op, value))
        said += rows
        table.apply([r.key for r in rows], [r.value for r in rows], bytes(r.op for r in rows), [r.number for r in rows], stamp)  # fmt: skip
        if chance.random() < 0.2:
            closed += 1
            table.settle(Epoch(closed))
        table._check()
        for key in KEYS:
            for at in (closed, epoch, epoch + 10):
                seen = table.as_of(key, Epoch(at))
                assert (seen[0] if seen else None) == folded(said, key, at), f"{key!r} as of {at}"


def test_operands_that_come_in_order_look_at_the_newest_version_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MergedTable, "chain", lambda self, key: pytest.fail("the chain of a hot key is copied"))
    table = MergedTable(fold_at)
    for position in range(1, 20):
        table.apply([b"a", b"a"], [b"x", b"y"], bytes((MERGE, MERGE)), [2 * position - 1, 2 * position], (Epoch(position // 3 + 1), Position(position), 0))  # fmt: skip
    assert table.latest_version(b"a") == 38


def test_the_fold_of_an_epoch_is_asked_for_once_a_section() -> None:
    asked: list[int] = []

    def counted(epoch: Epoch) -> Fold:
        asked.append(epoch)
        return fold_at(epoch)

    table = MergedTable(counted)
    table.apply([b"a"] * 5, [b"x"] * 5, bytes([MERGE] * 5), [1, 2, 3, 4, 5], (Epoch(3), Position(1), 0))
    assert asked == [3]
    table.apply([b"a"], [b"z"], bytes([MERGE]), [6], (Epoch(2), Position(2), 0))
    assert asked == [3, 2, 3]
    assert table.latest(b"a") == (b"z@2 x@3 x@3 x@3 x@3 x@3 ", 5, (3, 1, 0))


def test_while_a_checkpoint_is_taken_what_is_folded_onto_stays() -> None:
    """Else a record after the checkpoint would be folded onto nothing when the partition is opened from it."""
    table = MergedTable(fold_at)

    def merge(epoch: int, number: int) -> None:
        table.apply([b"a"], [b"%d" % number], bytes([MERGE]), [number], (Epoch(epoch), Position(number), 0))

    merge(2, 1)
    merge(3, 2)
    table.settle(Epoch(3))
    with table.pinned():
        merge(5, 3)
        merge(7, 4)
        table.settle(Epoch(7))
        table.reclaim(Epoch(6), 100)
        assert [number for _, number, _ in table.chain(b"a")] == [2, 3, 4] and table.horizon == 3
    table.reclaim(Epoch(6), 100)
    assert [number for _, number, _ in table.chain(b"a")] == [3, 4]
    table._check()
