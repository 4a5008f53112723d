"""A table with a fold against the fold of all operands ever, sorted; whatever the order they come in."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.store.merged import MERGE, Fold, MergedTable, Operand
from tidegrid.grid.store.version import DELETE, PUT

KEYS = (b"a", b"b")


def fold_at(epoch: Epoch) -> Fold:
    """Another fold from epoch 4 on; each says what it was given, so that every mistake in order shows."""
    mark = b"+" if epoch < 4 else b"*"

    def fold(state: bytes | None, operand: bytes) -> bytes | None:
        return None if operand == b"x" else (state or b"") + mark + operand

    return fold


class Step(NamedTuple):
    """A frame, `ahead` epochs above the last close; or, where `rows` is empty, a close of so many epochs."""

    ahead: int
    rows: list[tuple[bytes, int, bytes]]


ROWS = st.tuples(
    st.sampled_from(KEYS), st.sampled_from([MERGE, MERGE, MERGE, PUT, DELETE]), st.sampled_from([b"1", b"2", b"x"])
)
STEPS = st.lists(st.builds(Step, st.integers(1, 3), st.lists(ROWS, max_size=3)), max_size=25)


class Model:
    def __init__(self) -> None:
        self.operands: dict[bytes, list[Operand]] = {key: [] for key in KEYS}

    def chain(self, key: bytes) -> list[tuple[bytes | None, int, Stamp]]:
        state: bytes | None = None
        versions = []
        for stamp, number, op, payload in sorted(self.operands[key]):
            plain = payload if op == PUT else None
            state = fold_at(stamp[0])(state, payload) if op == MERGE else plain
            versions.append((state, number, stamp))
        return versions


def saved(table: MergedTable, position: int) -> MergedTable:
    """As a checkpoint of `position` brings it back: operands first, then slices of versions."""
    operands = [(key, one) for key, one in table.operands() if one.stamp[1] <= position]
    made = MergedTable(fold_at)
    for key in KEYS:
        for value, number, stamp in table.chain(key):
            if stamp[1] <= position:
                made.insert(key, value, number, stamp)
    made.recall(operands)
    return made


@settings(max_examples=300)
@given(STEPS, st.integers(0, 25))
def test_any_order_of_arrival_comes_to_the_same(steps: list[Step], checkpoint_at: int) -> None:
    table, model, closed = MergedTable(fold_at), Model(), 0
    numbers = dict.fromkeys(KEYS, 0)
    for at, (ahead, rows) in enumerate(steps):
        if not rows:
            closed += ahead
            before = {key: table.as_of(key, Epoch(closed)) for key in KEYS}
            table.settle(Epoch(closed))
            assert before == {key: table.as_of(key, Epoch(closed)) for key in KEYS}
        else:
            stamp: Stamp = (Epoch(closed + ahead), Position(at + 1), 0)
            taken = []
            for key, _, _ in rows:
                numbers[key] += 1
                taken.append(numbers[key])
            keys, ops, payloads = [row[0] for row in rows], bytes(row[1] for row in rows), [row[2] for row in rows]
            table.apply(keys, payloads, ops, taken, stamp)
            for (key, op, payload), number in zip(rows, taken, strict=True):
                model.operands[key].append(Operand(stamp, number, op, payload))
        for key in KEYS:
            assert table.chain(key) == model.chain(key)
            for value, number, stamp in model.chain(key):
                assert table.value_at(key, stamp, number) == value
        table._check()
        if at == checkpoint_at:
            table = saved(table, at + 1)


@settings(max_examples=100)
@given(STEPS)
def test_a_checkpoint_whose_slices_come_late_is_mended_by_the_log(steps: list[Step]) -> None:
    """Versions of a slice may hold what later records did to them; those are replayed on top of the operands."""
    table, closed, position = MergedTable(fold_at), 0, 0
    half = len(steps) // 2
    frames = []
    operands: list[tuple[bytes, Operand]] = []
    for at, (ahead, rows) in enumerate(steps):
        if at == half:
            position, operands = at, list(table.operands())
        if not rows:
            if at < half:  # later closes change nothing here: what is replayed may lie below them
                closed += ahead
                table.settle(Epoch(closed))
            continue
        stamp: Stamp = (Epoch(closed + ahead), Position(at + 1), 0)
        keys, ops, payloads = [row[0] for row in rows], bytes(row[1] for row in rows), [row[2] for row in rows]
        frame = (keys, payloads, ops, [100 * at + row for row in range(len(rows))], stamp)
        table.apply(*frame)
        if at >= half:
            frames.append(frame)
    recovered = MergedTable(fold_at)
    for key in KEYS:
        for value, number, stamp in table.chain(key):
            if stamp[1] <= position:
                recovered.insert(key, value, number, stamp)
    recovered.recall(operands)
    for frame in frames:
        recovered.apply(*frame)
    for key in KEYS:
        assert recovered.chain(key) == table.chain(key)
