"""What the judge knows of routed outputs, from the records alone. Letters as in the protocol: X once, in full, at the
epoch of its source; I13 nothing of a closed epoch is outstanding; X6 look-ups are final; I14 by the code of its epoch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tidegrid.grid.log.record import (
    DELETE,
    EVENT,
    MERGE,
    PUT,
    Record,
    SourceId,
    decode_outbox,
    decode_section,
)

from tests.simulation.content import Fails, Wanted, chained, expected, pack, unpack, value_of
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.judge import Judge

OPS = {"put": PUT, "delete": DELETE, "event": EVENT, "merge": MERGE}


class Row(NamedTuple):
    op: int
    map: str
    key: bytes
    value: bytes | None


@dataclass(slots=True)
class Outstanding:
    """An entry of an outbox that is in the log and not yet delivered."""

    target: int
    effective: int
    rows: list[Row] = field(default_factory=list)


class Deliveries:
    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.outstanding: dict[SourceId, Outstanding] = {}
        self.delivered = 0
        self.newest: dict[tuple[int, int, str, int], int] = {}  # by source, receiver, map and epoch
        self.failures = 0
        self._final: dict[int, int] = defaultdict(int)  # per partition: what was looked up as of this is final

    def closed(self, epoch: int) -> None:
        for source, one in self.outstanding.items():
            if one.effective <= epoch:
                raise Violation(f"I13: CLOSE {epoch}, and {source} of epoch {one.effective} is not in {one.target}")

    def written(self, partition: int, stamp: int) -> None:
        """A record with direct writes, or one that lets a group in."""
        if stamp <= self._final[partition]:
            raise Violation(f"X6: a write of epoch {stamp} in {partition}, looked up as of {self._final[partition]}")

    # One record ---------------------------------------------------------------------------------------------------

    def outputs_of_write(self, code: int, key: bytes, row: Any, partition: int, record: Record) -> list[Wanted] | Fails:
        """What a write to raw emits, here and elsewhere, with what its local outputs set off. Fails: it is parked."""
        made = self.made_of_write(code, key, row, partition, record)
        if isinstance(made, str) and not isinstance(made, Fails):
            raise Violation(f"a write to raw that a trigger refuses ({made}) is in the log")
        return made

    def made_of_write(self, code: int, key: bytes, row: Any, partition: int, record: Record) -> list[Wanted] | str:
        judge, keys = self._judge, self._judge.keys

        def latest(name: str, of: tuple[Any, ...]) -> Any:
            return value_of(judge.latest(name, keys.encode(of)))

        reference = self._reference(record)
        outputs: list[Wanted] = []
        for made in expected(code, record.effective, keys.name(key), row, latest, reference):
            if isinstance(made, str):
                return made
            outputs.append(made)
            if made.map == "spread" and keys.partition("spread", keys.encode(made.key)) == partition:
                for further in chained(code, record.effective, made.key, made.value, latest, reference):
                    if isinstance(further, str):
                        return further
                    outputs.append(further)
        return outputs

    def outputs_of_delivery(self, code: int, row: Row, partition: int, record: Record) -> list[Wanted] | str:
        self._final[partition] = max(self._final[partition], record.effective)
        return self.made_of_delivery(code, row.key, row.value, record.effective, record)

    def made_of_delivery(
        self, code: int, key: bytes, value: bytes | None, as_of: int | None, record: Record
    ) -> list[Wanted] | str:
        """`as_of`: of what it looks up beside it; None: the latest."""
        judge, keys = self._judge, self._judge.keys

        def beside(name: str, of: tuple[Any, ...]) -> Any:
            known = keys.encode(of)
            return value_of(judge.latest(name, known) if as_of is None else judge.as_of(name, known, as_of))

        content = None if value is None else unpack(value)
        made = list(chained(code, record.effective, keys.name(key), content, beside, self._reference(record)))
        return made[0] if isinstance(made[0], str) else made  # type: ignore[return-value]

    def _reference(self, record: Record) -> Callable[[str, tuple[Any, ...]], Any]:
        judge = self._judge
        return lambda name, of: value_of(judge.as_of(name, judge.keys.encode(of), record.ref_epoch))

    def taken(self, partition: int, record: Record) -> list[Row]:
        """The rows that a ROUTED record delivers, in section order; each source exactly once, and all of it; to each map
        in the order in which their partition sent them in that epoch."""
        rows: dict[int, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
        ordered: list[Row] = []
        for name, payload in zip(
            record.maps[: record.write_sections], record.sections[: record.write_sections], strict=True
        ):
            section = decode_section(payload)
            for op, key, value, source in zip(section.ops, section.keys, section.values, section.causes, strict=True):
                row = Row(op, name, key, None if op == DELETE else value)
                rows[source][name].append(row)
                self._in_turn(partition, name, record, source)
                ordered.append(row)
        for at, message in enumerate(record.sources):
            source = SourceId.of(message)
            sent = self.outstanding.pop(source, None)
            if sent is None:
                raise Violation(f"X: {source} is delivered to {partition}, and was not sent, or is there already")
            if (sent.target, sent.effective) != (partition, record.effective):
                raise Violation(
                    f"X: {source} of {sent.effective} for {sent.target} is in {partition} at {record.effective}"
                )
            wanted: dict[str, list[Row]] = defaultdict(list)
            for row in sent.rows:
                wanted[row.map].append(row)
            if wanted != rows.pop(at, {}):
                raise Violation(f"X: {source} was sent as {dict(wanted)}")
            self.delivered += 1
        if rows:
            raise Violation(f"X: rows of no source in {partition}: {dict(rows)}")
        return ordered

    def _in_turn(self, partition: int, name: str, record: Record, number: int) -> None:
        if number >= len(record.sources):
            return  # told of below
        source = SourceId.of(record.sources[number])
        line = (source.partition, partition, name, record.effective)
        if source.position < self.newest.get(line, 0):
            raise Violation(f"X9: {source} comes to {name!r} in {partition} after {self.newest[line]}")
        self.newest[line] = source.position

    def sent(
        self, partition: int, position: int, record: Record, wanted: dict[int, dict[str, list[tuple[Row, int]]]]
    ) -> None:
        """The outbox holds exactly what is wanted: per receiver and map, rows with their causes."""
        found: dict[int, dict[str, list[tuple[Row, int]]]] = {}
        for entry, payload in enumerate(record.outbox):
            outbox = decode_outbox(payload)
            one = Outstanding(outbox.partition, record.effective)
            for name, part in zip(outbox.maps, outbox.sections, strict=True):
                section = decode_section(part, numbered=False)
                for op, key, value, cause in zip(
                    section.ops, section.keys, section.values, section.causes, strict=True
                ):
                    row = Row(op, name, key, None if op == DELETE else value)
                    one.rows.append(row)
                    found.setdefault(outbox.partition, {}).setdefault(name, []).append((row, cause))
            self.outstanding[SourceId(partition, position, entry)] = one  # type: ignore[arg-type]
        if found != wanted or len(found) != len(record.outbox):
            raise Violation(f"X: the outbox of {position} in {partition} is {found}, not {wanted}")

    def row_of(self, wanted: Wanted) -> Row:
        value = None if wanted.op == "delete" else pack(wanted.value)
        return Row(OPS[wanted.op], wanted.map, self._judge.keys.encode(wanted.key), value)
