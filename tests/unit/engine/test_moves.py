"""A partition on its way to another node: what is in flight is decided by the log, what is new is sent elsewhere."""

from __future__ import annotations

import pytest
from tidegrid.grid.engine.delivery import Delivery
from tidegrid.grid.engine.intake import Carry
from tidegrid.grid.log.record import SourceId, encode_open
from tidegrid.grid.model.errors import LogTimeoutError, UnavailableError, WrongOwnerError
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position
from tidegrid.grid.ring.assignment import assignment
from tidegrid.grid.ring.ownership import PartitionState, joined_view, moved_view, next_view
from tidegrid.grid.ring.view import Member

from tests.unit.engine.stand import GRID_ID, Stand, client_session, key

P0 = PartitionId(0)
OTHER = Member(NodeId(1), Incarnation(1))


def give(stand: Stand, *owners: int) -> None:
    """Views that give partition 0 to these nodes, one after the other, read by the node."""
    for owner in owners:
        if OTHER.node not in stand.node.control.view.members:
            stand.view(joined_view(stand.node.control, OTHER))
            stand.read_control()
        stand.view(moved_view(stand.node.control, {P0: NodeId(owner)}))
        stand.read_control()


def other_opens(stand: Stand) -> None:
    """The owner that the applied view names opens partition 0."""
    owner = stand.node.control.view.owners[P0]
    stand.write_log(encode_open(P0, owner.term, stand.node.epoch, owner.node, owner.incarnation, 5), stand.node.epoch)


# Given up with a frame in flight -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lands", [True, False])
def test_a_frame_in_flight_is_answered_by_its_outcome_and_promised_for_until_then(lands: bool) -> None:
    stand = Stand()
    request = stand.put({"a": 1})
    stamp = stand.node.epoch
    give(stand, 1)
    assert request not in stand.answered and not stand.node.partitions
    assert [(promise.partition, promise.in_flight) for promise in stand.node.standing.promises()] == [(0, stamp)]
    if not lands:
        other_opens(stand)
    stand.land()
    if not lands:
        assert request not in stand.answered, "what has its slot is read first"
        stand.read_slot()
    assert request in stand.answered and list(stand.node.standing.promises()) == []
    if lands:
        assert request.versions == [1] and not request.errors
    else:
        assert isinstance(request.errors[0], WrongOwnerError)


@pytest.mark.parametrize("frame_lands", [True, False])
def test_a_given_up_frame_of_which_nothing_is_heard_is_settled_by_a_fill(frame_lands: bool) -> None:
    stand = Stand()
    request = stand.put({"a": 1})
    frame = stand.frames[0]
    give(stand, 1)
    stand.fail(LogTimeoutError("no answer"))
    if frame_lands:
        stand.log.append([frame.entry])
    stand.land()  # the FILL
    if frame_lands:
        stand.read_slot()
        assert request.versions == [1] and not request.errors
    else:
        assert isinstance(request.errors[0], WrongOwnerError) and not stand.frames, "it is not ours to try again"
    assert request in stand.answered and list(stand.node.standing.promises()) == []


def test_of_two_lives_of_a_partition_each_has_its_own_outcome() -> None:
    """Moved away and back while a frame was in flight: its answer is not that of the frame in flight now."""
    stand = Stand()
    first = stand.put({"a": 1})
    give(stand, 1, 0)
    other, stand.frames = stand.frames, []
    stand.open_all()
    second = stand.put({"b": 1}, first=2)
    (mine,) = stand.frames
    stand.frames = other + stand.frames
    assert mine.slot.term == other[0].slot.term + 2
    stand.land()
    assert second not in stand.answered and first not in stand.answered
    stand.read_slot()
    assert isinstance(first.errors[0], WrongOwnerError) and second not in stand.answered
    stand.land()
    assert second.versions == [1] and stand.value("a") is None and stand.value("b") == 1


def test_what_waited_while_another_owned_the_partition_is_not_taken_up_again() -> None:
    """The other may have refused a copy of it for good, and nobody would know."""
    stand = Stand()
    ahead = Carry(GRID_ID, Position(stand.log.tail(0) + 10**6), Epoch(0))
    waits = stand.submit(stand.batch({"a": 1}), ahead)
    give(stand, 1, 0)
    stand.open_all()
    stand.node.intake.unread = [
        pending._replace(carry=Carry(GRID_ID, Position(0), Epoch(0))) for pending in stand.node.intake.unread
    ]
    stand.node.control_at_tail(stand.instant)
    stand.turn()
    assert isinstance(waits.errors[0], WrongOwnerError) and not stand.frames
    assert not stand.put_now({"a": 1}, first=1).errors, "asked again it is"


# Planned moves -----------------------------------------------------------------------------------------------------


