"""Where what triggers make goes, and what version numbers go on from: columns of outputs, the outbox, failures.

The base of each number is what the partition will hold once everything before it has landed: this frame's rows so far,
then the frame in flight, then the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.frame import Change, Columns, Consigned, Frame
from tidegrid.grid.engine.write import PER_WRITE_BYTES, section_bytes
from tidegrid.grid.log.record import EVENT, Failure
from tidegrid.grid.model.ids import PartitionId
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.store.table import Table
from tidegrid.triggers.runtime import Output, Rejection, Routed

Target = tuple[Columns, dict[bytes, Change], Mapping[bytes, Change], Callable[[bytes], int]]
"""(columns of the outputs, this frame's changes, those of the frame in flight, latest version in the table)"""


OUTBOX_BYTES: Final = 32  # what an entry weighs beside its sections
MESSAGE_CHARS_MAX: Final = 500  # of what a trigger said when it failed


class Placing:
    """Of one frame in the making."""

    def __init__(
        self, frame: Frame, base: Frame | None, tables: Mapping[str, Table], catalog: Catalog, limits: Limits
    ) -> None:
        self.frame = frame
        self._base = base
        self._tables = tables
        self._catalog = catalog
        self._limits = limits
        self._targets: dict[str, Target] = {}
        self._consigned: dict[tuple[int, str], tuple[Consigned, Columns]] = {}  # by partition and map

    def layers(self, name: str) -> tuple[dict[bytes, Change], Mapping[bytes, Change], Table | None]:
        """What version numbers of a map go on from: this frame, the frame in flight, the table."""
        fresh = self.frame.changes.setdefault(name, {})
        older = self._base.changes.get(name, _NOTHING) if self._base is not None else _NOTHING
        return fresh, older, self._tables.get(name)

    def put_outputs(self, outputs: list[Output], cause: int) -> None:
        targets = self._targets
        for op, name, key, value in outputs:
            target = targets.get(name)
            if target is None:
                target = targets[name] = self._target(name)
            columns, fresh, older, latest_version = target
            if op == EVENT:
                version = 1
            else:
                known = fresh.get(key) or older.get(key)
                version = (latest_version(key) if known is None else known[0]) + 1
                fresh[key] = (version, value)
            columns.keys.append(key)
            columns.values.append(value or b"")
            columns.ops.append(op)
            columns.versions.append(version)
            columns.causes.append(cause)
        self.frame.output_count += len(outputs)

    def routed_weight(self, routed: list[Routed]) -> int:
        weight, known = PER_WRITE_BYTES * len(routed), self._consigned
        begun: set[tuple[int, str]] = set()
        for partition, _, (_, name, key, value) in routed:
            weight += len(key) + (len(value) if value is not None else 0)
            if (partition, name) not in known and (partition, name) not in begun:
                begun.add((partition, name))
                weight += section_bytes(name) + OUTBOX_BYTES
        return weight

    def put_routed(self, routed: list[Routed], cause: int) -> None:
        known = self._consigned
        for partition, depth, (op, name, key, value) in routed:
            found = known.get((partition, name))
            if found is None:
                found = known[partition, name] = self._consign(PartitionId(partition), name)
            consigned, columns = found
            columns.keys.append(key)
            columns.values.append(value or b"")
            columns.ops.append(op)
            columns.causes.append(cause)
            if depth > consigned.depth:
                consigned.depth = depth
        self.frame.output_count += len(routed)

    def _consign(self, partition: PartitionId, name: str) -> tuple[Consigned, Columns]:
        """Where the outputs to one map in one other partition go."""
        consigned = self.frame.outbox.setdefault(partition, Consigned())
        columns = consigned.columns[name] = Columns(self._catalog.map(name).spec.schema)
        return consigned, columns

    def note_failure(self, failure: Failure) -> None:
        """A row that failed is always noted, its words as long as there is room: rows weigh less than they are taken for."""
        frame = self.frame
        weight = failure.ByteSize() + PER_WRITE_BYTES
        if frame.framing + frame.size + weight > self._limits.record_bytes_max:
            failure, weight = Failure(row=failure.row, veto=failure.veto), 0
        frame.size += weight
        frame.failures.append(failure)

    def _target(self, name: str) -> Target:
        """Where the outputs to one map go, and what their version numbers go on from."""
        columns = self.frame.outputs[name] = Columns(self._catalog.map(name).spec.schema)
        fresh, older, table = self.layers(name)
        return columns, fresh, older, table.latest_version if table is not None else _never


def failure_of(row: int, result: Rejection, previous: bytes | None = None) -> Failure:
    return Failure(
        row=row, trigger=result.trigger, module=result.module, line=result.line,
        message=result.message[:MESSAGE_CHARS_MAX], previous=previous or b"", veto=not result.failed,
    )  # fmt: skip


def _never(_key: bytes) -> int:
    return 0


_NOTHING: dict[bytes, Change] = {}
