"""A table whose values are folded from operands (protocol, I17): each version is the fold of all operands up to it.

Operands come in the order of the log, and count in the order (effective epoch, position, number): one that is late goes
where it belongs, and what lies after it is folded again. Nothing comes at or below a closed epoch, so operands are kept
above the last close only, and a value at a closed epoch never changes.

An operand is a MERGE; a PUT or DELETE takes part as "from here on it is this". The fold is a function of the operand's
effective epoch, total, and knows nothing of epochs itself: fold(state or None, operand) -> state, or None: deleted.

Invariant: `_operands` has, per key, every operand above the last settled epoch, in order, and the chain of that key has
a version for each.
Prior art: merge operators of RocksDB; Bayou's write logs, which are rolled back and forward for late writes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, TypeAlias

from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.store.table import Table
from tidegrid.grid.store.version import DELETE, PUT, order_of

MERGE: Final = 4
_NO_HORIZON: Final = Epoch(0)

Fold: TypeAlias = Callable[[bytes | None, bytes], bytes | None]
FoldAt: TypeAlias = Callable[[Epoch], Fold]


class Operand(NamedTuple):
    stamp: Stamp
    number: int
    op: int
    payload: bytes


class MergedTable(Table):
    __slots__ = ("_fold", "_fold_at", "_fold_epoch", "_operands", "_pins", "_settled")

    def __init__(self, fold_at: FoldAt, tombstone_epochs: int = 1 << 20, horizon: Epoch = _NO_HORIZON) -> None:
        super().__init__(tombstone_epochs, horizon)
        self._fold_at = fold_at
        self._fold: Fold | None = None  # that of `_fold_epoch`, for one section
        self._fold_epoch = Epoch(0)
        self._operands: dict[bytes, list[Operand]] = {}
        self._settled = Epoch(0)
        self._pins: list[Epoch] = []

    def apply(
        self, keys: Sequence[bytes], values: Sequence[bytes], ops: bytes, versions: Sequence[int], stamp: Stamp
    ) -> None:
        """The columns of one section, in order. O(1) for each that is the newest of its key, else O(versions of it)."""
        self._fold = None
        for key, value, op, number in zip(keys, values, ops, versions, strict=True):
            self._merge(key, Operand(stamp, number, op, value))

    def _merge(self, key: bytes, new: Operand) -> None:
        latest = self.latest(key)
        if latest is None or order_of(latest) < new[:2]:
            self.insert(key, self._folded(None if latest is None else latest[0], new), new.number, new.stamp)
            self._operands.setdefault(key, []).append(new)
            return
        operands = self._operands.setdefault(key, [])
        at = bisect_right(operands, new[:2], key=_order)
        operands.insert(at, new)
        chain = self.chain(key)
        before = bisect_left(chain, new[:2], key=order_of)
        state = self._folded(chain[before - 1][0] if before else None, new)
        self.insert(key, state, new.number, new.stamp)
        for later in operands[at + 1 :]:
            state = self._folded(state, later)
            self.replace(key, state, later.number, later.stamp)

    def _folded(self, state: bytes | None, operand: Operand) -> bytes | None:
        if operand.op == MERGE:
            if self._fold is None or self._fold_epoch != operand.stamp[0]:
                self._fold, self._fold_epoch = self._fold_at(operand.stamp[0]), operand.stamp[0]
            return self._fold(state, operand.payload)
        assert operand.op in (PUT, DELETE)
        return operand.payload if operand.op == PUT else None

    def value_at(self, key: bytes, stamp: Stamp, number: int) -> bytes | None:
        """What the operand of that frame led to. It is in memory while the horizon has not passed it."""
        chain = self.chain(key)
        at = bisect_left(chain, (stamp, number), key=order_of)
        assert at < len(chain) and order_of(chain[at]) == (stamp, number), "a version above the horizon is here"
        return chain[at][0]

    def settle(self, closed: Epoch) -> None:
        """Nothing comes at or below `closed` any more: its operands are done with."""
        self._settled = max(self._settled, closed)
        for key in list(self._operands):
            left = [operand for operand in self._operands[key] if operand.stamp[0] > closed]
            if left:
                self._operands[key] = left
            else:
                del self._operands[key]

    # Checkpoints -------------------------------------------------------------------------------------------------

    def operands(self) -> Iterator[tuple[bytes, Operand]]:
        """All that are not settled. A checkpoint takes them before its first slice of versions."""
        for key, operands in self._operands.items():
            for operand in operands:
                yield key, operand

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """While a checkpoint is taken, each key keeps the version that the next operand in the log was folded onto.

        A plain table needs no such thing: there the next version does not depend on the one before it.
        """
        pin = self._settled  # all that is not in the log yet lies above
        self._pins.append(pin)
        try:
            yield
        finally:
            self._pins.remove(pin)

    def reclaim(self, horizon: Epoch, budget: int) -> int:
        return super().reclaim(min(horizon, *self._pins) if self._pins else horizon, budget)

    def _forget(self, key: bytes) -> None:
        super()._forget(key)
        self._operands.pop(key, None)

    def recall(self, rows: Iterable[tuple[bytes, Operand]]) -> None:
        """Operands of a checkpoint, in the order of `operands`; the versions they led to come by `load` and `insert`."""
        for key, operand in rows:
            self._operands.setdefault(key, []).append(operand)

    def _check(self) -> None:
        super()._check()
        for key, operands in self._operands.items():
            orders = [_order(operand) for operand in operands]
            assert orders == sorted(set(orders)) and orders, f"operands of {key!r} are out of order"
            held = {order_of(version) for version in self.chain(key)}
            assert held.issuperset(orders), f"an operand of {key!r} has no version"


def _order(operand: Operand) -> tuple[tuple[Epoch, Position, int], int]:
    return operand[:2]
