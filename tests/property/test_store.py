"""A table against the simplest thing that could be right: a list of all versions ever, searched from end to end."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.store.table import Table
from tidegrid.grid.store.version import DELETE, PUT, Version

KEYS = [bytes([letter]) for letter in b"abcde"]
TOMBSTONE_EPOCHS = 6


class Model:
    """All versions that were ever written, in the order of the log."""

    def __init__(self) -> None:
        self.versions: dict[bytes, list[Version]] = {}

    def add(self, key: bytes, version: Version) -> None:
        self.versions.setdefault(key, []).append(version)

    def chain(self, key: bytes) -> list[Version]:
        return sorted(self.versions.get(key, []), key=lambda version: (version[2], version[1]))

    def as_of(self, key: bytes, epoch: int) -> Version | None:
        return next((version for version in reversed(self.chain(key)) if version[2][0] <= epoch), None)

    def rows(self, begin: bytes, end: bytes | None, epoch: int) -> list[tuple[bytes, Version]]:
        rows = []
        for key in sorted(self.versions):
            found = self.as_of(key, epoch)
            if begin <= key and (end is None or key < end) and found is not None and found[0] is not None:
                rows.append((key, found))
        return rows


def live(version: Version | None) -> Version | None:
    """What a reader tells apart: a tombstone reads as nothing."""
    return None if version is None or version[0] is None else version


class TableMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.table = Table(TOMBSTONE_EPOCHS)
        self.model = Model()
        self.epoch = self.position = 1
        self.closed = 0
        self.horizon = 0
        self.numbers: dict[bytes, int] = {}
        self.slices: tuple[int, Any, list[tuple[bytes, list[Version]]]] | None = None

    def next_number(self, key: bytes) -> int:
        """The engine's way: one above the latest number in the table; what another row of the frame took counts."""
        number = max(self.numbers.get(key, 0), self.table.latest_version(key)) + 1
        self.numbers[key] = number
        return number

    def stamp(self, effective: int) -> Stamp:
        self.position += 3
        return (Epoch(effective), Position(self.position), 1_000 + self.position)

    @rule(
        rows=st.lists(st.tuples(st.sampled_from(KEYS), st.booleans(), st.booleans()), min_size=1, max_size=6),
        ahead=st.integers(0, 2),
    )
    def apply(self, rows: list[tuple[bytes, bool, bool]], ahead: int) -> None:
        self.epoch += ahead
        self.write(rows, self.stamp(self.epoch))

    @rule(
        rows=st.lists(st.tuples(st.sampled_from(KEYS), st.booleans(), st.booleans()), min_size=1, max_size=3),
        back=st.integers(1, 5),
    )
    def apply_late(self, rows: list[tuple[bytes, bool, bool]], back: int) -> None:
        self.write(rows, self.stamp(max(self.closed + 1, self.epoch - back)))

    def write(self, rows: list[tuple[bytes, bool, bool]], stamp: Stamp) -> None:
        columns: list[tuple[bytes, bytes | None, int]] = []
        for key, delete, _ in rows:
            number = self.next_number(key)
            value = None if delete and len(columns) % 2 else b"%d@%d" % (number, stamp[1])
            columns.append((key, value, number))
            self.model.add(key, (value, number, stamp))
        if rows[0][2]:  # two sections of one map in a frame: later numbers may come first
            columns = columns[1::2] + columns[::2]
        self.table.apply(
            [key for key, _, _ in columns],
            [value or b"" for _, value, _ in columns],
            bytes(DELETE if value is None else PUT for _, value, _ in columns),
            [number for _, _, number in columns],
            stamp,
        )
        self.numbers.clear()

    @rule(key=st.sampled_from(KEYS), back=st.integers(0, 5), delete=st.booleans())
    def insert(self, key: bytes, back: int, delete: bool) -> None:
        stamp = self.stamp(max(self.closed + 1, self.epoch - back))
        number = self.next_number(key)
        self.numbers.clear()
        value = None if delete else b"inserted %d" % stamp[1]
        self.model.add(key, (value, number, stamp))
        self.table.insert(key, value, number, stamp)

    @rule(by=st.integers(0, 4))
    def close(self, by: int) -> None:
        self.closed = max(self.closed, min(self.epoch, self.closed + by))
        self.epoch = max(self.epoch, self.closed + 1)

    @rule(by=st.integers(0, 8), budget=st.integers(1, 5), whole=st.booleans())
    def reclaim(self, by: int, budget: int, whole: bool) -> None:
        self.horizon = min(self.closed, self.horizon + by)
        while (looked := self.table.reclaim(Epoch(self.horizon), budget)) == budget and whole:
            pass
        assert looked <= budget
        if whole:
            for key in KEYS:
                chain = self.table.chain(key)
                assert sum(version[2][0] <= self.horizon for version in chain) <= 1
                buried = len(chain) == 1 and chain[0][0] is None and chain[0][2][0] <= self.horizon - TOMBSTONE_EPOCHS
                assert not buried

    @rule(
        begin=st.sampled_from([b"", *KEYS]),
        end=st.sampled_from([None, *KEYS]),
        ahead=st.none() | st.integers(0, 8),
        rows_max=st.integers(1, 9),
        reverse=st.booleans(),
    )
    def scan(self, begin: bytes, end: bytes | None, ahead: int | None, rows_max: int, reverse: bool) -> None:
        as_of = None if ahead is None else Epoch(self.horizon + ahead)
        expected = self.model.rows(begin, end, 1 << 60 if as_of is None else as_of)
        if reverse:
            expected.reverse()
        assert self.table.scan(begin, end, as_of, rows_max, reverse) == (expected[:rows_max], len(expected) > rows_max)

    @precondition(lambda self: self.slices is None)
    @rule(rows_max=st.integers(1, 3))
    def begin_checkpoint(self, rows_max: int) -> None:
        self.slices = (self.position, self.table.slices(Position(self.position), rows_max), [])

    @precondition(lambda self: self.slices is not None)
    @rule()
    def go_on_with_checkpoint(self) -> None:
        assert self.slices is not None
        position, slices, rows = self.slices
        for part in slices:
            rows.extend(part)
            return
        self.slices = None
        self.restore(position, rows)

    def restore(self, position: int, rows: list[tuple[bytes, list[Version]]]) -> None:
        """A checkpoint and the records after it read as the table does."""
        table = Table(TOMBSTONE_EPOCHS)
        single = [(key, chain[0]) for key, chain in rows if len(chain) == 1]
        table.load([key for key, _ in single], *([version[at] for _, version in single] for at in range(3)))  # type: ignore[arg-type]
        for key, chain in rows:
            for version in chain if len(chain) > 1 else ():
                table.insert(key, *version)
        after = [
            (version[2][1], key, version)
            for key, chain in self.model.versions.items()
            for version in chain
            if version[2][1] > position
        ]
        for _, key, version in sorted(after, key=lambda row: row[0]):
            table.insert(key, *version)
        table._check()
        for key in KEYS:
            assert live(table.latest(key)) == live(self.table.latest(key))
            for epoch in range(self.horizon, self.epoch + 3):
                assert live(table.as_of(key, Epoch(epoch))) == live(self.table.as_of(key, Epoch(epoch)))

    @invariant()
    def consistent(self) -> None:
        self.table._check()
        chains = {key: self.table.chain(key) for key in KEYS}
        for key, chain in chains.items():
            full = self.model.chain(key)
            assert chain == full[len(full) - len(chain) :], "what is held is the newest part of the history"
            known = self.table.latest(key)
            assert known == (chain[-1] if chain else None)
            highest = max((number for _, number, _ in chain), default=0)
            assert highest <= self.table.latest_version(key) <= max((number for _, number, _ in full), default=0)
            assert known or not self.table.latest_version(key)
            assert live(known) == live(full[-1] if full else None)
            for epoch in range(self.horizon, self.epoch + 2):
                seen = next((version for version in reversed(full) if version[2][0] <= epoch), None)
                assert live(self.table.as_of(key, Epoch(epoch))) == live(seen)
        assert self.table.live_count == sum(live(chain[-1]) is not None for chain in chains.values() if chain)
        assert self.table.entry_count == len(self.table.keys()) == sum(map(bool, chains.values()))


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=50, stateful_step_count=30)


