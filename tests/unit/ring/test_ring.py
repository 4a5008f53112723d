"""The ring of one node, rule by rule: S, E, J, T, P as the ring applies it, and C."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tidegrid.grid.model.errors import StorageFullError, WrongTailError
from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Position
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.ring.local import RingOptions
from tidegrid.grid.ring.messages import TokenReceived
from tidegrid.grid.ring.ring import ROUND_MAX, Carried, TokenPlace
from tidegrid.grid.ring.token import Token, begin, visit

from tests.unit.ring.rig import GRID, A, B, C, Rig, closes, raised, received, tokens
from tests.unit.ring.test_control import K, close, declare, view


def token(
    rig: Rig, *visited: NodeId, round_: int = 1, intro: int = 2, floor: int | None = None, busy: bool = True
) -> Token:
    made = begin(GRID, rig.control.view.position, round_, 0, Epoch(intro), A)
    for node in visited:
        made = visit(made, node, Epoch(intro - 1 if floor is None else floor), {}, Epoch(0), busy)
    return made


# S, E, J ----------------------------------------------------------------------------------------------------------


def test_s_a_start_begins_above_closed() -> None:
    rig = Rig(member=False)
    assert rig.ring.epoch == 1 and not rig.ring.member and not rig.ring.is_origin
    rig.applied(1.0, close(7))
    assert rig.ring.epoch == 8 and raised(rig.take()) == [8]


def test_e1_the_intro_raises_the_epoch_to_below_the_limit_at_most() -> None:
    rig = Rig(B)
    effects = rig.arrive(1.0, token(rig, A, intro=5))
    assert raised(effects) == [5]
    effects = rig.arrive(2.0, token(rig, A, round_=2, intro=2**40))
    assert rig.ring.epoch == K - 1 == raised(effects)[0]
    assert tokens(effects)[0][1].floor == K - 2, "and promises below the epoch that it really has"


def test_e1_a_round_introduces_at_most_one_below_the_limit() -> None:
    rig = Rig(A)
    rig.local.stamp = Epoch(1)
    for now in range(1, 30):
        rig.ring.start_round(float(now))
    assert rig.ring.epoch == K - 1
    assert tokens(rig.take())[-1][1].intro == K - 1


def test_e2_a_carried_epoch_at_the_limit_is_not_taken() -> None:
    rig = Rig()
    position = rig.control.position
    assert rig.ring.carry(1.0, position, Epoch(K - 1)) is Carried.TAKEN
    assert raised(rig.take()) == [K - 1]
    assert rig.ring.carry(1.0, position, Epoch(K)) is Carried.APPLY_FIRST
    assert rig.ring.carry(1.0, position, Epoch(K), at_tail=True) is Carried.TOO_NEW
    rig.apply(close(1))
    assert rig.ring.carry(1.0, position, Epoch(K), at_tail=True) is Carried.TAKEN


def test_j_a_carried_control_position_is_applied_first() -> None:
    rig = Rig()
    ahead = Position(rig.control.position + 1)
    assert rig.ring.carry(1.0, ahead, Epoch(5)) is Carried.APPLY_FIRST
    assert rig.ring.carry(1.0, ahead, Epoch(5), at_tail=True) is Carried.BEYOND_LOG
    assert rig.ring.epoch == 1


def test_e_intro_jumps_to_a_pending_activation_in_a_few_rounds() -> None:
    rig = Rig(A, nodes=1)
    rig.applied(1.0, declare(MapSpec("m")))
    acts_at, now, rounds = rig.control.map_activation("m"), 1.0, 0
    assert acts_at == K
    while rig.control.activation_pending:
        for effect in closes(rig.take()):
            rig.applied(now, effect.record)
        now = rig.ring.deadline() or now
        rig.ring.time_passed(now)
        rounds = rig.ring.rounds
        assert rounds <= 3
    assert rig.ring.epoch >= acts_at


def test_e_intro_jumps_above_an_epoch_that_somebody_waits_for() -> None:
    rig = Rig(A, nodes=1)
    rig.local.wanted = Epoch(6)
    rig.ring.stirred(1.0)
    assert closes(rig.take())[0].record.close.epoch == 6
    rig = Rig(A, nodes=1)
    rig.ring.wake(1.0, Epoch(2**50))
    assert rig.ring.epoch == K - 1, "made up: the limit holds"


def test_o2_the_epoch_follows_the_stamp_of_open() -> None:
    rig = Rig()
    rig.ring.opened(1.0, Epoch(5))
    assert rig.ring.epoch == 5


# T ----------------------------------------------------------------------------------------------------------------


def test_t_of_another_grid_is_dropped() -> None:
    rig = Rig(B)
    assert rig.arrive(1.0, replace(token(rig, A), grid_id=b"another")) == []


def test_t_a_round_number_after_which_there_is_none_is_dropped() -> None:
    rig = Rig(B)
    assert rig.arrive(1.0, token(rig, A, round_=ROUND_MAX)) == []


def test_t_a_node_that_is_no_member_neither_takes_nor_acknowledges() -> None:
    rig = Rig(B)
    rig.apply(rig.view(n2=21))
    assert not rig.ring.member, "another incarnation is"
    assert rig.arrive(1.0, token(rig, A)) == []
    assert not rig.ring.start_round(1.0)


def test_t_a_token_is_acknowledged_merged_and_passed_on() -> None:
    rig = Rig(B)
    rig.local.durable = {PartitionId(1): Position(9)}
    rig.local.reference = Epoch(1)
    effects = rig.arrive(1.0, token(rig, A, busy=False))
    assert received(effects) == [(A, 1, 0)]
    ((to, passed),) = tokens(effects)
    assert to == C and passed.visited == {A, B} and passed.tails == {1: 9}
    assert (passed.floor, passed.reference_epoch, passed.busy) == (1, 1, False)


def test_t_a_doubled_or_stale_token_is_acknowledged_and_dropped() -> None:
    rig = Rig(B)
    newer, older = token(rig, A, round_=2), token(rig, A, round_=1)
    assert tokens(rig.arrive(1.0, newer))
    for stale in (newer, visit(newer, B, Epoch(1), {}, Epoch(0), True), older):
        effects = rig.arrive(1.1, stale)
        assert received(effects) and not tokens(effects)


def test_t_of_a_higher_generation_is_taken_again() -> None:
    rig = Rig(B)
    rig.arrive(1.0, token(rig, A))
    assert tokens(rig.arrive(1.1, replace(token(rig, A), generation=1)))


def test_t_of_a_newer_view_waits_until_that_view_is_applied() -> None:
    rig = Rig(B)
    newer = replace(token(rig, A), view=Position(rig.control.position + 3))
    assert rig.arrive(1.0, newer) == [], "not acknowledged either"
    assert rig.ring.place is TokenPlace.HERE
    rig.arrive(1.0, replace(newer, round=0))
    rig.applied(1.1, rig.view(n3=31))
    effects = rig.take()
    assert received(effects) == [(A, 1, 0)] and tokens(effects)[0][1].visited == {A, B}


def test_t_of_an_older_view_loses_those_who_changed() -> None:
    rig = Rig(C)
    older = token(rig, A, B)
    rig.apply(rig.view(n1=11))
    rig.ring.control_applied(1.0)
    rig.take()
    effects = rig.arrive(1.0, older, B)
    ((to, passed),) = tokens(effects)
    assert passed.view == rig.control.view.position
    assert to == A and passed.visited == {B, C} and not closes(effects)


def test_t_a_view_during_the_hold_counts_too() -> None:
    rig = Rig(C)
    rig.stamp(1.0, 2)
    assert not tokens(rig.arrive(1.0, token(rig, A, B, intro=4)))
    rig.applied(1.001, rig.view(n2=21))
    rig.hold(2, None)
    rig.ring.landed(1.002)
    assert tokens(rig.take())[0][1].visited == {A, C}


def test_t_the_hold_waits_for_the_frames_in_flight_at_arrival() -> None:
    rig = Rig(B)
    stamped = rig.stamp(1.0, 1)
    assert not tokens(rig.arrive(1.0, token(rig, A, intro=stamped + 1)))
    assert rig.ring.place is TokenPlace.HERE
    rig.ring.landed(1.001)
    assert not tokens(rig.take()), "another frame landed"
    rig.hold(1, rig.ring.epoch)
    rig.ring.landed(1.002)
    assert tokens(rig.take())[0][1].floor == stamped, "the frame in flight now was stamped after the token came"


def test_t_the_hold_ends_after_a_while() -> None:
    rig = Rig(B)
    stamped = rig.stamp(1.0, 1)
    rig.arrive(1.0, token(rig, A, intro=stamped + 1))
    due = rig.ring.deadline()
    assert due == 1.0 + RingOptions().hold
    rig.ring.time_passed(due)
    assert tokens(rig.take())[0][1].floor == stamped - 1


def test_t_a_frame_that_takes_most_of_a_tick_to_land_is_in_the_floor_of_the_round_it_met() -> None:
    """Going on without it would close nothing, and cost a whole tick."""
    rig = Rig(B)
    stamped = rig.stamp(1.0, 1)
    rig.arrive(1.0, token(rig, A, intro=stamped + 1))
    rig.ring.time_passed(1.015)
    assert not tokens(rig.take())
    rig.hold(1, None)
    rig.ring.landed(1.015)
    assert tokens(rig.take())[0][1].floor == stamped


def test_t_the_hold_of_a_token_ends_with_a_fresher_one() -> None:
    rig = Rig(B)
    rig.stamp(1.0, 1)
    rig.arrive(1.0, token(rig, A, round_=1, intro=4))
    rig.arrive(1.001, token(rig, A, round_=2, intro=5))
    rig.hold(1, None)
    rig.ring.landed(1.002)
    assert [passed.round for _, passed in tokens(rig.take())] == [2]


def test_p_a_partition_that_is_not_open_promises_no_more_than_closed() -> None:
    rig = Rig(B)
    rig.local.held = []
    assert tokens(rig.arrive(1.0, token(rig, A, intro=5)))[0][1].floor == 0


# C ----------------------------------------------------------------------------------------------------------------


def test_c_who_completes_the_round_closes_at_the_applied_position() -> None:
    rig = Rig(C)
    rig.apply(close(1, 500, {1: 5}))
    rig.ring.control_applied(0.5)
    made = replace(
        token(rig, A, B, intro=4),
        tails={PartitionId(1): Position(5), PartitionId(0): Position(8)},
        reference_epoch=Epoch(9),
    )
    effects = rig.arrive(1.0, made, B)
    (append,) = closes(effects)
    record = append.record.close
    assert append.expected == rig.control.position
    assert (record.epoch, record.time_ms, record.reference_epoch) == (3, 1000, 3)
    assert [(tail.partition, tail.position) for tail in record.tails] == [(0, 8)], "changed tails only"
    assert [to for to, _ in tokens(effects)] == [A], "and the token goes home"


def test_c_a_token_carries_no_tail_that_is_closed_already() -> None:
    rig = Rig(B)
    rig.apply(close(1, 500, {1: 9, 3: 4}))
    rig.local.durable = {PartitionId(1): Position(9), PartitionId(3): Position(5)}
    assert tokens(rig.arrive(1.0, token(rig, A)))[0][1].tails == {3: 5}


def test_c_of_two_rounds_that_wait_to_be_closed_the_higher_floor_counts() -> None:
    rig = Rig(C)
    (first,) = closes(rig.arrive(1.0, token(rig, A, B, intro=6)))
    rig.ring.close_failed(1.0, first.expected, StorageFullError("full"))
    rig.arrive(1.01, token(rig, A, B, round_=2, intro=7, floor=3))
    rig.ring.time_passed(2.0)
    assert closes(rig.take())[0].record.close.epoch == 5


def test_c_the_time_of_a_close_never_goes_back() -> None:
    rig = Rig(C)
    rig.apply(close(1, 5000))
    assert closes(rig.arrive(1.0, token(rig, A, B, intro=4)))[0].record.close.time_ms == 5000


def test_c_nothing_is_closed_when_nothing_waits_for_it() -> None:
    rig = Rig(C)
    assert not closes(rig.arrive(1.0, token(rig, A, B, intro=4, busy=False)))
    rig.apply(declare(MapSpec("m")))
    assert closes(rig.arrive(2.0, token(rig, A, B, round_=2, intro=4, busy=False)))


def test_c_nothing_is_closed_twice_or_without_cover() -> None:
    rig = Rig(C)
    rig.apply(close(3))
    assert not closes(rig.arrive(1.0, token(rig, A, B, intro=4, floor=3)))
    rig.apply(view({1: 10, 2: 20, 3: 30}, {0: (1, 10, 1), 1: (2, 20, 1), 2: (3, 30, 1), 3: (1, 9, 1)}))
    assert not closes(rig.arrive(2.0, token(rig, A, B, round_=2, intro=9))), "partition 3 has no live owner"


def test_c_one_close_at_a_time_and_the_next_after_it_is_applied() -> None:
    rig = Rig(C)
    (first,) = closes(rig.arrive(1.0, token(rig, A, B, intro=4)))
    assert not closes(rig.arrive(1.1, token(rig, A, B, round_=2, intro=6)))
    rig.applied(1.2, first.record)
    (second,) = closes(rig.take())
    assert second.record.close.epoch == 5 and second.expected == rig.control.position
    rig.applied(1.3, second.record)
    assert not closes(rig.take())


def test_c_after_another_record_the_same_close_is_tried_at_the_new_position() -> None:
    rig = Rig(C)
    (first,) = closes(rig.arrive(1.0, token(rig, A, B, intro=4)))
    rig.ring.close_failed(1.1, first.expected, WrongTailError("wrong tail"))
    assert not closes(rig.take()), "the log has to be applied first"
    rig.applied(1.2, declare(MapSpec("m")))
    (second,) = closes(rig.take())
    assert second.expected == rig.control.position and second.record.close.epoch == 3


def test_c_a_refusal_may_be_told_after_the_log_was_applied() -> None:
    rig = Rig(C)
    (first,) = closes(rig.arrive(1.0, token(rig, A, B, intro=4)))
    rig.applied(1.1, declare(MapSpec("m")))
    assert closes(rig.take())
    rig.ring.close_failed(1.2, first.expected, WrongTailError("wrong tail"))
    assert not closes(rig.take()), "the second one is on its way"


def test_c_a_view_in_between_ends_the_attempt() -> None:
    rig = Rig(C)
    (first,) = closes(rig.arrive(1.0, token(rig, A, B, intro=4)))
    rig.ring.close_failed(1.1, first.expected, WrongTailError("wrong tail"))
    rig.applied(1.2, rig.view(n2=21))
    assert not closes(rig.take())


def test_c_a_view_that_changes_nobody_does_not() -> None:
    rig = Rig(C)
    (first,) = closes(rig.arrive(1.0, token(rig, A, B, intro=4)))
    rig.ring.close_failed(1.1, first.expected, WrongTailError("wrong tail"))
    rig.applied(1.2, rig.view())
    assert closes(rig.take())


def test_c_a_full_storage_is_tried_again_later() -> None:
    rig = Rig(C)
    (first,) = closes(rig.arrive(1.0, token(rig, A, B, intro=4)))
    rig.ring.close_failed(1.1, first.expected, StorageFullError("full"))
    rig.ring.token_received(1.1, TokenReceived(1, 0), A)
    assert not closes(rig.take())
    due = rig.ring.deadline()
    assert due == pytest.approx(1.1 + RingOptions().close_retry)
    rig.ring.time_passed(due)
    assert closes(rig.take())[0].record == first.record


def test_c_a_close_is_learned_only_by_applying_it() -> None:
    rig = Rig(A, nodes=1)
    stamped = rig.stamp(1.0)
    assert closes(rig.take()) and rig.control.closed < stamped
