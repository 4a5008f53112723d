"""Feeds: what a follower gets of one map, in (effective epoch, partition, position) order, close by close.

A follower is a cursor: the epoch up to which it has had everything. Only closed epochs are handed out, so a feed is
final, in order, and ends each step with a mark: nothing at or below it is still to come. What the newest frames in
memory do not cover is merged from the partition logs by `LogMerge`, in bounded pieces; so a follower that stalls, or
comes back after days, costs the node a cursor and nothing else.

Sections travel as the bytes that are in the log; of a map with a fold, which has operands there, with what they led to.

A record that was routed here may be later in the log than its epoch, but not by more than the stamping limit allows:
whatever is still to come in a log has an effective epoch above the last stamp read less the limit's span.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from tidegrid.grid.engine.feed_entry import FeedEntry
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.switching import kept_generation, pause_at
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.log.record import DATA, DELETE, PUT, ROUTED, Section, decode_record, decode_section, encode_section
from tidegrid.grid.model.errors import EpochTooOldError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, PartitionId, Position, Term
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.generations import FIRST
from tidegrid.grid.store.merged import MergedTable

READ_BYTES = 256 * 1024  # of one read of one partition log while catching up
STATE_BYTES = 512 * 1024  # of one part of the states of a frame


def recent_entries(
    partitions: Iterable[Partition], map_name: str, after: Epoch, through: Epoch, generation: int = FIRST
) -> list[FeedEntry] | None:
    """Entries with after < effective <= through from memory, in feed order; None when the log has to be read.
    `generation`: that of the map in all of these epochs.

    Raises EpochTooOldError: of a map with a fold, states below the horizon are not kept.
    """
    entries = []
    for partition in partitions:
        frames = partition.recent.between(after, through)
        if frames is None:
            return None
        found = []
        for frame in frames:
            for name, section in zip(frame.maps, frame.sections, strict=True):
                if name == map_name:
                    found.append(FeedEntry(frame.effective, frame.partition, frame.position, frame.time_ms, section))
        entries += _with_states(partition, map_name, found, after, generation)
    entries.sort(key=_order)
    return entries


def _with_states(
    partition: Partition, map_name: str, entries: list[FeedEntry], after: Epoch, generation: int
) -> list[FeedEntry]:
    """Of a map with a fold: what its operands led to, in their place. `after`: all of them lie above it."""
    table = partition.tables.get(map_name)
    if isinstance(table, MergedTable):
        table = kept_generation(partition, map_name, generation, after)
    if not isinstance(table, MergedTable):
        return entries
    if after < table.horizon:
        raise EpochTooOldError.of(after, table.horizon)
    return [stated for entry in entries for stated in _with_state(table, entry)]


def _with_state(table: MergedTable, entry: FeedEntry) -> Iterator[FeedEntry]:
    """In several parts where the states weigh much: there is one for every operand, however small that is."""
    section = decode_section(entry.section)
    stamp = (entry.effective, entry.position, entry.time_ms)
    keys: list[bytes] = []
    states: list[bytes | None] = []
    numbers: list[int] = []
    size = 0
    for key, number in zip(section.keys, section.versions, strict=True):
        state = table.value_at(key, stamp, number)
        keys.append(key)
        states.append(state)
        numbers.append(number)
        size += len(key) + len(state or b"")
        if size >= STATE_BYTES:
            yield entry._replace(section=_states(section, keys, states, numbers))
            keys, states, numbers, size = [], [], [], 0
    if keys:
        yield entry._replace(section=_states(section, keys, states, numbers))


def _states(of: Section, keys: list[bytes], states: list[bytes | None], numbers: list[int]) -> bytes:
    ops = bytes(DELETE if state is None else PUT for state in states)
    return encode_section(of.map, keys, [state or b"" for state in states], ops, numbers, schema=of.schema)


def _order(entry: FeedEntry) -> tuple[int, int, int]:
    return entry[:3]


class LogMerge:
    """Merges partition logs up to a closed epoch `through`.

    Lifecycle: `needs` names a partition log to read next, and from where; `give` takes what was read; `take` hands
    out what is in order. Done when `mark` equals `through`. Holds at most one read per partition, and of a map that
    receives outputs also what was read ahead of its epoch.
    """

    def __init__(
        self, partitions: Sequence[Partition], map_name: str, after: Epoch, through: Epoch, control: ControlState
    ) -> None:
        assert through <= control.closed and pause_at(control.generations, map_name, after, through) == through
        self._partitions = {partition.id: partition for partition in partitions}
        self._map = map_name
        self._after = after
        self.through = through
        self.mark = after
        spec = control.declared[map_name]
        self._in_order = not spec.derived  # the log of each partition has them in order
        self._lag = control.limit_span if spec.derived else 1
        self._generation = control.generations.at(map_name, through)
        self._tails = dict(control.tails)  # all at or below `through` is at or before these
        self._buffers: dict[PartitionId, deque[FeedEntry]] = {partition: deque() for partition in self._partitions}
        self._cursors: dict[PartitionId, Position | None] = dict.fromkeys(self._partitions)
        self._seen: dict[PartitionId, Epoch] = dict.fromkeys(self._partitions, after)  # read through, per partition
        if not self._partitions:
            self.mark = through

    def needs(self) -> tuple[PartitionId, Position | None] | None:
        """(partition, position to read after; None: find it by the epoch `after`)."""
        for partition, buffer in self._buffers.items():
            seen = self._seen[partition]
            if seen < self.through and (not buffer or (not self._in_order and buffer[0].effective > seen)):
                return partition, self._cursors[partition]
        return None

    def give(self, partition: PartitionId, after: Position, records: Sequence[LogRecord]) -> None:
        """What was read of `partition` after `after`; nothing means that its log ends there."""
        self._cursors[partition] = records[-1].position if records else after
        if not records or records[-1].position >= self._tails.get(partition, BEFORE_FIRST):
            seen = self.through
        else:
            # A later record may share its epoch, so only what lies below it is known to be complete.
            seen = min(self.through, max(self._seen[partition], Epoch(records[-1].epoch - self._lag)))
        self._seen[partition] = seen
        owner, buffer = self._partitions[partition], self._buffers[partition]
        late = False
        for item in records:
            record = decode_record(item.payload)
            if record.kind not in (DATA, ROUTED) or not owner.valid(item.position, Term(record.term)):
                continue
            effective = Epoch(record.effective)
            if not self._after < effective <= self.through:
                continue
            for name, section in zip(record.maps, record.sections, strict=True):
                if name == self._map:
                    entry = FeedEntry(effective, partition, item.position, record.time_ms, section)
                    late = late or (bool(buffer) and entry[:3] < buffer[-1][:3])
                    buffer.append(entry)
        if late:
            self._buffers[partition] = deque(sorted(buffer, key=_order))

    def take(self, bytes_max: int) -> list[FeedEntry]:
        """The next entries in order, about `bytes_max` of them; moves `mark`. Raises EpochTooOldError."""
        entries: list[FeedEntry] = []
        size = 0
        while size < bytes_max:
            open_ends = [p for p, buffer in self._buffers.items() if not (buffer and self._in_order)]
            complete = min((self._seen[partition] for partition in open_ends), default=self.through)
            heads = [buffer[0] for buffer in self._buffers.values() if buffer]
            head = min(heads, key=_order, default=None)
            if head is None or head.effective > complete:
                self.mark = max(self.mark, complete)
                break
            self.mark = max(self.mark, Epoch(head.effective - 1))
            self._buffers[head.partition].popleft()
            stated = _with_states(self._partitions[head.partition], self._map, [head], self.mark, self._generation)
            entries += stated
            size += sum(len(entry.section) for entry in stated)
        return entries


class Closes:
    """The newest closed epochs, in order: the steps in which followers are served, so that they share messages."""

    def __init__(self, kept_max: int = 4096) -> None:
        self._epochs: deque[Epoch] = deque(maxlen=kept_max)

    def add(self, epoch: Epoch) -> None:
        self._epochs.append(epoch)

    def next_after(self, epoch: Epoch) -> Epoch | None:
        """The first close above `epoch`; None when there is none yet. O(1) for a follower that keeps up."""
        epochs = self._epochs
        if not epochs or epochs[-1] <= epoch:
            return None
        low, high = 0, len(epochs) - 1
        if len(epochs) > 1 and epochs[-2] <= epoch:
            return epochs[-1]
        while low < high:
            middle = (low + high) // 2
            if epochs[middle] > epoch:
                high = middle
            else:
                low = middle + 1
        return epochs[low]
