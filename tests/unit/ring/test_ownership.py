"""Rules S and O: what a start takes, and how a partition is opened."""

from __future__ import annotations

import pytest
from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position, Term
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.ownership import TRANSITIONS, PartitionState, advance, assigned, open_stamp, plan_view
from tidegrid.grid.ring.view import Member, Owner
from tidegrid.v1 import control_pb2

from tests.unit.ring.test_control import folded, view

IDS = [NodeId(1), NodeId(2), NodeId(3)]


def joined(control: ControlState, node: int, incarnation: int, configured: list[NodeId] = IDS) -> ControlState:
    plan = plan_view(control, Member(NodeId(node), Incarnation(incarnation), "a", "p"), configured)
    control.apply(Position(control.position + 2), control_pb2.ControlRecord(view=plan))
    return control


def test_s_every_start_takes_its_share_with_a_higher_term() -> None:
    control = joined(folded(), 1, 100)
    assert control.view.owners == {
        0: Owner(NodeId(1), Incarnation(100), Term(1)),
        3: Owner(NodeId(1), Incarnation(100), Term(1)),
    }
    joined(joined(control, 2, 200), 3, 300)
    assert control.view.uncovered(4) == () and control.view.ring == (1, 2, 3)
    joined(control, 1, 101)
    assert control.view.owners[PartitionId(3)] == Owner(NodeId(1), Incarnation(101), Term(2))
    assert control.view.owners[PartitionId(1)] == Owner(NodeId(2), Incarnation(200), Term(1)), "the others keep theirs"
    assert control.view.members[NodeId(1)] == Member(NodeId(1), Incarnation(101), "a", "p")


def test_a_node_that_is_configured_no_more_is_dropped_and_its_term_is_remembered() -> None:
    control = folded(view({1: 1, 3: 3}, {0: (1, 1, 1), 2: (3, 3, 7)}))
    joined(control, 1, 2, IDS[:2])
    assert control.view.ring == (1,)
    assert control.view.owners[PartitionId(2)] == Owner(NodeId(1), Incarnation(2), Term(8))


def test_what_a_dropped_node_held_is_left_to_whom_it_is_assigned() -> None:
    control = joined(folded(view({3: 3}, {1: (3, 3, 7)})), 1, 2, IDS[:2])
    assert PartitionId(1) not in control.view.owners
    assert joined(control, 2, 4, IDS[:2]).view.owners[PartitionId(1)] == Owner(NodeId(2), Incarnation(4), Term(8))


def test_another_configuration_leaves_foreign_shares_to_those_who_hold_them() -> None:
    control = folded(view({1: 1, 2: 2}, {0: (2, 2, 5), 1: (2, 2, 1), 3: (2, 2, 6)}))
    joined(control, 1, 9, IDS[:2])
    assert {p: o.node for p, o in control.view.owners.items()} == {0: 1, 1: 2, 2: 1, 3: 2}
    assert control.view.owners[PartitionId(0)].term == 6


def test_a_node_that_is_not_configured_is_told_so() -> None:
    with pytest.raises(ConfigurationError, match="node 9"):
        plan_view(folded(), Member(NodeId(9), Incarnation(1)), IDS)


def test_the_assignment_is_even() -> None:
    owners = [assigned(PartitionId(p), [3, 1, 2]) for p in range(7)]  # type: ignore[list-item]
    assert owners == [1, 2, 3, 1, 2, 3, 1]


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