@pytest.mark.parametrize("seed", range(40))
def test_a_long_life(seed: int) -> None:
    """All operations in a random mix, which the search above, that looks for a short proof, seldom has."""
    chance = random.Random(seed)
    machine = TableMachine()
    machine.start()

    def rows(count: int) -> list[tuple[bytes, bool, bool]]:
        return [
            (chance.choice(KEYS), chance.random() < 0.6, chance.random() < 0.3) for _ in range(chance.randint(1, count))
        ]

    def scan() -> None:
        ahead = chance.choice([None, chance.randint(0, 8)])
        machine.scan(
            chance.choice([b"", *KEYS]),
            chance.choice([None, *KEYS]),
            ahead,
            chance.randint(1, 6),
            chance.random() < 0.5,
        )

    def checkpoint() -> None:
        if machine.slices is None:
            machine.begin_checkpoint(chance.randint(1, 3))
        else:
            machine.go_on_with_checkpoint()

    operations = (
        lambda: machine.apply(rows(6), chance.randint(0, 2)),
        lambda: machine.apply_late(rows(3), chance.randint(1, 5)),
        lambda: machine.insert(chance.choice(KEYS), chance.randint(0, 5), chance.random() < 0.5),
        lambda: machine.close(chance.randint(0, 4)),
        lambda: machine.reclaim(chance.choice([0, 1, 2, 20]), chance.randint(1, 5), chance.random() < 0.5),
        scan,
        checkpoint,
    )
    for _ in range(120):
        chance.choice(operations)()
        machine.consistent()
