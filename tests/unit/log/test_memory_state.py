"""The log in memory against a dict of lists, and the faults it makes on request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.log.memory_state import MemoryLogState
from tidegrid.grid.model.errors import LogFailedError, StorageFullError, TooLargeError, WrongTailError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, LogId, Position

A, B = LogId(0), LogId(-1)
STEP = st.tuples(
    st.sets(st.integers(-1, 3), min_size=1, max_size=4), st.integers(0, 2), st.integers(0, 20), st.sampled_from("aaaw")
)


@given(st.lists(STEP, max_size=40), st.integers(0, 2**64), st.integers(0, 100), st.integers(0, 90))
def test_it_agrees_with_a_dict_of_lists(steps: list[Any], gap_seed: int, bytes_max: int, epoch_asked: int) -> None:
    state = MemoryLogState(gap_seed)
    model: dict[LogId, list[LogRecord]] = {}
    epoch, last = 0, 0
    for names, rise, size, kind in steps:
        epoch += rise
        logs = [LogId(name) for name in sorted(names)]
        tails = {log: model[log][-1].position if log in model else BEFORE_FIRST for log in logs}
        if kind == "w":
            tails[logs[-1]] = Position(tails[logs[-1]] + 1)
            with pytest.raises(WrongTailError):
                state.append([Entry(log, tails[log], Epoch(epoch), bytes(size)) for log in logs])
            continue
        positions = state.append([Entry(log, tails[log], Epoch(epoch), bytes(size)) for log in logs])
        assert last < positions[0] and list(positions) == sorted(set(positions))
        last = positions[-1]
        for log, position in zip(logs, positions, strict=True):
            model.setdefault(log, []).append(LogRecord(position, Epoch(epoch), bytes(size)))
    assert state.logs() == sorted(model)
    for log, records in model.items():
        assert state.tail(log) == records[-1].position
        assert state.read(log, BEFORE_FIRST, 1 << 30) == records
        found: list[LogRecord] = []
        while some := state.read(log, found[-1].position if found else BEFORE_FIRST, bytes_max):
            assert len(some) == 1 or sum(len(record.payload) for record in some) <= bytes_max
            found += some
        assert found == records
        below = [record.position for record in records if record.epoch <= epoch_asked]
        assert state.position_before(log, Epoch(epoch_asked)) == (below[-1] if below else BEFORE_FIRST)


def test_gaps_follow_from_the_seed() -> None:
    def positions(seed: int) -> list[Position]:
        state = MemoryLogState(seed)
        return [state.append([Entry(A, state.tail(A), Epoch(1), b"")])[0] for _ in range(50)]

    assert positions(5) == positions(5) != positions(6)
    assert positions(0) == list(range(1, 51))
    gaps = {after - before for before, after in zip([0, *positions(5)], positions(5), strict=False)}
    assert gaps == set(range(1, 8))


def test_no_space_passes() -> None:
    state = MemoryLogState()
    state.fail_next(StorageFullError("full"))
    with pytest.raises(WrongTailError):
        state.append([Entry(A, Position(9), Epoch(1), b"")])
    with pytest.raises(StorageFullError):
        state.append([Entry(A, BEFORE_FIRST, Epoch(1), b"")])
    assert state.tail(A) == BEFORE_FIRST and not state.failed
    state.append([Entry(A, BEFORE_FIRST, Epoch(1), b"")])


@pytest.mark.parametrize("landed", [False, True])
def test_a_failed_log_stays_failed_until_reopened(landed: bool) -> None:
    state = MemoryLogState()
    state.fail_next(LogFailedError("the disk is gone"), landed=landed)
    for _ in range(2):
        with pytest.raises(LogFailedError, match="the disk is gone"):
            state.append([Entry(A, BEFORE_FIRST, Epoch(1), b""), Entry(B, BEFORE_FIRST, Epoch(1), b"")])
    assert state.failed
    state.reopen()
    assert (state.tail(A) > 0, state.tail(B) > 0, state.failed) == (landed, landed, False)
    state.append([Entry(A, state.tail(A), Epoch(1), b"")])


def test_checkpoints_and_limits() -> None:
    state = MemoryLogState(record_bytes_max=10)
    assert state.load_checkpoint(A) is None
    state.save_checkpoint(A, BEFORE_FIRST, iter([b"a", b"b"]))
    assert state.load_checkpoint(A) == (BEFORE_FIRST, (b"a", b"b"))
    with pytest.raises(TooLargeError):
        state.append([Entry(A, BEFORE_FIRST, Epoch(1), bytes(11))])
    state.append([Entry(A, BEFORE_FIRST, Epoch(1), bytes(10))])
    assert state.bytes_written == 10
    for wrong in ([Entry(A, state.tail(A), Epoch(0), b"")], [Entry(B, BEFORE_FIRST, Epoch(1), b"")] * 2, []):
        with pytest.raises(AssertionError):
            state.append(wrong)
    assert state.read(B, BEFORE_FIRST, 5) == [] and state.position_before(B, Epoch(5)) == BEFORE_FIRST


def test_one_record_stands_for_those_that_were_compacted() -> None:
    state = MemoryLogState()
    for number in range(6):
        state.append([Entry(log, state.tail(log), Epoch(number), bytes([number]) * 10) for log in (A, B)])
    others, before = state.read(A, BEFORE_FIRST, 1 << 30), state.read(B, BEFORE_FIRST, 1 << 30)

    def fold(records: Iterable[LogRecord]) -> bytes:
        return b"".join(record.payload[:1] for record in records)

    assert state.compact(B, Position(before[0].position), fold) == 0, "one is not worth folding"
    assert state.compact(B, Position(before[3].position + 1), fold) == 36
    now = state.read(B, BEFORE_FIRST, 1 << 30)
    assert now == [LogRecord(before[3].position, Epoch(3), bytes(range(4))), *before[4:]]
    assert (
        state.position_before(B, Epoch(2)) == BEFORE_FIRST and state.position_before(B, Epoch(4)) == before[4].position
    )
    assert state.compact(LogId(9), Position(99), fold) == 0
    assert state.read(A, BEFORE_FIRST, 1 << 30) == others and state.tail(B) == before[-1].position
