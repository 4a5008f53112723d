"""A generation of one derived map in one partition: its table, made anew from outside the live one; and what differs
between two of them.

    regenerated     what a replay made of the raw writes below the activation of the code, then, from there on, the
                    outputs that are in the log: that code wrote them
    as seen         what readers see: all outputs that are in the log; or, of a later generation, its base, and the
                    outputs from its activation on

What is regenerated from a later epoch on keeps, below that, what readers see.

Order is that of the protocol (I17): (effective epoch, position). Values of a fold are made here, by the fold of the
epoch (`fold_at`); for what was replayed that is today's.

Version numbers below the activation count from 1 per key, in this order; above it they are those of the log, by which
records are found again. So numbers of one key need not rise along its versions; stamps do. The next number is above all.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tidegrid.grid.engine.replaying import SettledRows
from tidegrid.grid.engine.row_text import canonical, changed_columns, shortened
from tidegrid.grid.engine.table_chunks import load_base
from tidegrid.grid.log.record import DELETE, Record, Section, decode_section
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.keys import decode_key
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.model.values import decode_value
from tidegrid.grid.store.merged import FoldAt, MergedTable
from tidegrid.grid.store.table import Table

EXAMPLES_MAX: Final = 10
ALL_POSITIONS: Final = Position((1 << 63) - 1)
_SETTLE_EVERY: Final = 20_000  # rows: operands below are let go of


def in_order(streams: Sequence[Iterable[SettledRows]]) -> Iterator[SettledRows]:
    """The rows of several passes over one partition, each in order, as one."""
    return heapq.merge(*streams, key=_order)


class Generation:
    """Lifecycle: `based` or `kept`, or neither; `replayed` at most once; then `logged` record by record, then `end`; then
    `table` is whole.

    `lag`: how far a record may be in its log behind its effective epoch. Operands of the log are kept back that long, so
    that each is folded once, in order.
    """

    def __init__(self, spec: MapSpec, fold_at: FoldAt | None, lag: int) -> None:
        assert spec.merged == (fold_at is not None)
        self.table: Table = MergedTable(fold_at) if fold_at is not None else Table()
        self._name = spec.name
        self._lag = lag
        self._renumbered = False
        self._numbers: dict[bytes, int] = defaultdict(int)
        self._kept: list[tuple[Stamp, Section]] = []  # of a map with a fold
        self._kept_rows = 0

    def based(self, base: str, chunks: Iterable[bytes]) -> None:
        """What it is below its activation. Raises FormatError."""
        self._renumbered = True
        for _ in load_base(self.table, base, chunks):
            pass

    def kept(self, other: Table, below: Epoch) -> None:
        """The versions of another generation below that epoch."""
        table, numbers = self.table, self._numbers
        for rows in other.slices(ALL_POSITIONS, _SETTLE_EVERY):
            for key, versions in rows:
                for value, _, stamp in versions:
                    if stamp[0] < below:
                        numbers[key] += 1
                        table.insert(key, value, numbers[key], stamp)

    def replayed(self, rows: Iterable[SettledRows]) -> None:
        """In order, of this map alone."""
        table, numbers = self.table, self._numbers
        self._renumbered = True
        since, epoch = 0, Epoch(0)
        for one in rows:
            versions: list[int] = []
            for key in one.keys:
                numbers[key] += 1
                versions.append(numbers[key])
            if one.effective > epoch:
                if since >= _SETTLE_EVERY and isinstance(table, MergedTable):
                    table.settle(epoch)
                    since = 0
                epoch = one.effective
            since += len(one.keys)
            table.apply(one.keys, one.values, one.ops, versions, _stamp(one))

    def logged(self, position: Position, record: Record) -> None:
        """A valid record of the partition that counts for this generation, in the order of the log."""
        if self._name not in record.maps:
            return
        stamp: Stamp = (Epoch(record.effective), position, record.time_ms)
        for name, payload in zip(record.maps, record.sections, strict=True):
            if name == self._name:
                self._take(decode_section(payload), stamp)
        if self._kept_rows >= _SETTLE_EVERY:
            self._fold(Epoch(record.stamp - self._lag))

    def end(self) -> None:
        if self._kept:
            self._fold(max(stamp[0] for stamp, _ in self._kept))

    def _take(self, section: Section, stamp: Stamp) -> None:
        table = self.table
        if isinstance(table, MergedTable):
            self._kept.append((stamp, section))
            self._kept_rows += len(section.keys)
        elif not self._renumbered:
            table.apply(section.keys, section.values, section.ops, section.versions, stamp)
        else:
            columns = zip(section.keys, section.values, section.ops, section.versions, strict=True)
            for key, value, op, version in columns:  # a number may be below that of the version before
                table.insert(key, None if op == DELETE else value, version, stamp)

    def _fold(self, through: Epoch) -> None:
        """Nothing comes at or below `through` any more."""
        table = self.table
        assert isinstance(table, MergedTable)
        ready = sorted((one for one in self._kept if one[0][0] <= through), key=lambda one: one[0])
        self._kept = [one for one in self._kept if one[0][0] > through]
        self._kept_rows = sum(len(section.keys) for _, section in self._kept)
        for stamp, section in ready:
            table.apply(section.keys, section.values, section.ops, section.versions, stamp)
        table.settle(through)


class Example(NamedTuple):
    """Texts; empty: there is none."""

    key: str
    before: str
    after: str


@dataclass(slots=True)
class Difference:
    """Between two generations of a map as of one epoch, in rows. `columns`: in how many changed rows each differs."""

    before: int = 0
    after: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    columns: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)

    @property
    def same(self) -> bool:
        return not (self.added or self.removed or self.changed)

    def add(self, other: Difference) -> None:
        for name in ("before", "after", "added", "removed", "changed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.columns.update(other.columns)
        self.examples += other.examples[: EXAMPLES_MAX - len(self.examples)]

    def plain(self) -> list[Any]:
        counts = [self.before, self.after, self.added, self.removed, self.changed]
        return [*counts, list(self.columns.items()), [list(example) for example in self.examples]]

    @classmethod
    def of(cls, plain: list[Any]) -> Difference:
        before, after, added, removed, changed, columns, examples = plain
        found = [Example(*example) for example in examples]
        return cls(before, after, added, removed, changed, Counter(dict(columns)), found)


def difference(before: Table, after: Table, epoch: Epoch) -> Difference:
    """As of a closed epoch. O(keys). Raises EpochTooOldError."""
    found = Difference()
    for key in before.keys() | after.keys():
        old, new = (_value(table, key, epoch) for table in (before, after))
        found.before += old is not None
        found.after += new is not None
        if old == new:
            continue
        if old is None or new is None:
            found.added += old is None
            found.removed += new is None
            _note(found, key, _text(old), _text(new))
        else:
            _compare(found, key, decode_value(old), decode_value(new))
    found.examples.sort()
    return found


def _compare(found: Difference, key: bytes, old: Any, new: Any) -> None:
    if canonical(old) == canonical(new):
        return
    found.changed += 1
    if isinstance(old, dict) and isinstance(new, dict):
        columns = changed_columns(old, new)
        found.columns.update(map(str, columns))
        old, new = ({name: side[name] for name in columns if name in side} for side in (old, new))
    _note(found, key, shortened(repr(old)), shortened(repr(new)))


def _note(found: Difference, key: bytes, before: str, after: str) -> None:
    if len(found.examples) < EXAMPLES_MAX:
        found.examples.append(Example(shortened(repr(decode_key(key))), before, after))


def _value(table: Table, key: bytes, epoch: Epoch) -> bytes | None:
    version = table.as_of(key, epoch)
    return version[0] if version is not None else None


def _text(value: bytes | None) -> str:
    return shortened(repr(decode_value(value))) if value is not None else ""


def _stamp(rows: SettledRows) -> Stamp:
    return rows[:3]


def _order(rows: SettledRows) -> tuple[Epoch, Position, int, int]:
    return rows[:4]
