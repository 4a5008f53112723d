from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.client.feed_merge import FeedMerge
from tidegrid.v1 import grid_pb2, record_pb2


def entry(effective: int, partition: int, position: int, size: int = 1) -> grid_pb2.FeedEntry:
    section = record_pb2.Section(
        map="m", keys=[b"k"] * size, values=[b"v"] * size, ops=b"\1" * size, versions=[1] * size
    )
    return grid_pb2.FeedEntry(
        partition=partition, position=position, effective=effective, section=section.SerializeToString()
    )


@settings(max_examples=200)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), max_size=40),
    st.integers(0, 10**6),
    st.integers(0, 2_000),
)
def test_merge_is_the_sorted_model(owners: int, writes: list[tuple[int, int]], seed: int, bytes_max: int) -> None:
    """Streams read in any order that `wants` allows, cut at any time: each epoch once, in order, whole."""
    rng = random.Random(seed)
    entries = [entry(epoch, partition, position) for position, (partition, epoch) in enumerate(writes, start=1)]
    entries.sort(key=lambda one: (one.effective, one.partition, one.position))
    expected = [(one.effective, one.partition, one.position) for one in entries]
    streams = {owner: [one for one in entries if one.partition % owners == owner] for owner in range(owners)}
    merge = FeedMerge(0, bytes_max)
    cursors = dict.fromkeys(range(owners), 0)
    names: dict[int, object] = {}
    for owner in range(owners):
        names[owner] = object()
        merge.open(names[owner], 0)
    got: list[tuple[int, int, int]] = []
    finished: set[int] = set()
    while True:
        batch = merge.take() if rng.random() < 0.7 else None
        if batch is not None:
            assert len(batch)
            assert all(section.epoch == batch.epoch for section in batch.sections)
            got += [(batch.epoch, section.partition, section.position) for section in batch.sections]
            continue
        if rng.random() < 0.1:
            owner = rng.randrange(owners)
            mark = merge.cut(names[owner])
            successor = object()
            merge.succeed(names[owner], [successor])
            names[owner] = successor
            cursors[owner] = sum(one.effective <= mark for one in streams[owner])
            finished.discard(owner)
        willing = [owner for owner in range(owners) if owner not in finished and merge.wants(names[owner])]
        if not willing:
            while (batch := merge.take()) is not None:
                got += [(batch.epoch, section.partition, section.position) for section in batch.sections]
            if len(finished) == owners:
                break
            continue
        owner = rng.choice(willing)
        stream, cursor = streams[owner], cursors[owner]
        if cursor == len(stream):
            merge.offer(names[owner], [], 100)
            finished.add(owner)
            continue
        size = rng.randint(1, 3)
        part = stream[cursor : cursor + size]
        cursors[owner] += len(part)
        rest = stream[cursors[owner] :]
        mark = rest[0].effective - 1 if rest and rng.random() < 0.5 else 0
        merge.offer(names[owner], part, mark)
    assert got == expected
    assert merge.buffered_bytes == 0 and merge.handed == 100


def test_sections_of_one_record_are_numbered_on() -> None:
    merge = FeedMerge(0, 1000)
    merge.open("a", 0)
    merge.offer("a", [entry(1, 0, 5, size=3), entry(1, 0, 5, size=2), entry(1, 1, 5, size=1)], 1)
    batch = merge.take()
    assert batch is not None
    assert [(change.partition, change.position, change.index) for change in batch.changes] == [
        (0, 5, 0),
        (0, 5, 1),
        (0, 5, 2),
        (0, 5, 3),
        (0, 5, 4),
        (1, 5, 0),
    ]


def test_what_a_source_repeats_is_passed_over() -> None:
    merge = FeedMerge(3, 1000)
    merge.open("a", 3)
    merge.offer("a", [entry(2, 0, 1), entry(3, 0, 2), entry(4, 0, 3)], 4)
    merge.offer("a", [entry(4, 0, 3), entry(5, 0, 4)], 5)
    batches = [merge.take(), merge.take(), merge.take()]
    assert [batch and (batch.epoch, len(batch)) for batch in batches] == [(4, 1), (5, 1), None]


def test_a_cut_source_holds_the_others_up_until_it_has_a_successor() -> None:
    merge = FeedMerge(0, 1000)
    merge.open("a", 0)
    merge.open("b", 0)
    merge.offer("a", [entry(1, 0, 1), entry(2, 0, 2)], 0)
    merge.offer("b", [entry(1, 1, 1), entry(2, 1, 2)], 2)
    assert merge.cut("a") == 1
    first = merge.take()
    assert first is not None and len(first) == 2
    assert merge.take() is None and merge.handed == 1
    merge.succeed("a", ["c", "d"])
    merge.offer("c", [entry(2, 0, 2)], 2)
    assert merge.take() is None
    merge.offer("d", [], 2)
    second = merge.take()
    assert second is not None and len(second) == 2 and merge.take() is None and merge.handed == 2
