"""Folding the control log: the fold of a compacted log is that of the whole one, for whoever starts."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegrid.grid.model.errors import CorruptionError, FormatError
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.folding import fold_records
from tidegrid.v1.control_pb2 import ControlRecord, GridCreated

from tests.unit.ring.test_control import close, created, records

Stored = tuple[Position, Epoch, bytes]


def stored(log: list[ControlRecord]) -> list[Stored]:
    return [(Position(3 * at + 1), Epoch(at), item.SerializeToString()) for at, item in enumerate([created(), *log])]


def folded(log: list[Stored], state: ControlState | None = None) -> ControlState:
    state = state or ControlState()
    for position, _, payload in log:
        if position > state.position:
            state.apply(position, ControlRecord.FromString(payload))
    return state


def compacted(log: list[Stored], count: int) -> list[Stored]:
    return [(log[count - 1][0], log[count - 1][1], fold_records(log[:count])), *log[count:]]


@given(st.lists(records, max_size=30), st.data())
def test_the_fold_of_a_compacted_log_is_that_of_the_whole_one(log: list[ControlRecord], data: st.DataObject) -> None:
    whole = stored(log)
    count = data.draw(st.integers(1, len(whole)))
    once = compacted(whole, count)
    assert folded(once) == folded(whole)
    twice = compacted(once, data.draw(st.integers(1, len(once))))
    assert folded(twice) == folded(whole), "a folded record is folded again"
    begun = folded(whole[: data.draw(st.integers(0, len(whole)))])
    assert folded(twice, begun) == folded(whole), "who was half way when it was compacted goes on"


def test_a_folded_record_belongs_to_its_position_and_its_grid() -> None:
    whole = stored([close(1), close(2)])
    payload = fold_records(whole)
    record = ControlRecord.FromString(payload)
    state = ControlState()
    assert state.apply(whole[-1][0], record) == () and state == folded(whole)
    with pytest.raises(CorruptionError, match="position"):
        ControlState().apply(Position(99), record)
    other = ControlState()
    other.apply(Position(1), ControlRecord(created=GridCreated(grid_id=b"h" * 16, partitions=4, limit=9)))
    with pytest.raises(CorruptionError, match="another grid"):
        other.apply(whole[-1][0], record)
    with pytest.raises(CorruptionError):
        ControlState().apply(Position(5), ControlRecord(folded=ControlState().to_bytes()))


def test_a_folded_record_of_a_newer_version_is_refused() -> None:
    plain = msgpack.unpackb(folded(stored([])).to_bytes())
    with pytest.raises(FormatError, match="version 99"):
        ControlState().apply(Position(1), ControlRecord(folded=msgpack.packb([99, *plain[1:]])))
    with pytest.raises(FormatError, match="does not parse"):
        ControlState().apply(Position(1), ControlRecord(folded=b"\xc1"))


def test_who_lives_by_events_never_takes_one() -> None:
    whole = stored([close(1), close(2)])
    state = folded(whole[:2])
    state.followed = True
    with pytest.raises(AssertionError, match="live node"):
        state.apply(whole[-1][0], ControlRecord.FromString(fold_records(whole)))
