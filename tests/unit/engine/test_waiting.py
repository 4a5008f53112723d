"""Waits by milestone and deadline."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tidegrid.grid.engine.waiting import Milestone, Waits


def test_each_wait_ends_once_by_its_milestone_or_its_deadline() -> None:
    waits = Waits()
    waits.add(Milestone.CLOSED, 5, "a", 1.0)
    waits.add(Milestone.CLOSED, 5, "b", 9.0)
    waits.add(Milestone.CLOSED, 7, "c", 2.0)
    waits.add(Milestone.EPOCH, 3, "d", 3.0)
    assert len(waits) == 4 and waits.deadline() == 1.0 and waits.highest(Milestone.CLOSED) == 7
    assert waits.expired(1.0) == [(Milestone.CLOSED, "a")]
    assert waits.reached(Milestone.CLOSED, 6) == ["b"] and waits.deadline() == 2.0
    assert waits.expired(2.5) == [(Milestone.CLOSED, "c")] and waits.highest(Milestone.CLOSED) == 0
    assert waits.reached(Milestone.CLOSED, 100) == [] and waits.reached(Milestone.EPOCH, 3) == ["d"]
    assert len(waits) == 0 and waits.deadline() is None and waits.expired(100.0) == []


def test_all_can_be_dropped() -> None:
    waits = Waits()
    waits.add(Milestone.REFERENCES, 5, "a", 1.0)
    assert waits.drop_all() == ["a"] and waits.drop_all() == [] and waits.deadline() is None
    waits.add(Milestone.REFERENCES, 5, "b", 1.0)
    assert waits.reached(Milestone.REFERENCES, 5) == ["b"]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sampled_from(list(Milestone)), st.integers(0, 9), st.integers(0, 9)),
            st.tuples(st.just("reach"), st.sampled_from(list(Milestone)), st.integers(0, 9), st.just(0)),
            st.tuples(st.just("expire"), st.just(Milestone.EPOCH), st.integers(0, 9), st.just(0)),
        ),
        max_size=40,
    )
)
def test_waits_against_a_list(steps: list) -> None:  # type: ignore[type-arg]
    waits, model = Waits(), []
    for number, (step, kind, value, deadline) in enumerate(steps):
        if step == "add":
            waits.add(kind, value, number, deadline)
            model.append((kind, value, number, deadline))
        elif step == "reach":
            due = [entry for entry in model if entry[0] is kind and entry[1] <= value]
            assert sorted(waits.reached(kind, value)) == sorted(entry[2] for entry in due)
            model = [entry for entry in model if entry not in due]
        else:
            due = [entry for entry in model if entry[3] <= value]
            found = sorted((request, which.value) for which, request in waits.expired(value))
            assert found == sorted((entry[2], entry[0].value) for entry in due)
            model = [entry for entry in model if entry not in due]
        assert len(waits) == len(model)
        assert waits.deadline() == min((entry[3] for entry in model), default=None)
        for one in Milestone:
            assert waits.highest(one) == max((entry[1] for entry in model if entry[0] is one), default=0)
