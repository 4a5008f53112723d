"""Request memory against a dictionary from sequence to outcome, and the bounds on what it keeps."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.grid.engine import requests
from tidegrid.grid.engine.admission import admit
from tidegrid.grid.engine.requests import DETAILED_RUNS_MAX, RequestMemory, Session, session_created, session_kind
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.record import PUT
from tidegrid.grid.model.errors import (
    BusyError,
    ConflictError,
    FormatError,
    GridError,
    InvalidValueError,
    OutcomeUnknownError,
)
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.limits import Limits

from tests.unit.engine.stand import client_session, named_session

LIMITS = Limits()


def memory(limits: Limits = LIMITS, session_epochs: int = 100) -> RequestMemory:
    return RequestMemory(limits, session_epochs)


class Naive:
    """What a session should say: sequence -> outcome."""

    def __init__(self) -> None:
        self.outcomes: dict[int, tuple[str, object]] = {}
        self.lowest = 1

    def let_go(self, lowest: int) -> None:
        self.lowest = max(self.lowest, lowest)

    def says(self, sequence: int) -> tuple[str, object]:
        state, detail = self.outcomes.get(sequence, ("new", None))
        if sequence < self.lowest and state != "pending":
            return ("forgotten", None)
        return state, detail


actions = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 60), st.integers(1, 6)),
        st.tuples(st.just("settle"), st.integers(0, 5), st.integers(0, 63)),
        st.tuples(st.just("let go"), st.integers(1, 60), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(actions)
def test_a_session_is_a_dictionary_of_outcomes(steps: list[tuple[str, int, int]]) -> None:
    session, naive = Session(), Naive()
    in_flight: list[tuple[int, int, object]] = []
    error = ConflictError.of(1, 2)
    for number, (step, one, two) in enumerate(steps):
        if step == "send":
            first, last = one, one + two - 1
            if all(naive.says(sequence)[0] == "new" for sequence in range(first, last + 1)):
                request = object()
                session.pending.append((first, last, request))
                in_flight.append((first, last, request))
                naive.outcomes.update(dict.fromkeys(range(first, last + 1), ("pending", request)))
        elif step == "settle" and in_flight:
            first, last, request = in_flight.pop(one % len(in_flight))
            accepted = [sequence for sequence in range(first, last + 1) if not two >> (sequence - first) & 1]
            for sequence in range(first, last + 1):
                if sequence in accepted:
                    session.accept(sequence, [number + 1], Epoch(number))
                    naive.outcomes[sequence] = ("accepted", (number + 1, number))
                else:
                    session.refused[sequence] = error
                    naive.outcomes[sequence] = ("refused", error)
            session.settle(request)
        elif step == "let go":
            in_use = min((first for first, _, _ in in_flight), default=one)
            session.let_go(min(one, in_use))  # nobody forgets what is on its way
            naive.let_go(min(one, in_use))
        _agree(session, naive)
    assert [run.first for run in session.runs] == sorted({run.first for run in session.runs})


def _agree(session: Session, naive: Naive) -> None:
    for sequence in range(1, 70):
        known, (state, detail) = session.look_up(sequence), naive.says(sequence)
        if state == "forgotten":
            kept = known.state in ("accepted", "refused")
            assert kept and (known.state != "refused" or isinstance(known.error, GridError))
            continue
        assert known.state == state, sequence
        if state == "accepted":
            assert (known.version, known.epoch) == detail
        elif state == "refused":
            assert known.error is detail
        elif state == "pending":
            assert known.pending is detail


def test_what_was_let_go_is_never_new_again() -> None:
    session = Session()
    session.accept(1, [1, 1, 1], Epoch(5))
    session.refused[4] = ConflictError.of(1, 2)
    session.let_go(6)
    for sequence in range(1, 6):
        known = session.look_up(sequence)
        assert known.state == "refused" and isinstance(known.error, OutcomeUnknownError)
    assert session.look_up(6).state == "new"
    session.let_go(3)
    assert session.lowest == 6 and not session.runs and not session.refused


def test_a_long_session_with_a_watermark_keeps_a_window() -> None:
    one = memory()
    session = client_session()
    size = 0
    tracemalloc.start()
    try:
        for first in range(1, 200_001, 10):
            known = one.admit(session, Epoch(1), max(1, first - 100))
            one.accepted(session, first, tuple(range(10)), Epoch(1))
            if first == 20_001:
                size = tracemalloc.get_traced_memory()[0]
        assert len(known.runs) <= 12
        assert tracemalloc.get_traced_memory()[0] < size + 50_000
    finally:
        tracemalloc.stop()


def test_a_named_session_keeps_intervals_for_ever_and_details_for_a_while() -> None:
    one = memory()
    session = named_session()
    for first in range(1, 100_001, 10):
        one.accepted(session, first, [7] * 10, Epoch(first))
    known = one.get(session)
    assert known is not None and len(known.runs) <= 2 * DETAILED_RUNS_MAX
    assert known.look_up(5).state == "accepted" and known.look_up(5).version == 0
    assert known.look_up(99_999) == replace(known.look_up(99_999), version=7, epoch=Epoch(99_991))
    assert known.look_up(100_001).state == "new"
    gap = memory()
    for first in range(1, 12_001, 20):  # intervals that do not touch stay apart
        gap.accepted(session, first, [1] * 10, Epoch(1))
    parts = gap.get(session)
    assert parts is not None and parts.look_up(11).state == "new" and parts.look_up(1).state == "accepted"


def test_the_longest_unused_named_session_goes_first() -> None:
    one = memory(Limits(named_sessions_max=2))
    one.admit(named_session(1), Epoch(1), 0)
    one.admit(named_session(2), Epoch(1), 0)
    one.admit(named_session(1), Epoch(1), 0)
    one.admit(named_session(3), Epoch(1), 0)
    assert one.get(named_session(2)) is None and one.get(named_session(1)) is not None
    for number in (1, 3):
        known = one.get(named_session(number))
        assert known is not None
        known.pending.append((1, 1, object()))
    with pytest.raises(BusyError):
        one.admit(named_session(4), Epoch(1), 0)


def test_a_session_ends_by_epochs_and_is_never_taken_for_new() -> None:
    one = memory(session_epochs=10)
    session = client_session(created=5)
    assert session_kind(session) == 1 and session_created(session) == 5
    one.admit(session, Epoch(15), 0)
    with pytest.raises(OutcomeUnknownError):
        one.admit(session, Epoch(16), 0)
    with pytest.raises(InvalidValueError):
        one.admit(client_session(2, created=50), Epoch(15), 0)
    for wrong in (b"", b"\3" + bytes(23), b"\1" + bytes(30)):
        with pytest.raises(InvalidValueError):
            one.admit(wrong, Epoch(1), 0)


def test_sessions_are_forgotten_only_by_a_close_and_with_nothing_on_its_way() -> None:
    one = memory(session_epochs=10)
    for number in (1, 2):
        one.admit(client_session(number, created=1), Epoch(1), 0)
    one.admit(named_session(), Epoch(1), 0)
    busy = one.get(client_session(2))
    assert busy is not None
    busy.pending.append((1, 1, object()))
    assert one.expire() == 0
    one.closed = Epoch(11)
    assert one.expire() == 0
    one.closed = Epoch(12)
    assert one.expire() == 1 and len(one) == 2


def test_room_for_sessions_is_made_once_a_close() -> None:
    one = memory(Limits(sessions_max=2), session_epochs=10)
    for number in (1, 2):
        one.admit(client_session(number), Epoch(1), 0)
    with pytest.raises(BusyError):
        one.admit(client_session(3), Epoch(1), 0)
    one.closed = Epoch(12)
    one.admit(client_session(3, created=12), Epoch(13), 0)
    one.admit(client_session(4, created=12), Epoch(13), 0)
    with pytest.raises(BusyError):
        one.admit(client_session(5, created=12), Epoch(13), 0)


def test_a_checkpoint_of_it_is_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "DETAILED_RUNS_MAX", 3)
    one = memory()
    one.admit(client_session(), Epoch(1), 4)
    one.accepted(client_session(), 4, [1, 2, 3], Epoch(7))
    one.accepted(client_session(), 9, [1], Epoch(8))
    for first in range(1, 21, 2):
        one.accepted(named_session(), first, [5, 6], Epoch(first))
    other = memory()
    for row in one.rows():
        other.load(*row)
    assert list(other.rows()) == list(one.rows()) and len(other._named) == 1
    with pytest.raises(FormatError):
        memory().load(client_session(), 1, 2, [(1, 2, 1, bytes(8))])


def test_what_was_refused_last_stays_so_when_the_partition_went_and_came_back() -> None:
    """Seed 15040 of the simulator: nothing of the session was stored after it, so the log knew of no sequence as high."""
    session, error = client_session(1), ConflictError.of(8, 7)
    before = memory()
    before.admit(session, Epoch(1), 1).refused |= {3: error, 4: error}
    after = memory()
    after.accepted(session, 1, [1, 1], Epoch(1))
    after.recall(before.unlogged())
    copy = WriteRequest(PartitionId(0), session, 3, 1, "m", [b"k", b"l"], [b"", b""], bytes([PUT, PUT]))
    assert admit(copy, after, Epoch(1), LIMITS) == []
    assert copy.errors == {0: error, 1: error} and not copy.unanswered