class Pair(Stand):
    """Node 0 has everything, and node 1 has joined: the assignment gives it `number`."""

    def __init__(self) -> None:
        super().__init__(partitions=2)
        self.view(joined_view(self.node.control, OTHER))
        self.read_control()
        wanted = assignment(2, frozenset({NodeId(0), NodeId(1)}))
        (self.number,) = [number for number, owner in wanted.items() if owner == 1]
        of = self.node.catalog.map("t").partitioner.of
        self.name = next(name for name in "abcdefgh" if of(key(name)) == self.number)
        self.control_appends.clear()

    def write(self, value: int) -> object:
        return self.put({self.name: value}, partition=self.number)

    @property
    def moves(self) -> list[int]:
        """The owners of `number` in the views proposed."""
        views = [one.record.view for one in self.control_appends if one.record.HasField("view")]
        return [owner.node for view in views for owner in view.owners if owner.partition == self.number]


def test_a_partition_is_drained_and_then_handed_over() -> None:
    pair = Pair()
    flying = pair.put({pair.name: 1}, partition=pair.number)
    assert pair.partition(pair.number).state is PartitionState.OPEN, "not before a round is closed in that view"
    pair.close(pair.node.control.closed + 1)
    assert pair.partition(pair.number).state is PartitionState.DRAINING and pair.moves == []
    late = pair.put({pair.name: 2}, partition=pair.number)
    assert isinstance(late.errors[0], UnavailableError) and pair.value(pair.name) is None
    assert len(pair.node.standing.tails()) == 2 and all(promise.open for promise in pair.node.standing.promises())
    pair.land()
    assert flying.versions == [1] and pair.value(pair.name) == 1, "reads go on"
    assert pair.moves == [1]
    (proposal,) = pair.control_appends
    assert proposal.expected == pair.node.control.position
    pair.view(proposal.record.view)
    pair.read_control()
    assert pair.number not in pair.node.partitions and len(pair.node.partitions) == 1
    moved = pair.put({pair.name: 2}, partition=pair.number)
    assert isinstance(moved.errors[0], WrongOwnerError) and moved.errors[0].owner == 1


def test_what_is_refused_at_last_does_not_keep_it_either() -> None:
    pair = Pair()
    landing = pair.put({pair.name: 1}, partition=pair.number)
    refused = pair.put({pair.name: 2}, partition=pair.number, session=client_session(2), conditions={0: 7})
    pair.close(pair.node.control.closed + 1)
    assert pair.moves == [] and refused not in pair.answered
    pair.land_all()
    assert landing.versions == [1] and refused.errors and pair.moves == [1]


def test_deliveries_that_wait_for_time_to_go_on_do_not_keep_it() -> None:
    pair = Pair()
    source = SourceId(PartitionId(1 - pair.number), Position(1000), 0)
    pair.partition(pair.number).deliver(Delivery(source, pair.node.epoch, 0, 1, [], 0, 0, True))
    pair.close(pair.node.control.closed + 1)
    assert pair.moves == [1], "its sender says it again, to the next owner"


def test_one_that_is_idle_goes_at_once() -> None:
    pair = Pair()
    pair.close(pair.node.control.closed + 1)
    assert pair.moves == [1]


def test_a_move_that_nobody_wants_any_more_is_called_off() -> None:
    pair = Pair()
    pair.put({pair.name: 1}, partition=pair.number)
    pair.close(pair.node.control.closed + 1)
    assert pair.partition(pair.number).state is PartitionState.DRAINING
    alone = [member for member in pair.node.control.view.members.values() if member.node == 0]
    pair.view(next_view(pair.node.control, alone))
    pair.read_control()
    assert pair.partition(pair.number).state is PartitionState.OPEN
    pair.land_all()
    assert not pair.put_now({pair.name: 2}, partition=pair.number).errors and pair.moves == []


def test_a_refused_hand_over_is_proposed_again_from_what_the_log_says_then() -> None:
    pair = Pair()
    pair.close(pair.node.control.closed + 1)
    (first,) = pair.control_appends
    pair.close(pair.node.control.closed + 1)  # it took the slot
    assert pair.moves == [1, 1]
    assert pair.control_appends[-1].expected == pair.node.control.position > first.expected


def test_what_is_drained_is_let_go_of_as_any_other_history() -> None:
    pair = Pair()
    for value in (1, 2, 3):
        pair.put_now({pair.name: value}, partition=pair.number)
    pair.put({pair.name: 4}, partition=pair.number)
    pair.close(pair.node.epoch)
    assert pair.partition(pair.number).state is PartitionState.DRAINING
    pair.horizon(pair.node.control.closed)
    assert pair.node.reclaim(1000) > 0
