"""Rules S and O: which views are planned, what keeps its owner and what gets a higher term."""

from __future__ import annotations

from functools import partial

import pytest
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position, Term
from tidegrid.grid.ring.assignment import assignment
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.ownership import (
    TRANSITIONS,
    PartitionState,
    advance,
    joined_view,
    moved_view,
    next_view,
    open_stamp,
    view_without,
)
from tidegrid.grid.ring.view import Member, Owner
from tidegrid.v1 import control_pb2

from tests.unit.ring.test_control import folded

ALL = frozenset({NodeId(1), NodeId(2), NodeId(3)})


def member(node: int, incarnation: int = 1) -> Member:
    return Member(NodeId(node), Incarnation(incarnation), f"a{node}", f"p{node}")


def apply(control: ControlState, view: control_pb2.View) -> ControlState:
    control.apply(Position(control.position + 2), control_pb2.ControlRecord(view=view))
    return control


def begun(*nodes: int) -> ControlState:
    control = folded()
    return apply(control, next_view(control, [member(node) for node in nodes or (1, 2, 3)]))


def owners(control: ControlState) -> dict[int, tuple[int, int, int]]:
    """partition -> (node, incarnation, term)"""
    return {p: (o.node, o.incarnation, o.term) for p, o in control.view.owners.items()}


def test_the_first_view_gives_everything_as_assigned_under_the_first_term() -> None:
    control = begun()
    assert owners(control) == {p: (node, 1, 1) for p, node in assignment(4, ALL).items()}
    assert control.view.uncovered(4) == () and control.view.ring == (1, 2, 3)
    assert control.view.members[NodeId(2)] == member(2)


def test_who_joins_takes_nothing_from_the_living() -> None:
    control = begun(1, 2)
    before = owners(control)
    apply(control, joined_view(control, member(3)))
    assert owners(control) == before and control.view.ring == (1, 2, 3)


def test_what_nobody_living_owns_goes_where_it_is_assigned_under_a_higher_term() -> None:
    control = begun()
    before = owners(control)
    apply(control, view_without(control, [NodeId(2)]))
    wanted = assignment(4, frozenset({NodeId(1), NodeId(3)}))
    assert control.view.ring == (1, 3)
    for partition, (node, incarnation, term) in before.items():
        kept = (node, incarnation, term) if node != 2 else (wanted[PartitionId(partition)], 1, 2)
        assert owners(control)[partition] == kept


def test_s_a_new_incarnation_owns_nothing_of_what_it_had() -> None:
    """It gets what is left over, each under a term above all before; the others keep what they have."""
    control = begun(1, 2)
    before = owners(control)
    mine = [p for p, (node, _, _) in before.items() if node == 1]
    assert mine
    apply(control, joined_view(control, member(1, 7)))
    for partition, owner in owners(control).items():
        assert owner[2] == 2 if partition in mine else owner == before[partition]
    assert control.view.members[NodeId(1)] == member(1, 7)
    assert all(incarnation == 7 for node, incarnation, _ in owners(control).values() if node == 1)


def test_terms_rise_whoever_comes_back() -> None:
    """A term names one owner for ever, also of a partition that wanders round and comes home."""
    control = begun()
    seen: dict[tuple[int, int], tuple[int, int]] = {}
    for turn in range(12):
        node = NodeId(1 + turn % 3)
        for plan in (
            partial(view_without, gone=[node]),
            partial(joined_view, me=member(node, 10 + turn)),
            partial(moved_view, give={PartitionId(turn % 4): node}),
        ):
            apply(control, plan(control))
            for partition, (owner, incarnation, term) in owners(control).items():
                assert seen.setdefault((partition, term), (owner, incarnation)) == (owner, incarnation)
    assert max(term for _, term in seen) > 6


def test_a_move_gives_one_partition_and_leaves_the_rest() -> None:
    control = begun()
    before = owners(control)
    (giver, _, term) = before[0]
    taker = next(node for node in (1, 2, 3) if node != giver)
    apply(control, moved_view(control, {PartitionId(0): NodeId(taker)}))
    assert owners(control) == {**before, 0: (taker, 1, term + 1)}


def test_a_move_to_who_has_it_changes_nothing() -> None:
    control = begun()
    before = owners(control)
    apply(control, moved_view(control, {PartitionId(0): control.view.owners[PartitionId(0)].node}))
    assert owners(control) == before


def test_owner_entries_of_an_incarnation_before_count_for_nobody() -> None:
    """As an older version may have left them: whoever plans the next view gives the partition anew."""
    control = folded()
    stale = Owner(NodeId(1), Incarnation(3), Term(5))
    view = next_view(control, [member(1, 4)])
    view.owners[0].incarnation, view.owners[0].term = stale.incarnation, stale.term
    apply(control, view)
    assert control.view.owner(PartitionId(0)) is None and control.view.uncovered(4) == (0,)
    apply(control, next_view(control, control.view.members.values()))
    assert owners(control)[0] == (1, 4, 6) and control.view.uncovered(4) == ()


@pytest.mark.parametrize(("own", "closed", "last", "stamp"), [(9, 3, 4, 9), (1, 3, 2, 4), (1, 3, 8, 8), (4, 3, 4, 4)])
def test_o2_the_stamp_of_open(own: int, closed: int, last: int, stamp: int) -> None:
    assert open_stamp(Epoch(own), Epoch(closed), Epoch(last)) == stamp


def test_the_lifecycle_of_a_partition() -> None:
    state = PartitionState.OPENING
    for to in (PartitionState.OPEN, PartitionState.DRAINING, PartitionState.OPEN, PartitionState.CLOSED):
        state = advance(state, to)
    assert not TRANSITIONS[PartitionState.CLOSED]
    with pytest.raises(AssertionError):
        advance(PartitionState.OPENING, PartitionState.DRAINING)
