"""What the judge knows of parked writes, from the records alone: each is redriven once, or dropped, or parked still; what
came of a redrive is what the code of its epoch makes of the write; and no old write goes over a newer one unasked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.redrive import DROPPED, FAILED, GONE, REDRIVEN, SUPERSEDED, Outcome
from tidegrid.grid.log.record import ROUTED, Record

from tests.simulation.content import STOPPED, Wanted, pack, stopped_rows
from tests.simulation.options import LIMITS
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.judge import Judge

Id = tuple[int, int]
"""(position, row)"""


class ParkedRow(NamedTuple):
    map: str
    key: bytes
    content: Any
    place: tuple[int, int, int]  # (effective epoch, position, number) of its version


class End(NamedTuple):
    """The record that redrove or dropped it."""

    position: int
    epoch: int
    dropped: bool


class Parked:
    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.rows: dict[int, dict[Id, ParkedRow]] = defaultdict(dict)  # ever parked, by partition
        self.ends: dict[int, dict[Id, End]] = defaultdict(dict)
        self.tries: dict[tuple[int, Id], list[int]] = defaultdict(list)  # positions of redrives that failed
        self.forced: set[tuple[int, Id]] = set()  # what somebody has asked for whatever was written since
        self.unparked: dict[int, list[int]] = defaultdict(list)

    def now(self, partition: int) -> int:
        return len(self.rows[partition]) - len(self.ends[partition])

    def is_full(self, partition: int) -> None:
        """A write was refused since there was no room for it: what was on its way counts, two frames at most."""
        if self.now(partition) + 2 * LIMITS.frame_writes_max < LIMITS.parked_max:
            raise Violation(f"parked: refused with {self.now(partition)} parked in {partition}")

    # Records ------------------------------------------------------------------------------------------------------

    def park(
        self, partition: int, of: Id, name: str, key: bytes, content: Any, number: int, record: Record, failed: set[int]
    ) -> None:
        if of[1] not in failed:
            raise Violation(f"parked: {name} {key!r} of {of} in {partition} fails, which is not noted")
        failed.discard(of[1])
        if record.kind == ROUTED and self.now(partition) >= LIMITS.parked_max:
            self.unparked[partition].append(of[0])
        else:
            self.rows[partition][of] = ParkedRow(name, key, content, (record.effective, of[0], number))

    def redriven_by(
        self, code: int, partition: int, position: int, record: Record
    ) -> Iterator[tuple[int, list[Wanted]]]:
        """What each of them makes; of those that fail again, and of dropped ones, nothing."""
        if record.write_sections or record.sessions or record.sources:
            raise Violation(f"parked: {position} in {partition} is more than a redrive")
        failed = {failure.row for failure in record.failures}
        stopped = stopped_rows(record)
        for at, done in enumerate(record.redriven):
            of = (done.position, done.row)
            row = self.rows[partition].get(of)
            if row is None or of in self.ends[partition]:
                raise Violation(f"parked: {of} of {partition} is redriven by {position}, and is not parked")
            if done.dropped:
                self.ends[partition][of] = End(position, record.effective, True)
                continue
            if self.superseded(row) and not self._forgotten(row) and (partition, of) not in self.forced:
                raise Violation(f"parked: {of} of {partition} goes over a later version of {row.map} {row.key!r}")
            made = STOPPED if at in stopped else self._made(code, partition, row, record)
            if isinstance(made, str) is not (at in failed):
                raise Violation(f"parked: {of} of {partition} makes {made}; failures noted: {sorted(failed)}")
            if isinstance(made, str):
                self.tries[partition, of].append(position)
            else:
                self.ends[partition][of] = End(position, record.effective, False)
                yield at, made

    def _made(self, code: int, partition: int, row: ParkedRow, record: Record) -> list[Wanted] | str:
        deliveries = self._judge.deliveries
        if row.map == "raw":
            return deliveries.made_of_write(code, row.key, row.content, partition, record)
        value = None if row.content is None else pack(row.content)
        return deliveries.made_of_delivery(code, row.key, value, None, record)

    def superseded(self, row: ParkedRow) -> bool:
        latest = self._judge.latest(row.map, row.key)
        return latest is not None and latest[:3] > row.place

    def _forgotten(self, row: ParkedRow) -> bool:
        """A delete after which nothing came but deletes, that were let go of: nobody can tell them apart any more."""
        judge = self._judge
        latest = judge.latest(row.map, row.key)
        gone = latest is not None and latest.value is None and latest.epoch <= judge.horizon - judge.session_epochs
        return gone and row.content is None

    # What nodes hold and say --------------------------------------------------------------------------------------

    def check(self, partition: Partition) -> None:
        """I11: what is parked, of what is in the log up to its tail."""
        number, tail = partition.id, partition.tail
        wanted = {}
        for of, row in self.rows[number].items():
            end = self.ends[number].get(of)
            if of[0] <= tail and (end is None or end.position > tail):
                tries = sum(position <= tail for position in self.tries[number, of])
                wanted[of] = (row.map, row.key, row.place, tries)
        held = partition.parking.page("", (0, 0), 1 << 30)[0]  # type: ignore[arg-type]
        found = {
            tuple(write.id): (write.map, write.key, (write.effective, write.id.position, write.version), write.tries)
            for write in held
        }
        if found != wanted:
            raise Violation(f"I11: parked in {number} up to {tail}: {found}, the log says {wanted}")
        unparked = sum(position <= tail for position in self.unparked[number])
        if partition.parking.unparked != unparked or partition.parking.bytes != sum(write.size for write in held):
            raise Violation(f"I11: parking of {number} has lost count: {partition.parking.unparked}, not {unparked}")

    def told(self, partition: int, outcome: Outcome) -> None:
        """A node answers this now: it rests on what is in the log."""
        of = (int(outcome.id.position), outcome.id.row)
        row, end = self.rows[partition].get(of), self.ends[partition].get(of)
        right = {
            REDRIVEN: end is not None and not end.dropped and end.epoch == outcome.epoch,
            DROPPED: end is not None and end.dropped,
            FAILED: bool(self.tries[partition, of]),
            SUPERSEDED: row is not None and self.superseded(row),
            GONE: row is None or end is not None,
        }
        if not right[outcome.word]:
            raise Violation(f"parked: told of {of} in {partition}: {outcome}; the log says {row}, {end}")
