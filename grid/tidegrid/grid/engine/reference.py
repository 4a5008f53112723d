"""A node's copies of all reference maps, for look-ups in triggers (rule Q).

The copies are filled from the owners, close by close: when a CLOSE says that a reference map has changed since what
the copies hold, every owner is asked for the versions with effective epochs in (held, closed], and only when all have
answered do the copies speak of the later epoch. A close without such a change moves them on for nothing. So the
epoch `through` is always one that both the control prefix and the copies contain, look-ups read as of it, and it is
recorded in the frame.

An owner lets go of a tombstone that has lain below the horizon for long (`buried`). Copies that are that old would never
hear of such a delete: they ask for everything, and what comes takes the place of all they have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.log.record import DELETE, decode_section
from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.store.table import Table

_ROWS_MAX = 2_000  # of one answer
_BYTES_MAX = 1024 * 1024
_NOTHING: Final = Epoch(0)


class ReferenceRow(NamedTuple):
    map: str
    partition: PartitionId
    key: bytes
    value: bytes | None
    version: int
    stamp: Stamp


class Fetch(NamedTuple):
    """Ask `node` for versions in (after, through], leaving out the first `skip`."""

    node: NodeId
    number: int
    after: Epoch
    through: Epoch
    skip: int


class ReferenceCopies:
    def __init__(self, first_number: int = 0, retry_seconds: float = 0.25) -> None:
        """`first_number`: questions are numbered from it on; a life of the node must not use those of another."""
        self.through = Epoch(0)
        self.changed = Epoch(0)  # an upper bound, at most `through`
        self._tables: dict[str, Table] = {}
        self._retry_seconds = retry_seconds
        self._after = Epoch(0)  # of the fetch under way; 0: it asks for everything
        self._target = Epoch(0)  # of the fetch under way; 0: none
        self._number = first_number
        self._missing: dict[NodeId, int] = {}  # owners that have not answered in full -> rows received
        self._rows: list[ReferenceRow] = []
        self._retry_at = 0.0

    def get(self, map_name: str, key: bytes, as_of: Epoch) -> bytes | None:
        table = self._tables.get(map_name)
        version = table.as_of(key, as_of) if table is not None else None
        return version[0] if version is not None else None

    def advance(
        self, now: float, closed: Epoch, reference_epoch: Epoch, owners: Iterable[NodeId], buried: Epoch = _NOTHING
    ) -> list[Fetch]:
        """A CLOSE was applied, or time has passed: what to ask for now. Deletes up to `buried` may be forgotten."""
        if reference_epoch <= self.through:
            self.through = max(self.through, closed)
            return []
        if self._target and 0 < self._after < buried:
            self.restart()
        if not self._target:
            self._after = self.through if self.through >= buried else _NOTHING
            self._target, self._number, self._rows = closed, self._number + 1, []
            self._missing = dict.fromkeys(owners, 0)
        elif now < self._retry_at:
            return []
        self._retry_at = now + self._retry_seconds
        return [Fetch(node, self._number, self._after, self._target, skip) for node, skip in self._missing.items()]

    def restart(self) -> None:
        """Ownership has changed: what was asked of the owners of before does not count."""
        self._target = Epoch(0)

    @property
    def target(self) -> Epoch:
        """Of the fetch under way, or what is held."""
        return self._target or self.through

    @property
    def deadline(self) -> float | None:
        return self._retry_at if self._target else None

    def received(
        self, now: float, node: NodeId, number: int, skip: int, rows: list[ReferenceRow], complete: bool
    ) -> Fetch | None:
        """An owner's answer; late, doubled and foreign ones are passed over. Returns the next part to ask for."""
        if not self._target or number != self._number or self._missing.get(node) != skip:
            return None
        self._rows.extend(rows)
        if not complete:
            self._missing[node] = skip + len(rows)
            self._retry_at = now + self._retry_seconds
            return Fetch(node, number, self._after, self._target, skip + len(rows))
        del self._missing[node]
        if not self._missing:
            if not self._after:
                self._tables = {}
            for row in self._rows:
                self._tables.setdefault(row.map, Table()).insert(row.key, row.value, row.version, row.stamp)
            self.through = self.changed = self._target
            self._target, self._rows = Epoch(0), []
        return None

    def reclaim(self, horizon: Epoch, budget: int) -> None:
        """Look-ups go on as of `through`, which may lag behind the horizon."""
        for table in self._tables.values():
            table.reclaim(min(horizon, self.through), budget)


def reference_rows(
    partitions: Mapping[PartitionId, Partition], names: frozenset[str], after: Epoch, through: Epoch
) -> list[ReferenceRow]:
    """An owner's answer: its versions of reference maps in (after, through]."""
    rows: list[ReferenceRow] = []
    for partition in sorted(partitions):
        rows.extend(_partition_rows(partitions[partition], names, after, through))
    return rows


def part_of(rows: list[ReferenceRow], skip: int) -> tuple[list[ReferenceRow], bool]:
    """A message's worth of rows from `skip` on, and whether they are the last."""
    part: list[ReferenceRow] = []
    size = 0
    for row in rows[skip : skip + _ROWS_MAX]:
        size += len(row.key) + len(row.value or b"")
        if part and size > _BYTES_MAX:
            break
        part.append(row)
    return part, skip + len(part) >= len(rows)


def _partition_rows(partition: Partition, names: frozenset[str], after: Epoch, through: Epoch) -> list[ReferenceRow]:
    frames = partition.recent.between(after, through)
    rows: list[ReferenceRow] = []
    if frames is not None:
        for frame in frames:
            stamp = (frame.effective, frame.position, frame.time_ms)
            for name, payload in zip(frame.maps, frame.sections, strict=True):
                if name in names:
                    section = decode_section(payload)
                    columns = zip(section.keys, section.values, section.ops, section.versions, strict=True)
                    rows.extend(
                        ReferenceRow(name, partition.id, key, None if op == DELETE else value, version, stamp)
                        for key, value, op, version in columns
                    )
        return rows
    for name in sorted(names & partition.tables.keys()):
        table = partition.tables[name]
        for key in sorted(table.keys()):
            rows.extend(
                ReferenceRow(name, partition.id, key, value, version, stamp)
                for value, version, stamp in table.chain(key)
                if after < stamp[0] <= through
            )
    return rows
