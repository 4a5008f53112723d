"""What the passes of a replay share: the code, what its triggers look up, what they make, and how that is counted.

    pass 0      raw writes of a partition, in the order of its log                    (replay.py)
    pass d      what pass d - 1 has sent to a partition, at the end of its epoch      (redelivery.py)

Both yield `SettledRows`, which lie in their own partition and are final, and `SentRows` for the next pass.

The order of rows is (epoch, position, time, nth), and then that of the stream they come in. Of what lies in a record of the log, epoch,
position and time are that record's: a live partition stamped it so. What was delivered at the time keeps the place of
its delivery, so the same code comes to the same tables; what was not, has the position of the record that made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from tidegrid.grid.engine.parking import ParkedWrite
from tidegrid.grid.engine.write import PER_WRITE_BYTES
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapKind, MapSpec
from tidegrid.triggers import schemas
from tidegrid.triggers.rejection import key_text
from tidegrid.triggers.runtime import BoundMap, FrameContext, Output, Rejection, Routed, Session, TriggerRuntime

SAMPLES_MAX: Final = 5
_FROM_THE_BEGINNING: Final = Epoch(0)


class HistoricReferences(Protocol):
    """Reference maps as of any epoch (reference_history.py)."""

    def changed(self, as_of: Epoch) -> Epoch: ...

    def get(self, map_name: str, key: bytes, as_of: Epoch) -> bytes | None: ...


class SettledRows(NamedTuple):
    """Rows of one map in the partition that is replayed, in order. The first three are their stamp; `nth` orders rows of
    one stamp that come from several passes: a record may deliver what several sources have sent."""

    effective: Epoch
    position: Position
    time_ms: int
    nth: int
    map: str
    ops: bytes
    keys: list[bytes]
    values: list[bytes]


class SentSection(NamedTuple):
    map: str
    schema: int
    ops: bytes
    keys: list[bytes]
    values: list[bytes]


class SentRows(NamedTuple):
    """What one record sends to one other partition: (source partition, position, entry) names it as in the log.

    `logged`: there is such a record. `depth`: how many triggers lie behind the deepest of these rows.
    """

    target: PartitionId
    source: PartitionId
    position: Position
    entry: int
    effective: Epoch
    time_ms: int
    ref_epoch: Epoch
    depth: int
    logged: bool
    sections: list[SentSection]


class Refused(NamedTuple):
    """A write of which nothing comes by this code. `failed`: its trigger did not mean to refuse it."""

    map: str
    key: str
    message: str
    failed: bool


@dataclass(slots=True)
class Tally:
    """Of one pass over one partition, or of several. `writes`: rows that triggers ran on."""

    writes: int = 0
    outputs: int = 0
    rejected: int = 0
    failed: int = 0
    parked: int = 0
    redriven: int = 0
    samples: list[Refused] = field(default_factory=list)

    def refuse(self, result: Rejection, map_name: str) -> None:
        self.failed += result.failed
        self.rejected += not result.failed
        self._sample(Refused(map_name, result.key, result.message, result.failed))

    def fail(self, map_name: str, key: object, message: str) -> None:
        self.failed += 1
        self._sample(Refused(map_name, key_text(key), message, True))

    def add(self, other: Tally) -> None:
        for name in ("writes", "outputs", "rejected", "failed", "parked", "redriven"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for sample in other.samples:
            self._sample(sample)

    def plain(self) -> list[Any]:
        counts = [self.writes, self.outputs, self.rejected, self.failed, self.parked, self.redriven]
        return [*counts, [list(sample) for sample in self.samples]]

    @classmethod
    def of(cls, plain: list[Any]) -> Tally:
        writes, outputs, rejected, failed, parked, redriven, samples = plain
        found = [Refused(*sample) for sample in samples]
        return cls(writes, outputs, rejected, failed, parked, redriven, found)

    def _sample(self, refused: Refused) -> None:
        if len(self.samples) < SAMPLES_MAX:
            self.samples.append(refused)


class ReplayCode:
    """The code that is run, and what of it matters: `wanted` maps are to be made, all else only on the way to them.

    `before`: the epoch from which on that code was in force, so its outputs are in the log. `lag`: how far a record may
    be in its log behind its effective epoch (`ControlState.limit_span`).
    """

    def __init__(
        self,
        runtime: TriggerRuntime,
        maps: Mapping[str, MapSpec],
        wanted: Iterable[str],
        before: Epoch,
        lag: int,
        seed: int,
        limits: Limits,
        start: Epoch = _FROM_THE_BEGINNING,
    ) -> None:
        """`start`: what was written below it is state alone, and not run again."""
        self.runtime = runtime
        self.maps = maps
        self.wanted = frozenset(wanted)
        self.before = before
        self.start = start
        self.lag = lag
        self.seed = seed
        self.limits = limits
        self.direct = [spec.name for spec in maps.values() if spec.kind is not MapKind.STREAM and not spec.derived]
        self.programs = self._programs()

    def _programs(self) -> dict[str, BoundMap]:
        """Those that lead to a wanted map. All triggers of such a map run: any one may refuse the write."""
        leading = set(self.wanted)
        triggers = self.runtime.deployment.triggers
        found: dict[str, BoundMap] = {}
        while True:
            names = {name for trigger in triggers if leading.intersection(trigger.emits) for name in trigger.on}
            if names <= found.keys():
                return found
            leading |= names
            for name in names:
                program = self.runtime.program(name)
                assert program is not None
                found[name] = program


class ReplayState:
    """A `triggers.context.State`: the direct maps of a partition as the replay has come to them.

    `beside`: of a redrive, the parked write, whose triggers see the value that was before it.
    """

    def __init__(self, code: ReplayCode, references: HistoricReferences) -> None:
        self.tables: dict[str, dict[bytes, bytes]] = {name: {} for name in code.direct}
        self.ref_epoch = Epoch(0)
        self.beside: ParkedWrite | None = None
        self._references = references

    def get(self, map_name: str, key: bytes, /) -> bytes | None:
        beside = self.beside
        if beside is not None and (map_name, key) == (beside.map, beside.key):
            return beside.previous
        table = self.tables.get(map_name)
        return table.get(key) if table is not None else None

    def reference(self, map_name: str, key: bytes, /) -> bytes | None:
        return self._references.get(map_name, key, self.ref_epoch)

    def bind(self, code: ReplayCode, partition: PartitionId, epoch: Epoch, time_ms: int, ref_epoch: Epoch) -> Session:
        self.ref_epoch = ref_epoch
        changed = self._references.changed(ref_epoch)
        return code.runtime.bind(FrameContext(partition, epoch, time_ms, changed, code.seed), self)


class Made:
    """What comes of one record, or of one delivery, in the making: columns by map, and by receiver and map."""

    def __init__(self, code: ReplayCode) -> None:
        self._code = code
        self._wanted = code.wanted
        self._settled: list[tuple[str, bytearray, list[bytes], list[bytes]]] = []
        self._sent: dict[int, tuple[list[int], dict[str, tuple[bytearray, list[bytes], list[bytes]]]]] = {}

    def settle(self, name: str, ops: bytes, keys: Iterable[bytes], values: Iterable[bytes]) -> None:
        """Rows that are there as they are."""
        if name in self._code.wanted:
            self._settled.append((name, bytearray(ops), list(keys), list(values)))

    def add(self, outputs: list[Output]) -> None:
        wanted, settled = self._wanted, self._settled
        for op, name, key, value in outputs:
            if name not in wanted:
                continue
            if not settled or settled[-1][0] != name:
                settled.append((name, bytearray(), [], []))
            _, ops, keys, values = settled[-1]
            ops.append(op)
            keys.append(key)
            values.append(value or b"")

    def send(self, routed: list[Routed]) -> None:
        for partition, depth, (op, name, key, value) in routed:
            depths, columns = self._sent.setdefault(partition, ([0], {}))
            depths[0] = max(depths[0], depth)
            found = columns.get(name)
            if found is None:
                found = columns[name] = (bytearray(), [], [])
            found[0].append(op)
            found[1].append(key)
            found[2].append(value or b"")

    def settled(self, effective: Epoch, position: Position, time_ms: int, nth: int = 0) -> list[SettledRows]:
        return [
            SettledRows(effective, position, time_ms, nth, name, bytes(ops), keys, values)
            for name, ops, keys, values in self._settled
        ]

    def sent(
        self,
        source: PartitionId,
        effective: Epoch,
        position: Position,
        time_ms: int,
        ref_epoch: Epoch,
        *,
        logged: bool = True,
        nth: int | None = None,
    ) -> list[SentRows]:
        """Entries are numbered by receiver, as a frame does, or by the redriven write that this is of (`nth`); what leads
        to no wanted map is left out."""
        found: list[SentRows] = []
        code = self._code
        for entry, partition in enumerate(sorted(self._sent)):
            (depth,), columns = self._sent[partition]
            sections = [
                SentSection(name, code.maps[name].schema, bytes(ops), keys, values)
                for name, (ops, keys, values) in columns.items()
                if name in code.wanted or name in code.programs
            ]
            if sections:
                found.append(
                    SentRows(
                        PartitionId(partition), source, position, entry if nth is None else nth, effective, time_ms,
                        ref_epoch, depth, logged, sections,
                    )
                )  # fmt: skip
        return found


def too_heavy(code: ReplayCode, outputs: list[Output], routed: list[Routed]) -> str | None:
    """Why a write with these outputs would be refused, or parked: no record could hold it."""
    weight = sum(len(key) + len(value or b"") + PER_WRITE_BYTES for _, _, key, value in outputs)
    weight += sum(len(key) + len(value or b"") + PER_WRITE_BYTES for _, _, (_, _, key, value) in routed)
    if weight <= code.limits.record_bytes_max:
        return None
    return f"the outputs weigh {weight:,} bytes, more than a record has room for; emit less at a time"


def redrive(
    code: ReplayCode,
    state: ReplayState,
    partition: PartitionId,
    write: ParkedWrite,
    epoch: Epoch,
    ref_epoch: Epoch,
    made: Made,
    tally: Tally,
) -> None:
    """Runs a parked write again, as engine/redriving.py does."""
    program = code.programs.get(write.map)
    if program is None:
        return
    tally.writes += 1
    tally.redriven += 1
    unhandled = schemas.unhandled_schema(program, write.schema)
    if unhandled is not None:
        tally.fail(write.map, program.read_key(write.key), unhandled.message)
        return
    state.beside = write
    try:
        session = state.bind(code, partition, epoch, write.time_ms, ref_epoch)
        version = 0 if write.routed else write.version
        result = session.activate(program, write.op, write.key, write.value, version, write.id.write_name, write.schema)
        session.end()
    finally:
        state.beside = None
    if isinstance(result, Rejection):
        tally.refuse(result, write.map)
        return
    tally.outputs += len(result) + len(session.routed)
    made.add(result)
    made.send(session.routed)
