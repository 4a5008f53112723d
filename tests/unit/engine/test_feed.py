"""Feeds: from memory and from the log the same entries, in order, up to a mark, once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.grid.engine.feed import Closes, LogMerge, recent_entries
from tidegrid.grid.engine.feed_entry import FeedEntry
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.recent import LandedFrame, RecentFrames
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.memory_state import MemoryLogState
from tidegrid.grid.log.record import RequestRun, encode_data, encode_open, encode_section
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position, Term, partition_log
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.v1.control_pb2 import Close, ControlRecord, GridCreated, MapDeclared, Tail

from tests.unit.engine.stand import client_session, key, pack

MAPS = ("a", "b")


class Logs:
    """Partition logs written by hand, and what a follower of one map is to get of them."""

    def __init__(self, partitions: int, recent_bytes: int) -> None:
        self.log = MemoryLogState()
        self.partitions = [Partition(PartitionId(number), Limits(), 100, recent_bytes) for number in range(partitions)]
        self.entries: dict[str, list[FeedEntry]] = {name: [] for name in MAPS}
        self.stamps = [0] * partitions

    def open(self, number: int, stamp: int) -> None:
        partition = self.partitions[number]
        self.stamps[number] = stamp = max(stamp, self.stamps[number])
        term = Term(partition.term + 1)
        payload = encode_open(PartitionId(number), term, Epoch(stamp), NodeId(0), Incarnation(term), 0)
        partition.term = term
        partition.opened.append((self._append(number, stamp, payload), term))
        partition.recent.start(Epoch(stamp))

    def write(self, number: int, stamp: int, maps: list[str], size: int, *, old_term: bool = False) -> None:
        partition = self.partitions[number]
        self.stamps[number] = stamp = max(stamp, self.stamps[number])
        term = Term(partition.term - old_term)
        sections = [encode_section(name, [key("k")], [pack("x" * size)], b"\1", [1]) for name in maps]
        runs = [RequestRun(client_session(), 1, len(maps))]
        payload = encode_data(PartitionId(number), term, Epoch(stamp), Epoch(0), 7, runs, maps, sections, len(maps))
        position = self._append(number, stamp, payload)
        if old_term:
            return
        partition.recent.add(LandedFrame(Epoch(stamp), partition.id, position, 7, maps, sections))
        for name, section in zip(maps, sections, strict=True):
            self.entries[name].append(FeedEntry(Epoch(stamp), partition.id, position, 7, section))

    def _append(self, number: int, stamp: int, payload: bytes) -> Position:
        name = partition_log(PartitionId(number))
        return self.log.append([Entry(name, self.log.tail(name), Epoch(stamp), payload)])[0]

    def control(self) -> ControlState:
        """All that was written is closed."""
        control = ControlState()
        close = Close(epoch=10**6)
        close.tails.extend(
            Tail(partition=number, position=self.log.tail(partition_log(PartitionId(number))))
            for number in range(len(self.partitions))
        )
        records = [ControlRecord(created=GridCreated(grid_id=b"g" * 16, partitions=len(self.partitions)))]
        records += [ControlRecord(map=MapDeclared(spec=spec_message(MapSpec(name)))) for name in MAPS]
        for position, record in enumerate([*records, ControlRecord(close=close)], 1):
            control.apply(Position(position), record)
        return control

    def wanted(self, name: str, after: int, through: int) -> list[FeedEntry]:
        return sorted(
            (entry for entry in self.entries[name] if after < entry.effective <= through), key=lambda entry: entry[:3]
        )


actions = st.lists(
    st.tuples(
        st.integers(0, 2),  # partition
        st.integers(0, 3),  # the stamp rises by
        st.sampled_from(["write", "write", "write", "write", "open", "zombie"]),
        st.lists(st.sampled_from(MAPS), max_size=2, unique=True),
        st.sampled_from([1, 50, 400]),
    ),
    max_size=40,
)


def build(plan: list, partitions: int, recent_bytes: int) -> tuple[Logs, int]:  # type: ignore[type-arg]
    logs = Logs(partitions, recent_bytes)
    for number in range(partitions):
        logs.open(number, 1)
    epoch = 1
    for number, rise, step, maps, size in plan:
        epoch += rise
        if step == "open":
            logs.open(number % partitions, epoch)
        else:
            logs.write(number % partitions, epoch, sorted(maps), size, old_term=step == "zombie")
    return logs, epoch


@settings(max_examples=150)
@given(
    actions, st.integers(1, 3), st.integers(0, 30), st.integers(0, 30), st.sampled_from([1, 60, 500, 10**6]), st.data()
)
def test_a_merge_of_logs_is_the_feed(
    plan: list,
    partitions: int,
    after: int,
    through: int,
    read_bytes: int,
    data: st.DataObject,  # type: ignore[type-arg]
) -> None:
    logs, epoch = build(plan, partitions, 0)
    after, through = min(after, epoch), min(max(after, through), epoch)
    merge = LogMerge(logs.partitions, "a", Epoch(after), Epoch(through), logs.control())
    got: list[FeedEntry] = []
    handed_out = 0
    for _ in range(10_000):
        if merge.mark >= through:
            break
        while (need := merge.needs()) is not None:
            number, position = need
            name = partition_log(number)
            start = logs.log.position_before(name, Epoch(after)) if position is None else position
            merge.give(number, start, logs.log.read(name, start, read_bytes))
        mark = merge.mark
        got.extend(merge.take(data.draw(st.sampled_from([1, 100, 10**6]))))
        assert merge.mark >= mark
        done = [entry for entry in got if entry.effective <= merge.mark]
        assert done == logs.wanted("a", after, merge.mark), "up to the mark all is there"
        handed_out += 1
    assert got == logs.wanted("a", after, through) and merge.mark == through and handed_out <= len(got) + 200


@settings(max_examples=150)
@given(actions, st.integers(1, 3), st.integers(0, 30), st.integers(0, 30), st.sampled_from([0, 300, 1000, 10**6]))
def test_memory_gives_the_same_or_says_that_it_cannot(
    plan: list,
    partitions: int,
    after: int,
    through: int,
    recent_bytes: int,  # type: ignore[type-arg]
) -> None:
    logs, epoch = build(plan, partitions, recent_bytes)
    through = max(after, min(through, epoch))
    entries = recent_entries(logs.partitions, "a", Epoch(after), Epoch(through))
    if entries is None:
        assert any(after < partition.recent.complete_after for partition in logs.partitions)
    else:
        assert entries == logs.wanted("a", after, through)


def test_a_follower_of_no_partitions_is_always_done() -> None:
    merge = LogMerge([], "a", Epoch(3), Epoch(9), Logs(0, 0).control())
    assert merge.mark == 9 and merge.needs() is None and merge.take(100) == []


def test_recent_frames_are_bounded_and_keep_the_newest() -> None:
    recent = RecentFrames(1000)
    recent.start(Epoch(5))
    assert recent.between(Epoch(5), Epoch(9)) == [] and recent.between(Epoch(4), Epoch(9)) is None
    for epoch in range(6, 20):
        frame = LandedFrame(Epoch(epoch), PartitionId(0), Position(epoch), 0, ["a"], [bytes(200)])
        recent.add(frame)
    kept = recent.between(recent.complete_after, Epoch(99))
    assert kept is not None and [frame.effective for frame in kept] == [18, 19] and recent.complete_after == 17
    assert recent.between(Epoch(16), Epoch(99)) is None
    recent.add(LandedFrame(Epoch(20), PartitionId(0), Position(99), 0, ["a"], [bytes(10_000)]))
    kept = recent.between(Epoch(19), Epoch(99))
    assert kept is not None and [frame.effective for frame in kept] == [20], "the newest stays, whatever its size"


def test_an_epoch_of_which_a_frame_has_gone_is_not_told_from_memory() -> None:
    recent = RecentFrames(900)
    recent.start(Epoch(1))
    for position in (1, 2, 3):
        recent.add(LandedFrame(Epoch(7), PartitionId(0), Position(position), 0, ["a"], [bytes(200)]))
    assert recent.between(Epoch(6), Epoch(7)) is None and recent.between(Epoch(7), Epoch(8)) == []


@given(st.lists(st.integers(1, 500), unique=True, max_size=60), st.integers(1, 20), st.integers(0, 510))
def test_the_next_close_is_the_first_one_kept_above(epochs: list[int], kept_max: int, after: int) -> None:
    closes = Closes(kept_max)
    for epoch in sorted(epochs):
        closes.add(Epoch(epoch))
    kept = sorted(epochs)[-kept_max:]
    assert closes.next_after(Epoch(after)) == next((epoch for epoch in kept if epoch > after), None)


def test_an_epoch_half_read_is_not_marked() -> None:
    logs, _ = build([(0, 1, "write", ["a"], 1), (0, 0, "write", ["a"], 1), (0, 1, "write", ["b"], 1)], 1, 0)
    merge = LogMerge(logs.partitions, "a", Epoch(1), Epoch(3), logs.control())
    marks = []
    while merge.mark < 3:
        while (need := merge.needs()) is not None:
            after = need[1] or logs.log.position_before(partition_log(need[0]), Epoch(1))
            merge.give(need[0], after, logs.log.read(partition_log(need[0]), after, 1))
        marks.append((len(merge.take(10**6)), merge.mark))
    assert marks == [(1, 1), (1, 1), (0, 3)]
