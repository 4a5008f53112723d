"""Recent writes through the active code and through that of a deployment, to see what would come out differently.

The runtime is the real one, the state is that of the tables, read only, as it was just before each write: as exactly
as memory has it. Versions below the horizon are not there, and writes of one frame see what was before the frame, but
for their own key. Reference maps are read as of now. What was refused at the time is in no log, so not in the sample.

Invariant: nothing of the node changes. `Rehearsal.run` runs authors' code and never raises.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from tidegrid.grid.engine.compute import References
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.recent import LandedFrame
from tidegrid.grid.engine.row_text import canonical, changed_columns, shortened
from tidegrid.grid.log.record import DELETE, PUT, decode_section
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import PartitionId
from tidegrid.grid.model.keys import decode_key
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.model.values import decode_value
from tidegrid.triggers.runtime import FrameContext, Output, Rejection, TriggerRuntime
from tidegrid.v1.grid_pb2 import OutputChange, SampleDifference

EXAMPLES_MAX: Final = 3
_KEYS_PER_SLICE: Final = 2_000
_FRAMES_MAX: Final = 20_000  # of a partition that are looked through


class SampledWrite(NamedTuple):
    partition: Partition
    map: str
    op: int
    key: bytes
    value: bytes | None
    version: int
    schema: int
    stamp: Stamp


class Sample:
    """The newest `count` writes to one map that memory has: from the newest frames, else from the table."""

    def __init__(self, partitions: Iterable[Partition], map_name: str, count: int) -> None:
        self._partitions = [partition for partition in partitions if partition.serving]
        self._map = map_name
        self._count = count
        self.writes: list[SampledWrite] = []

    def take(self) -> Iterator[None]:
        """Pauses now and then: a table may be large, and the node has other things to do. `writes` is oldest first."""
        newest = heapq.merge(
            *(list(islice(partition.recent.newest_first(), _FRAMES_MAX)) for partition in self._partitions),
            key=lambda frame: (frame.effective, frame.position),
            reverse=True,
        )
        by_id = {partition.id: partition for partition in self._partitions}
        found: list[SampledWrite] = []
        for frame in newest:
            if self._map in frame.maps:
                found.extend(reversed(self._of_frame(by_id, frame)))
                yield
            if len(found) >= self._count:
                break
        else:
            if len(found) < self._count:
                found += yield from self._of_tables({(write.key, write.version) for write in found})
        self.writes = found[: self._count][::-1]

    def _of_frame(self, by_id: dict[PartitionId, Partition], frame: LandedFrame) -> list[SampledWrite]:
        stamp: Stamp = (frame.effective, frame.position, frame.time_ms)
        writes: list[SampledWrite] = []
        for name, payload in zip(frame.maps, frame.sections, strict=True):
            if name == self._map:
                section = decode_section(payload)
                columns = zip(section.keys, section.values, section.ops, section.versions, strict=True)
                writes.extend(
                    SampledWrite(
                        by_id[frame.partition], name, op, key, None if op == DELETE else value, version,
                        section.schema, stamp,
                    )
                    for key, value, op, version in columns
                )  # fmt: skip
        return writes

    def _of_tables(self, known: set[tuple[bytes, int]]) -> Generator[None, None, list[SampledWrite]]:
        """After a restart the frames are gone: the newest version of each key, without the schema of its writer.

        `known`: what frames have told.
        """
        newest: list[tuple[Stamp, int, bytes, SampledWrite]] = []
        for partition in self._partitions:
            table = partition.tables.get(self._map)
            for at, key in enumerate(list(table.keys()) if table is not None else ()):
                if at % _KEYS_PER_SLICE == 0:
                    yield
                latest = table.latest(key) if table is not None else None
                if latest is None or (key, latest[1]) in known:
                    continue
                value, version, stamp = latest
                write = SampledWrite(
                    partition, self._map, PUT if value is not None else DELETE, key, value, version, -1, stamp
                )
                entry = (stamp, version, key, write)
                if len(newest) < self._count:
                    heapq.heappush(newest, entry)
                elif entry[:3] > newest[0][:3]:
                    heapq.heapreplace(newest, entry)
        return [entry[3] for entry in sorted(newest, key=lambda entry: entry[:3], reverse=True)]


class _Before(NamedTuple):
    """A `triggers.context.State` as of just before one write."""

    write: SampledWrite
    references: References

    def get(self, map_name: str, key: bytes, /) -> bytes | None:
        write = self.write
        table = write.partition.tables.get(map_name)
        if table is None:
            return None
        own = map_name == write.map and key == write.key
        for value, version, stamp in reversed(table.chain(key)):
            if version < write.version if own else stamp < write.stamp:
                return value
        return None

    def reference(self, map_name: str, key: bytes, /) -> bytes | None:
        return self.references.get(map_name, key, self.references.through)


class Rehearsal:
    """Of one map. `active` and `coming`: the two codes, None where there is none."""

    def __init__(
        self,
        map_name: str,
        schema: int,
        active: TriggerRuntime | None,
        coming: TriggerRuntime | None,
        references: References,
        seed: int,
    ) -> None:
        self.difference = SampleDifference(map=map_name)
        self._schema = schema
        self._codes = (active, coming)
        self._references = references
        self._seed = seed
        self._outputs: dict[str, OutputChange] = {}
        self._told: set[str] = set()  # why writes were refused

    def run(self, write: SampledWrite) -> None:
        if write.schema < 0:
            write = write._replace(schema=self._schema)
        before, after = (self._activate(runtime, write) for runtime in self._codes)
        found = self.difference
        found.writes += 1
        found.rejected_before += isinstance(before, Rejection)
        found.rejected_after += isinstance(after, Rejection)
        found.failed_before += isinstance(before, Rejection) and before.failed
        found.failed_after += isinstance(after, Rejection) and after.failed
        found.unhandled += self._is_unhandled(write)
        if isinstance(before, Rejection) or isinstance(after, Rejection):
            self._compare_rejections(write, before, after)
        elif not self._compare(before, after):
            found.same += 1

    def end(self) -> SampleDifference:
        self.difference.outputs.extend(self._outputs[name] for name in sorted(self._outputs))
        return self.difference

    def _activate(self, runtime: TriggerRuntime | None, write: SampledWrite) -> Sequence[Output] | Rejection:
        program = runtime.program(write.map) if runtime is not None else None
        if runtime is None or program is None:
            return ()
        epoch, _, time_ms = write.stamp
        frame = FrameContext(
            partition=write.partition.id,
            epoch=epoch,
            time_ms=time_ms,
            ref_epoch=self._references.through,
            seed=self._seed,
        )
        name = (b"", write.version)  # not its own: both codes draw the same numbers, and that is what matters here
        session = runtime.bind(frame, _Before(write, self._references))
        result = session.activate(program, write.op, write.key, write.value, write.version, name, write.schema)
        session.end()
        if isinstance(result, list):
            result += [output for _, _, output in session.routed]
        return result

    def _is_unhandled(self, write: SampledWrite) -> bool:
        coming = self._codes[1]
        program = coming.program(write.map) if coming is not None else None
        if program is None:
            return False
        return all(trigger.schema not in (None, write.schema) for trigger in program.triggers)

    def _compare_rejections(
        self, write: SampledWrite, before: Sequence[Output] | Rejection, after: Sequence[Output] | Rejection
    ) -> None:
        same = isinstance(before, Rejection) and isinstance(after, Rejection) and before.reason == after.reason
        self.difference.same += same
        if not same or (isinstance(after, Rejection) and after.failed and after.reason not in self._told):
            self._example("", write.key, _outcome(before), _outcome(after))
        if isinstance(after, Rejection):
            self._told.add(after.reason)

    def _compare(self, before: Sequence[Output], after: Sequence[Output]) -> bool:
        """Whether anything differs; counts it."""
        sides = (_by_key(before), _by_key(after))
        differs = False
        for name, key in dict.fromkeys([*sides[0], *sides[1]]):
            old, new = (side.get((name, key), []) for side in sides)
            counts = self._outputs.setdefault(name, OutputChange(map=name))
            counts.before += len(old)
            counts.after += len(new)
            for at in range(max(len(old), len(new))):
                if at >= len(old):
                    counts.added += 1
                    self._example(name, key, "", _text(new[at]))
                elif at >= len(new):
                    counts.removed += 1
                    self._example(name, key, _text(old[at]), "")
                elif not self._alike(counts, key, old[at], new[at]):
                    counts.changed += 1
                else:
                    continue
                differs = True
        return differs

    def _alike(self, counts: OutputChange, key: bytes, old: _Written, new: _Written) -> bool:
        if old == new:
            return True
        one, other = _plain(old), _plain(new)
        if old[0] == new[0] and canonical(one) == canonical(other):
            return True
        if isinstance(one, dict) and isinstance(other, dict):
            columns = changed_columns(one, other)
            for name in columns:
                counts.columns[str(name)] += 1
            one, other = ({name: side[name] for name in columns if name in side} for side in (one, other))
        self._example(counts.map, key, shortened(repr(one)), shortened(repr(other)))
        return False

    def _example(self, map_name: str, key: bytes, before: str, after: str) -> None:
        examples = self.difference.examples
        if len(examples) < EXAMPLES_MAX:
            examples.add(map=map_name, key=shortened(repr(decode_key(key))), before=before, after=after)


def _outcome(side: Sequence[Output] | Rejection) -> str:
    if not isinstance(side, Rejection):
        return f"{len(side)} outputs"
    return f"failed, {side.trigger}, line {side.line}: {side.reason}" if side.failed else f"rejected: {side.reason}"


_Written = tuple[int, bytes | None]
"""(op, encoded value)"""


def _by_key(outputs: Sequence[Output]) -> dict[tuple[str, bytes], list[_Written]]:
    found: dict[tuple[str, bytes], list[_Written]] = {}
    for op, name, key, value in outputs:
        found.setdefault((name, key), []).append((op, value))
    return found


def _plain(written: _Written) -> Any:
    op, value = written
    return None if op == DELETE or value is None else decode_value(value)


def _text(written: _Written) -> str:
    return "deleted" if written[0] == DELETE else shortened(repr(_plain(written)))


def rehearse(
    partitions: Iterable[Partition], rehearsal: Rehearsal, map_name: str, count: int
) -> Iterator[SampleDifference | None]:
    """Step by step; the last step is the difference. None: nothing was written."""
    sample = Sample(partitions, map_name, count)
    yield from sample.take()
    for at, write in enumerate(sample.writes):
        if at % 10 == 9:
            yield None
        try:
            rehearsal.run(write)
        except GridError:  # a value that this version cannot decode: not for the plan to judge
            continue
    yield rehearsal.end() if sample.writes else None
